//! What earlier runs sent of this run's jobs.

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _};
use millrace_client::{Client, Error, Sent};

use crate::jobs::Given;
use crate::state::State;

/// Failures that are looked for at a time.
const LOOKS: usize = 64;

/// Those that were sent, by their places. An id whose input is another one now is an error: skipped in silence it would
/// give the old input's result.
pub fn sent(given: &[Given], state: Option<&State>) -> anyhow::Result<Vec<Option<Sent>>> {
    let one = |Given { job, place }: &Given| {
        let earlier = job.key_id().ok().and_then(|id| state?.get(&id));
        ensure!(
            earlier.is_none_or(|sent| sent.input_sha256 == job.input_sha256()),
            "{place}: job_id {} was sent with another input; give it another job_id, or all of them by --id-prefix",
            job.id()
        );
        Ok(earlier.cloned())
    };
    given.iter().map(one).collect()
}

/// Takes those out that FAILED, whichever message of theirs did: they are sent again, as another attempt.
pub async fn retry_failed(client: &Client, given: &mut [Given], known: &mut [Option<Sent>]) -> anyhow::Result<()> {
    let sent = known.iter().enumerate().filter_map(|(place, sent)| Some((place, sent.clone()?)));
    let sent: Vec<(usize, Sent)> = sent.collect();
    let look = |(place, sent): (usize, Sent)| async move { Ok::<_, Error>((place, client.failure(&sent).await?)) };
    let mut looked = std::pin::pin!(futures::stream::iter(sent).map(look).buffer_unordered(LOOKS));
    while let Some((place, failure)) = looked.try_next().await? {
        if let Some(record) = failure {
            given[place].job.attempt = Some(record.message_id);
            known[place] = None;
        }
    }
    Ok(())
}
