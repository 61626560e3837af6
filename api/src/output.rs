//! `spec.output`: where results and result records go.

use serde::{Deserialize, Serialize};

use crate::SecretKeyRef;

/// The S3 bucket that outputs and result records are put into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// The bucket's name.
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))
    )]
    pub bucket: String,

    /// What every key begins with. Default: `{namespace}/{name}/` of the QueueConsumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 512)))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.startsWith('/')").message("prefix must not begin with '/': S3 would make that a folder without a name")))]
    pub prefix: Option<String>,

    /// An output's key, after the prefix. Fields: {job_id} {message_id} {index} {extension} {name} {date}, the last
    /// being the day (UTC) on which the message was sent.
    #[serde(default = "default_key_template")]
    #[cfg_attr(
        feature = "kube",
        schemars(
            length(min = 1, max = 512),
            regex(pattern = r"^([^{}]|\{(job_id|message_id|index|extension|name|date)\})+$")
        )
    )]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.contains('{job_id}') || self.contains('{message_id}')").message("keyTemplate must contain {job_id} or {message_id}, or jobs would overwrite each other")))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.startsWith('/')").message("keyTemplate must not begin with '/'")))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.endsWith('.record.json') && !self.endsWith('.attempt')").message("keyTemplate must not end in .record.json or .attempt: those keys are the worker's own")))]
    pub key_template: String,

    /// AWS region of the bucket. Default: the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$")))]
    pub region: Option<String>,

    /// Endpoint of the S3 API, for a store other than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/?$")))]
    pub endpoint: Option<String>,

    /// Address the bucket in the path rather than in the host name. Default: true where an endpoint is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,

    /// Whether the store must keep conditional puts (If-None-Match), by which two workers on one job make one record.
    /// Required: a worker on a store without them does not start. BestEffort: it runs, and looks before it puts; two
    /// workers that put in the same moment both succeed then.
    #[serde(default)]
    pub conditional_writes: ConditionalWrites,

    /// Where results are announced when a message names no `reply_to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplySpec>,

    /// How calls to a message's `callback_url` are signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackSpec>,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ConditionalWrites {
    /// Conditional puts must work.
    #[default]
    Required,
    /// They need not; the promise is weaker then.
    BestEffort,
}

/// A queue that results are announced on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplySpec {
    /// The queue's URL, in the same region and at the same endpoint as queue.url.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/\S+$")))]
    pub queue_url: String,

    /// What is sent.
    #[serde(default)]
    pub format: ReplyFormat,
}

/// What an announcement on a queue looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ReplyFormat {
    /// The result record as JSON; where that is larger than a message may be, `{"job_id","status","record_uri"}`.
    #[default]
    Record,
    /// The value, or `{"message":…}` of an error, as body, and attributes `status`, `replyMessageId` and `createdAt`.
    StatusAttributes,
}

/// How callbacks are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct CallbackSpec {
    /// The Secret's key that holds the signing secret. The worker gets it as MILLRACE_CALLBACK_SECRET.
    pub secret_ref: SecretKeyRef,
}

impl CallbackSpec {
    /// The environment variable by which a worker gets the secret.
    pub const VARIABLE: &str = "MILLRACE_CALLBACK_SECRET";
}

impl OutputSpec {
    /// The prefix in use for a consumer.
    pub fn prefix_for(&self, namespace: &str, name: &str) -> String {
        self.prefix.clone().unwrap_or_else(|| format!("{namespace}/{name}/"))
    }

    /// Whether the bucket is addressed in the path.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }
}

fn default_key_template() -> String {
    "{job_id}.{extension}".into()
}
