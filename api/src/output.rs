//! `spec.output`: where results and result records go.

use serde::{Deserialize, Serialize};

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
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.endsWith('.record.json')").message("keyTemplate must not end in .record.json: those keys are the result records")))]
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
