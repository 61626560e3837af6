//! What a worker reports at `/state` and the operator reads.

use serde::{Deserialize, Serialize};

/// A worker's own view of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// Its name (the pod's).
    pub worker: String,
    /// The model is loaded, one real forward passed, and it is not stopping.
    pub ready: bool,
    /// It takes no new jobs.
    pub draining: bool,
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
    /// When the oldest job that it holds was sent, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_sent_at: Option<String>,
    /// What is wrong now; empty when all is well.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// A job that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
