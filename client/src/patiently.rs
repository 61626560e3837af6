//! Calls that are tried again.

use std::time::Duration;

use crate::error::{Error, Trouble};

/// Wait before the second try; doubled at each.
const PAUSE: Duration = Duration::from_millis(200);

/// Tries a call up to `attempts` times, as long as it meets trouble that passes.
pub(crate) async fn patiently(attempts: u32, call: impl AsyncFn() -> Result<(), Error>) -> Result<(), Error> {
    let mut pause = PAUSE;
    for _ in 1..attempts {
        match call().await {
            Err(error) if error.trouble().is_some_and(Trouble::passes) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    call().await
}
