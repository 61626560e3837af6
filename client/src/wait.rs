//! Waits for jobs by their records in S3, with growing pauses.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream};
use millrace_api::ResultRecord;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Trouble};
use crate::send::Sent;

/// Records that are asked for at a time.
const AT_ONCE: usize = 64;
/// However many wait, S3 is asked no more often in a second.
const ASKS_A_SECOND: u32 = 400;

/// How long a result is waited for, and how often it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Given up after this.
    pub timeout: Duration,
    /// First pause; half as long again after each look.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Patience {
    /// With pauses from a quarter of a second to five.
    pub fn of(timeout: Duration) -> Self {
        Self { timeout, first: Duration::from_millis(250), longest: Duration::from_secs(5) }
    }
}

/// What a record says of a job that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// How it ended.
    Ended,
    /// How an earlier attempt ended; this one is still to come.
    NotYet,
    /// How another job of the same id ended: this one's lies beside it.
    Anothers,
}

impl Client {
    /// Waits until a job has ended, well or not. An earlier attempt's failure does not count.
    pub async fn wait(&self, sent: &Sent, patience: Patience) -> Result<ResultRecord, Error> {
        self.wait_in_turn(sent, patience, &Semaphore::new(1)).await
    }

    async fn wait_in_turn(&self, sent: &Sent, patience: Patience, turns: &Semaphore) -> Result<ResultRecord, Error> {
        let until = Instant::now() + patience.timeout;
        let mut pause = patience.first;
        loop {
            let looked = {
                // nobody closes it; without a turn it would be looked for all the same
                let _turn = turns.acquire().await;
                self.look(sent).await
            };
            match looked {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {}
                Err(error) if error.trouble().is_some_and(Trouble::passes) => {}
                Err(error) => return Err(error),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoResult { job_id: sent.job_id.clone(), waited: patience.timeout });
            }
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0).min(left)).await;
            pause = pause.mul_f64(1.5).min(patience.longest);
        }
    }

    /// Waits for many and tells of each, by its place, as soon as it has ended.
    pub fn wait_all(
        &self,
        sent: Vec<Sent>,
        patience: Patience,
    ) -> impl Stream<Item = (usize, Result<ResultRecord, Error>)> {
        let asks = Arc::new(Semaphore::new(AT_ONCE));
        let many = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let longest = patience.longest.max(Duration::from_secs(1) * many / ASKS_A_SECOND);
        let patience = Patience { longest, ..patience };
        let one = |(index, sent): (usize, Sent)| {
            let asks = Arc::clone(&asks);
            async move { (index, self.wait_in_turn(&sent, patience, &asks).await) }
        };
        sent.into_iter().enumerate().map(one).collect::<FuturesUnordered<_>>()
    }

    /// The record of a job that was sent, once it has ended.
    pub async fn look(&self, sent: &Sent) -> Result<Option<ResultRecord>, Error> {
        let Some(record) = self.record_at(&sent.job_id).await? else { return Ok(None) };
        match says(sent, &record, &self.consumer.name.to_string()) {
            Says::Ended => Ok(Some(record)),
            Says::NotYet => Ok(None),
            Says::Anothers => self.record_at(&format!("{}~{}", sent.job_id, sent.message_id)).await,
        }
    }
}

fn says(sent: &Sent, record: &ResultRecord, consumer: &str) -> Says {
    if record.message_id == sent.message_id {
        return Says::Ended;
    }
    let same = record.input_sha256 == sent.input_sha256 && record.consumer == consumer;
    match (same, record.status.is_final()) {
        (true, true) => Says::Ended,
        (true, false) => Says::NotYet,
        (false, _) => Says::Anothers,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_this_jobs_end_counts() {
        let sent = Sent { job_id: "j".into(), message_id: "m".into(), input_sha256: "h".into() };
        let table = [
            ("m", "h", "a/b", "COMPLETED", Says::Ended),
            ("m", "h", "a/b", "FAILED", Says::Ended),
            // refused before its input was read: the hash is that of the body
            ("m", "other", "a/b", "FAILED", Says::Ended),
            // done before, or by a repeat of the message
            ("n", "h", "a/b", "COMPLETED", Says::Ended),
            ("n", "h", "a/b", "EXPIRED", Says::Ended),
            ("n", "h", "a/b", "FAILED", Says::NotYet),
            ("n", "other", "a/b", "COMPLETED", Says::Anothers),
            ("n", "h", "a/c", "COMPLETED", Says::Anothers),
        ];
        for (message_id, hash, consumer, status, wanted) in table {
            let record = serde_json::from_value(json!({
                "job_id": "j", "message_id": message_id, "status": status, "consumer": consumer, "attempt": 1,
                "worker": "w", "model": { "task": "Echo" }, "input_sha256": hash, "form": "envelope",
                "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
                "started_at": "", "finished_at": "",
            }));
            let said = says(&sent, &record.unwrap(), "a/b");
            assert_eq!(said, wanted, "{message_id} {hash} {consumer} {status}");
        }
    }
}
