//! What is known of a job whatever its inputs: who it is, who is told, where its outputs go.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::InvalidInput;

/// Which form a body had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The task's main field.
    Text,
    /// The task's input.
    Object,
    /// Input and job id, with more about the job.
    Envelope,
    /// One of a fan-out's tasks.
    TaskEnvelope,
    /// Of one's own form, read by queue.mapping.
    Mapped,
    /// One object of an S3 event notification.
    S3Event,
    /// A call of a Celery task.
    Celery,
    /// None of them.
    Unknown,
}

impl Form {
    /// The word in a record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Object => "object",
            Self::Envelope => "envelope",
            Self::TaskEnvelope => "task_envelope",
            Self::Mapped => "mapped",
            Self::S3Event => "s3_event",
            Self::Celery => "celery",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a job whatever its body: enough for a record.
#[derive(Debug, Clone)]
pub struct JobHead {
    /// Safe for a key.
    pub id: String,
    /// As the producer wrote it, for whoever sends the message on.
    pub raw_id: String,
    /// The producer chose the id, so another message may bear it too.
    pub id_is_producers: bool,
    /// Which form the body had.
    pub form: Form,
    /// Lower-case hex SHA-256 of the input: of a text as it is, of JSON with its keys in order; so a repeat that differs
    /// only in what is said about the job is the same job. Of the body where that has no form.
    pub input_sha256: String,
    /// The producer's own data.
    pub metadata: Map<String, Value>,
    /// Not worth computing after this.
    pub deadline: Option<Timestamp>,
    /// Not to be begun before this.
    pub not_before: Option<Timestamp>,
    /// What kind of job it is, where the message says so.
    pub route: Option<String>,
    /// Of the jobs that a worker holds, higher ones run first.
    pub priority: i64,
    /// Who is told of its end.
    pub announce: Announce,
    /// Where its outputs go, where that is not where the consumer's go.
    pub placement: Placement,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
}

impl JobHead {
    /// A job of which only its message's id is known, and the hash of the body.
    pub fn new(message_id: &str, body_sha256: String) -> Self {
        Self {
            id: message_id.into(),
            raw_id: message_id.into(),
            id_is_producers: false,
            form: Form::Unknown,
            input_sha256: body_sha256,
            metadata: Map::new(),
            deadline: None,
            not_before: None,
            route: None,
            priority: 0,
            announce: Announce::default(),
            placement: Placement::default(),
            trace: None,
        }
    }
}

/// Who is told of a job's end, besides its record. Only what the consumer allows gets in here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announce {
    /// URL of the queue that the message names.
    pub reply_to: Option<String>,
    /// URL that the message wants to be called.
    pub callback_url: Option<String>,
}

/// Where a message wants its outputs; what it leaves out is the consumer's. The record always lies under the consumer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The bucket.
    pub bucket: Option<String>,
    /// What the key begins with.
    pub prefix: Option<String>,
    /// The key after the prefix, as it is: no template.
    pub key: Option<String>,
}

/// The trace that a message belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits: the span that sent the message; zeros where nobody says which.
    pub parent_id: String,
    /// Whether the sender records it.
    pub sampled: bool,
}

/// An object that a message points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its bucket.
    pub bucket: String,
    /// Its key, decoded.
    pub key: String,
    /// Its version, where the bucket has versions.
    pub version: Option<String>,
    /// Its content's tag, without quotes, where the message tells it: what was put since is another job's.
    pub etag: Option<String>,
    /// Its size in bytes, where the message tells it.
    pub size: Option<u64>,
}

impl ObjectRef {
    /// The error of an object that is read as text, and is none.
    pub fn not_text(&self) -> InvalidInput {
        InvalidInput::body(format!("{self} is not UTF-8 text"))
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}
