//! What earlier runs sent of this run's jobs.

use anyhow::ensure;
use futures::StreamExt as _;
use millrace_api::JobStatus;
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

/// The same without those that FAILED.
pub async fn unless_failed(client: &Client, known: Vec<Option<Sent>>) -> anyhow::Result<Vec<Option<Sent>>> {
    let look = |sent: Option<Sent>| async move {
        let Some(sent) = sent else { return Ok(None) };
        let failed = client.look(&sent).await?.is_some_and(|record| record.status == JobStatus::Failed);
        Ok::<_, Error>((!failed).then_some(sent))
    };
    let looked: Vec<Result<Option<Sent>, Error>> =
        futures::stream::iter(known).map(look).buffered(LOOKS).collect().await;
    Ok(looked.into_iter().collect::<Result<_, _>>()?)
}
