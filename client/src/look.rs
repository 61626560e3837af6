//! What its record says of a job that was sent.

use jiff::Timestamp;
use millrace_api::{JobStatus, ResultRecord};

use crate::client::Client;
use crate::error::Error;
use crate::record::Found;
use crate::send::Sent;

/// What is known of a job that was sent.
#[derive(Debug)]
pub(crate) enum Look {
    /// How it ended.
    Ended(Box<ResultRecord>),
    /// How another message of the same job failed: an earlier one, or a later one that was redriven or sent twice.
    Failed(Box<ResultRecord>),
    /// Nothing yet.
    Nothing,
}

/// What a record says of a job that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// How it ended.
    Ended,
    /// How another message of the same job failed.
    Failed,
    /// How the attempt failed that this one repeats.
    Repeated,
    /// How another job of the same id ended: this one's lies beside it.
    Anothers,
}

impl Client {
    /// The record of a job that was sent, once it has ended. A failure that another message of it met counts where it was
    /// recorded after this one was sent.
    pub async fn look(&self, sent: &Sent) -> Result<Option<ResultRecord>, Error> {
        Ok(if let Look::Ended(record) = self.look_closely(sent).await? { Some(*record) } else { None })
    }

    /// How a job that was sent has failed, whichever of its messages met that, unless it was sent to repeat just this.
    pub async fn failure(&self, sent: &Sent) -> Result<Option<ResultRecord>, Error> {
        Ok(match self.look_closely(sent).await? {
            Look::Ended(record) | Look::Failed(record) => Some(*record).filter(|r| r.status == JobStatus::Failed),
            Look::Nothing => None,
        })
    }

    pub(crate) async fn look_closely(&self, sent: &Sent) -> Result<Look, Error> {
        let Some(Found { record, put_at }) = self.found_at(&sent.job_id).await? else { return Ok(Look::Nothing) };
        Ok(match says(sent, &record, put_at, &self.consumer.name.to_string()) {
            Says::Ended => Look::Ended(Box::new(record)),
            Says::Failed => Look::Failed(Box::new(record)),
            Says::Repeated => Look::Nothing,
            Says::Anothers => {
                let beside = self.record_at(&format!("{}~{}", sent.job_id, sent.message_id)).await?;
                beside.map_or(Look::Nothing, |record| Look::Ended(Box::new(record)))
            }
        })
    }
}

fn says(sent: &Sent, record: &ResultRecord, put_at: Option<Timestamp>, consumer: &str) -> Says {
    if record.message_id == sent.message_id {
        return Says::Ended;
    }
    if record.input_sha256 != sent.input_sha256 || record.consumer != consumer {
        return Says::Anothers;
    }
    if record.status.is_final() {
        return Says::Ended;
    }
    if sent.attempt.as_ref() == Some(&record.message_id) {
        return Says::Repeated;
    }
    // S3 tells whole seconds
    let later = sent.sent_at.zip(put_at).is_some_and(|(sent, put)| put.as_second() >= sent.as_second());
    if later { Says::Ended } else { Says::Failed }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_this_jobs_end_counts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let sent = Sent {
            job_id: "j".into(),
            message_id: "m".into(),
            input_sha256: "h".into(),
            sent_at: Some(at(100)),
            attempt: Some("repeated".into()),
        };
        let table = [
            ("m", "h", "a/b", "COMPLETED", 0, Says::Ended),
            ("m", "h", "a/b", "FAILED", 0, Says::Ended),
            // refused before its input was read: the hash is that of the body
            ("m", "other", "a/b", "FAILED", 0, Says::Ended),
            // done before, or by a repeat of the message
            ("n", "h", "a/b", "COMPLETED", 0, Says::Ended),
            ("n", "h", "a/b", "EXPIRED", 0, Says::Ended),
            ("n", "h", "a/b", "FAILED", 99, Says::Failed),
            // redriven, or sent twice
            ("n", "h", "a/b", "FAILED", 100, Says::Ended),
            // S3's clock may be ahead of ours
            ("repeated", "h", "a/b", "FAILED", 101, Says::Repeated),
            ("n", "other", "a/b", "COMPLETED", 101, Says::Anothers),
            ("n", "h", "a/c", "COMPLETED", 101, Says::Anothers),
        ];
        for (message_id, hash, consumer, status, put_at, wanted) in table {
            let record = serde_json::from_value(json!({
                "job_id": "j", "message_id": message_id, "status": status, "consumer": consumer, "attempt": 1,
                "worker": "w", "model": { "task": "Echo" }, "input_sha256": hash, "form": "envelope",
                "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
                "started_at": "", "finished_at": "",
            }));
            let said = says(&sent, &record.unwrap(), Some(at(put_at)), "a/b");
            assert_eq!(said, wanted, "{message_id} {hash} {consumer} {status} {put_at}");
        }
    }
}
