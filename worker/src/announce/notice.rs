//! What is told of a job, whoever it is told to.

use jiff::Timestamp;
use millrace_api::{JobStatus, RecordError, ReplyFormat, ResultRecord};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::message::Message;
use crate::time::rfc3339;

/// Longest message group and deduplication id that SQS takes.
const MAX_FIFO_ID: usize = 128;

/// One thing to tell of one job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Notice<'a> {
    /// A worker has it.
    Pending {
        /// The job's id.
        job_id: &'a str,
        /// When it was received.
        since: Timestamp,
    },
    /// Its record is written.
    Result {
        /// The record.
        record: &'a ResultRecord,
        /// Where it lies.
        uri: &'a str,
    },
}

impl Notice<'_> {
    pub(super) fn job_id(&self) -> &str {
        match self {
            Self::Pending { job_id, .. } => job_id,
            Self::Result { record, .. } => &record.job_id,
        }
    }

    /// The status as records and attributes write it.
    pub(super) fn status(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "PENDING",
            Self::Result { record, .. } => match record.status {
                JobStatus::Completed => "COMPLETED",
                JobStatus::Failed => "FAILED",
                JobStatus::Expired => "EXPIRED",
                JobStatus::Cancelled => "CANCELLED",
            },
        }
    }

    /// When it came to that; the same at every repeat.
    pub(super) fn created_at(&self) -> String {
        match self {
            Self::Pending { since, .. } => rfc3339(*since),
            Self::Result { record, .. } => record.finished_at.clone(),
        }
    }

    /// All of it, as JSON.
    pub(super) fn body(&self, format: ReplyFormat) -> String {
        match (self, format) {
            (Self::Pending { job_id, .. }, ReplyFormat::Record) => {
                text(&json!({ "job_id": job_id, "status": self.status() }))
            }
            (Self::Pending { .. }, ReplyFormat::StatusAttributes) => text(&json!({ "message": "a worker has it" })),
            (Self::Result { record, .. }, ReplyFormat::Record) => text(record),
            (Self::Result { record, .. }, ReplyFormat::StatusAttributes) => match (&record.value, &record.error) {
                (Some(value), _) => text(value),
                (None, Some(error)) => text(&json!({ "message": said(error) })),
                (None, None) => match record.status {
                    JobStatus::Expired => text(&json!({ "message": "its deadline had passed" })),
                    JobStatus::Cancelled => text(&json!({ "message": "its producer called it off" })),
                    // files rather than a value
                    JobStatus::Completed | JobStatus::Failed => self.pointer(),
                },
            },
        }
    }

    /// Where to read all of it, for those to whom the body is too large.
    pub(super) fn pointer(&self) -> String {
        match self {
            Self::Pending { .. } => self.body(ReplyFormat::Record),
            Self::Result { record, uri } => {
                text(&json!({ "job_id": record.job_id, "status": self.status(), "record_uri": uri }))
            }
        }
    }

    /// The same for every repeat of this notice and for no other: what FIFO queues and idempotent callees go by.
    pub(super) fn key(&self, message: &Message) -> String {
        let mut digest = Sha256::new();
        for part in [self.job_id(), &message.id, &self.body(ReplyFormat::Record)] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        format!("{}-{}", self.status(), hex::encode(digest.finalize()))
    }

    /// The message group on a FIFO queue: the job's own where it has one, so that its order is kept, else the job.
    pub(super) fn group(&self, message: &Message) -> String {
        let group = message.group.as_deref().unwrap_or(self.job_id());
        if group.len() > MAX_FIFO_ID { hex::encode(Sha256::digest(group.as_bytes())) } else { group.to_owned() }
    }
}

/// An error in one line, for those who get no more of it.
fn said(error: &RecordError) -> String {
    let RecordError { message, field, .. } = error;
    field.as_ref().map_or_else(|| message.clone(), |field| format!("{field}: {message}"))
}

/// The trace of a message, for whoever is told of it: W3C's two headers by name.
pub(super) fn trace(message: &Message) -> impl Iterator<Item = (&'static str, &str)> {
    ["traceparent", "tracestate"].into_iter().filter_map(|name| Some((name, message.attributes.get(name)?.as_str())))
}

