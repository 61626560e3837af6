//! The result record: what became of a job, beside its outputs at `{prefix}{job_id}.record.json`. It is the commit:
//! written last, and conditionally.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// As the message says, else the message id; safe for a key.
    pub job_id: String,
    /// SQS's id of the message that this attempt came by.
    pub message_id: String,
    /// How it ended.
    pub status: JobStatus,
    /// `namespace/name` of the QueueConsumer.
    pub consumer: String,
    /// The files, in order.
    #[serde(default)]
    pub outputs: Vec<RecordOutput>,
    /// A JSON result, where the task has one; one entry per input where the job has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RecordError>,
    /// SQS's receive count of the attempt that wrote this.
    pub attempt: u32,
    /// Name of the worker that wrote this.
    pub worker: String,
    /// What computed it.
    pub model: RecordModel,
    /// Lower-case hex SHA-256 of the job's input: of a text as it is, of JSON with its keys in order.
    pub input_sha256: String,
    /// Which form the message had: `text`, `object`, `envelope`, `task_envelope`, `mapped`, `s3_event`, `celery`, or
    /// `unknown` where it had none.
    pub form: String,
    /// What kind of job it is, where the message says so: what queue.mapping.route points at, a Celery task's name, or a
    /// task envelope's `task_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The message body as received; only where the job FAILED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The message's own attributes, as text.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// The trace that the message belongs to (W3C `traceparent`, else AWSTraceHeader): 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// How long each phase took.
    pub timings: Timings,
    /// The seed in use, where the task has one (of the first input, where there are several).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How each input was computed, one entry per input, in the words of jobs and with what they left open (width, steps,
    /// scheduler, …); without the texts, which the input has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Map<String, Value>>,
    /// When a worker began with it, RFC 3339, UTC, milliseconds.
    pub started_at: String,
    /// When this record was made, RFC 3339, UTC, milliseconds.
    pub finished_at: String,
    /// The producer's own data, as it was sent.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// Done; final.
    Completed,
    /// Not done; a redriven message is a new attempt.
    Failed,
    /// Its deadline had passed before it was done; final.
    Expired,
    /// Its producer called it off; final.
    Cancelled,
}

impl JobStatus {
    /// Whether a worker that finds it must not compute the job again.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Failed)
    }
}

/// One file of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOutput {
    /// `s3://bucket/key`.
    pub uri: String,
    /// As the object's Content-Type.
    pub content_type: String,
    /// Its size.
    pub bytes: u64,
    /// Lower-case hex SHA-256 of its content.
    pub sha256: String,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordError {
    /// `InvalidInput`, `JobIdReused`, `ModelError`, …
    pub code: String,
    /// What was wrong and what is accepted.
    pub message: String,
    /// The producer's field that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// What computed a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordModel {
    /// The task's name.
    pub task: String,
    /// Where the weights came from; empty for a task without.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Which version of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// How long each phase took, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From sent to received.
    pub queued_seconds: f64,
    /// From received to the model's start: decoding and waiting for a batch.
    pub waited_seconds: f64,
    /// In the model.
    pub inference_seconds: f64,
    /// Putting the outputs.
    pub upload_seconds: f64,
    /// From sent to this record.
    pub total_seconds: f64,
}
