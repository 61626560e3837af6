//! `spec.queue`: where jobs come from and how their messages are held, read and given up.

use serde::{Deserialize, Serialize};

/// The SQS queue that jobs are read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// The queue's URL, as `aws sqs get-queue-url` prints it. Immutable: another queue is another QueueConsumer.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/\S+$")))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self == oldSelf").message("queue.url is immutable: create another QueueConsumer for another queue").reason(Reason::FieldValueForbidden)))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.endsWith('.fifo')").message("FIFO queues are not supported by this version of millrace; use a standard queue").reason(Reason::FieldValueInvalid)))]
    pub url: String,

    /// AWS region of the queue. Default: read from the URL; needed only where the URL does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$")))]
    pub region: Option<String>,

    /// Endpoint of the SQS API: LocalStack, ElasticMQ or a VPC endpoint. Default: the URL's own host where that is not
    /// a public AWS host, else AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/?$")))]
    pub endpoint: Option<String>,

    /// The lease, in seconds: how long a job stays hidden after its worker died. Workers renew it while they work, so
    /// it does not limit how long a job may take.
    #[serde(default = "default_visibility_timeout")]
    #[cfg_attr(feature = "kube", schemars(range(min = 10, max = 3600)))]
    pub visibility_timeout_seconds: i32,

    /// How a message body is read. Auto: a JSON object is JSON, one that begins with `{"` and does not parse is
    /// invalid, anything else is text.
    #[serde(default)]
    pub body_format: BodyFormat,

    /// What becomes of a message whose content can never run, after its FAILED record is written. DeadLetter: sent to
    /// the queue's dead-letter queue with the error as attributes (deleted where the queue has none). Delete: deleted.
    #[serde(default)]
    pub invalid_input: InvalidInputPolicy,

    /// How often a job is tried on a queue without a redrive policy; where there is one, its own maxReceiveCount rules.
    #[serde(default = "default_max_receive_count")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1000)))]
    pub max_receive_count: i32,

    /// When a job that failed is tried again.
    #[serde(default)]
    pub retry: RetrySpec,
}

/// How a message body is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum BodyFormat {
    /// JSON where it is a JSON object, else text.
    #[default]
    Auto,
    /// Always the task's main field, as it is.
    Text,
    /// Always a JSON object; anything else is invalid input.
    Json,
}

/// What becomes of a message that can never run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum InvalidInputPolicy {
    /// To the dead-letter queue, with the error as message attributes.
    #[default]
    DeadLetter,
    /// Deleted; the FAILED record keeps its body.
    Delete,
}

/// Backoff between tries of one job, by message visibility: doubled at each try, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.initialSeconds <= self.maxSeconds").message("retry.initialSeconds must not be more than retry.maxSeconds")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Wait before the second try, in seconds.
    #[serde(default = "default_retry_initial")]
    #[cfg_attr(feature = "kube", schemars(range(min = 0, max = 43200)))]
    pub initial_seconds: i32,

    /// Longest wait between two tries, in seconds.
    #[serde(default = "default_retry_max")]
    #[cfg_attr(feature = "kube", schemars(range(min = 0, max = 43200)))]
    pub max_seconds: i32,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { initial_seconds: default_retry_initial(), max_seconds: default_retry_max() }
    }
}

fn default_visibility_timeout() -> i32 {
    120
}

fn default_max_receive_count() -> i32 {
    5
}

fn default_retry_initial() -> i32 {
    60
}

fn default_retry_max() -> i32 {
    900
}
