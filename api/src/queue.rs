//! `spec.queue`: where jobs come from and how their messages are held, read and given up.

use serde::{Deserialize, Serialize};

/// Most bytes of an object that is a job's input, or its message's body.
pub const MAX_OBJECT: usize = 64 << 20;

/// The SQS queue that jobs are read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// The queue's URL, as `aws sqs get-queue-url` prints it; a FIFO queue if it ends in .fifo. Immutable: another queue
    /// is another QueueConsumer.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/\S+$")))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self == oldSelf").message("queue.url is immutable: create another QueueConsumer for another queue").reason(Reason::FieldValueForbidden)))]
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

    /// Where job id, input, route and priority lie in messages of one's own form. Read before the forms that millrace
    /// knows are tried.
    #[serde(default, skip_serializing_if = "MappingSpec::is_empty")]
    pub mapping: MappingSpec,

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

    /// Where a message may point besides what this object names. Empty lists allow nothing: a producer who may send a
    /// message must not be able to make the worker's role read, write or call elsewhere.
    #[serde(default, skip_serializing_if = "AllowSpec::is_empty")]
    pub allow: AllowSpec,
}

/// Where the parts of a job lie in a message: `attribute:NAME` is a message attribute, `/a/b` a JSON pointer into the
/// body (RFC 6901).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct MappingSpec {
    /// The job's id. Default: as the message's form says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 512), regex(pattern = r"^(attribute:[A-Za-z0-9_.-]+|/.*)$")))]
    pub job_id: Option<String>,

    /// The task's input: a text or an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 512), regex(pattern = r"^(attribute:[A-Za-z0-9_.-]+|/.*)$")))]
    pub input: Option<String>,

    /// What kind of job it is; kept in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 512), regex(pattern = r"^(attribute:[A-Za-z0-9_.-]+|/.*)$")))]
    pub route: Option<String>,

    /// An integer; of the jobs that a worker holds, higher ones run first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 512), regex(pattern = r"^(attribute:[A-Za-z0-9_.-]+|/.*)$")))]
    pub priority: Option<String>,
}

impl MappingSpec {
    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where messages may point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct AllowSpec {
    /// Buckets that inputs may be read from: S3 event notifications and bodies that lie in S3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 64), inner(length(min = 3, max = 63))))]
    pub input_buckets: Vec<String>,

    /// Buckets besides output.bucket that a message's `output` may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 64), inner(length(min = 3, max = 63))))]
    pub output_buckets: Vec<String>,

    /// URLs of queues besides output.reply's that a message's `reply_to` may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 64), inner(length(min = 1, max = 512))))]
    pub reply_queues: Vec<String>,

    /// Hosts that a message's `callback_url` may name: `hooks.example.com`, or `*.example.com` for any below it. An
    /// address inside the cluster or a private network is reached only by a host that is listed in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 64), inner(length(min = 1, max = 253))))]
    pub callback_hosts: Vec<String>,
}

impl AllowSpec {
    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
