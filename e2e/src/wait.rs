//! Waiting for what must come true in the end.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long anything may take. Far more than it does: it only decides when a failure is called one.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long one look may take: kube's client repeats a request that failed for many minutes.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Looks until the probe succeeds and gives what it found; its error says what is missing yet. Tells its changes.
pub async fn eventually<T>(what: impl Display, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut told = String::new();
    loop {
        let missing = match within(LOOK, probe()).await {
            Ok(found) => {
                eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
                return Ok(found);
            }
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > PATIENCE {
            return Err(anyhow!("{what}: not within {} s: {missing}", PATIENCE.as_secs()));
        }
        if missing != told {
            eprintln!("[{:5.1} s] waiting: {what}: {missing}", started.elapsed().as_secs_f64());
            told = missing;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A call that ends in bounded time.
pub(crate) async fn within<T>(most: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let ended = tokio::time::timeout(most, call).await;
    ended.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", most.as_secs())))
}
