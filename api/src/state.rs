//! What a worker reports at `/state` and the operator reads.

use serde::{Deserialize, Serialize};

/// A worker's own view of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// Its name (the pod's).
    pub worker: String,
    /// The model is loaded, one real forward passed, and it is not stopping.
    pub ready: bool,
    /// It takes no new jobs: it is stopping, or the operator asked it to drain.
    pub draining: bool,
    /// What it is about, in one word.
    #[serde(default)]
    pub activity: Activity,
    /// How many jobs it can hold at a time.
    pub capacity: u32,
    /// How many it holds.
    pub busy: u32,
    /// The jobs that it holds.
    #[serde(default)]
    pub jobs: Vec<JobState>,
    /// Jobs that ended COMPLETED or EXPIRED since it started.
    pub completed: u64,
    /// Jobs that ended FAILED since it started.
    pub failed: u64,
    /// Wall time that a job held a slot, over the last jobs; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_seconds: Option<ServiceSeconds>,
    /// Polls of the queue under way: each may still bring messages, also to a worker that drains.
    #[serde(default)]
    pub receiving: u32,
    /// The last receive that brought a message which nobody had received before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received: Option<Received>,
    /// Since when receives have come back empty while slots were free, RFC 3339; none once one brings a message. On a
    /// FIFO queue whose groups are all taken this holds however many messages wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_since: Option<String>,
    /// Attempts that the model failed, one after another, with none that ended well in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// When the oldest job that it holds was sent, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_sent_at: Option<String>,
    /// What is wrong now; empty when all is well.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What a worker is about, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// The model is not ready yet.
    #[default]
    Starting,
    /// It holds no job and may receive one.
    Idle,
    /// It holds jobs.
    Busy,
    /// It takes no new jobs, and holds some or may still receive some from a poll under way.
    Draining,
    /// It takes no new jobs and has none: it can go without anybody noticing.
    Drained,
}

impl Activity {
    /// The word, as in JSON and in `/state?unless=`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Idle => "Idle",
            Self::Busy => "Busy",
            Self::Draining => "Draining",
            Self::Drained => "Drained",
        }
    }
}

/// A receive that brought messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// When it ended, RFC 3339.
    pub at: String,
    /// When the oldest of its messages was sent, RFC 3339. SQS gives older messages first, more or less, so what still
    /// waits is hardly older.
    pub sent_at: String,
}

/// Attempts that failed one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// How many.
    pub attempts: u64,
    /// When the first of them failed, RFC 3339.
    pub since: String,
    /// The last one's error code, as in its record.
    pub code: String,
    /// The last one's error.
    pub message: String,
}

/// A job that a worker holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// The job's id.
    pub job_id: String,
    /// SQS's message id.
    pub message_id: String,
    /// When it was received, RFC 3339.
    pub started_at: String,
    /// Until when SQS hides it, unless renewed, RFC 3339.
    pub lease_expires_at: String,
    /// When it is ended at the latest: its deadline, or twelve hours after its receive, as SQS hides nothing for longer.
    #[serde(default)]
    pub must_end_at: String,
    /// When it was sent, RFC 3339.
    pub sent_at: String,
    /// How far it is, where its task is computed in steps and has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Steps that are done, of all of its inputs.
    pub step: u32,
    /// Of so many.
    pub steps: u32,
}

/// Wall time that a job holds a slot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ServiceSeconds {
    /// Mean of the last jobs, in seconds.
    pub mean: f64,
    /// 95th percentile of the last jobs, in seconds.
    pub p95: f64,
}

/// Something that is wrong: which, in one CamelCase word, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `ModelFileMissing`, `BucketNotFound`, `QueueAccessDenied`, …
    pub reason: String,
    /// The thing and the fix.
    pub message: String,
    /// Since when, RFC 3339.
    pub since: String,
}