/// JSON that SQS takes: it refuses two characters that JSON may hold as they are, and that stand in texts only.
fn text(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    if text.contains(['\u{FFFE}', '\u{FFFF}']) {
        return text.replace('\u{FFFE}', "\\ufffe").replace('\u{FFFF}', "\\uffff");
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::announce::tests::{message, record};

    #[test]
    fn each_status_has_its_body() {
        let failed = json!({ "code": "ModelError", "message": "Invalid request in message.Body:-1" });
        let invalid = json!({ "code": "InvalidInput", "field": "steps", "message": "must be an integer" });
        let table = [
            (json!({ "value": { "arg": 8, "value": 13 } }), "COMPLETED", json!({ "arg": 8, "value": 13 })),
            (json!({ "value": 13 }), "COMPLETED", json!(13)),
            (
                json!({}),
                "COMPLETED",
                json!({ "job_id": "job-7", "status": "COMPLETED", "record_uri": "s3://b/job-7.record.json" }),
            ),
            (
                json!({ "status": "FAILED", "error": failed }),
                "FAILED",
                json!({ "message": "Invalid request in message.Body:-1" }),
            ),
            (
                json!({ "status": "FAILED", "error": invalid }),
                "FAILED",
                json!({ "message": "steps: must be an integer" }),
            ),
            (json!({ "status": "EXPIRED" }), "EXPIRED", json!({ "message": "its deadline had passed" })),
            (json!({ "status": "CANCELLED" }), "CANCELLED", json!({ "message": "its producer called it off" })),
        ];
        for (changes, status, wanted) in table {
            let record = record(&changes);
            let notice = Notice::Result { record: &record, uri: "s3://b/job-7.record.json" };
            assert_eq!(notice.status(), status);
            let body: Value = serde_json::from_str(&notice.body(ReplyFormat::StatusAttributes)).unwrap();
            assert_eq!(body, wanted);
            let whole: ResultRecord = serde_json::from_str(&notice.body(ReplyFormat::Record)).unwrap();
            assert_eq!((whole, notice.created_at()), (record.clone(), record.finished_at.clone()));
        }
        let pending = Notice::Pending { job_id: "job-7", since: Timestamp::UNIX_EPOCH };
        assert_eq!(pending.body(ReplyFormat::Record), r#"{"job_id":"job-7","status":"PENDING"}"#);
        assert_eq!(pending.created_at(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn characters_that_sqs_refuses_are_escaped() {
        let record = record(&json!({ "value": "a\u{FFFE}\u{1}\u{FFFF}" }));
        let body = Notice::Result { record: &record, uri: "" }.body(ReplyFormat::StatusAttributes);
        assert_eq!(body, r#""a\ufffe\u0001\uffff""#);
        assert_eq!(serde_json::from_str::<String>(&body).unwrap(), "a\u{FFFE}\u{1}\u{FFFF}");
    }

    #[test]
    fn a_repeat_has_the_same_key_and_nothing_else_has_it() {
        let (one, other) = (record(&json!({})), record(&json!({ "status": "FAILED" })));
        let key = |record, id: &str| Notice::Result { record, uri: "u" }.key(&message(id, &[]));
        assert_eq!(key(&one, "m"), key(&one, "m"));
        assert_ne!(key(&one, "m"), key(&other, "m"));
        assert_ne!(key(&one, "m"), key(&one, "n"));
        assert!(key(&one, "m").starts_with("COMPLETED-") && key(&one, "m").len() <= MAX_FIFO_ID);
    }

    #[test]
    fn a_group_is_the_messages_own_or_the_job() {
        let record = record(&json!({}));
        let notice = Notice::Result { record: &record, uri: "u" };
        let mut message = message("m", &[]);
        assert_eq!(notice.group(&message), "job-7");
        message.group = Some("lane 3".into());
        assert_eq!(notice.group(&message), "lane 3");
        let long = "x".repeat(200);
        let pending = Notice::Pending { job_id: &long, since: Timestamp::UNIX_EPOCH };
        message.group = None;
        assert_eq!(pending.group(&message).len(), 64);
    }
}
