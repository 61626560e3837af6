//! worker.yaml: what a worker is started with. The operator writes it from a QueueConsumer; by hand it is the same.

use serde::{Deserialize, Serialize};

use crate::{ModelSpec, OutputSpec, QueueSpec};

/// The worker's whole configuration. Credentials are never part of it: they come from the AWS SDK's default chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerConfig {
    /// Whose worker this is; in records, metrics, and the default output prefix.
    pub consumer: ConsumerRef,
    /// As in the QueueConsumer.
    pub queue: QueueSpec,
    /// As in the QueueConsumer.
    pub model: ModelSpec,
    /// As in the QueueConsumer.
    pub output: OutputSpec,
    /// Where probes, state and metrics are served.
    #[serde(default)]
    pub http: HttpConfig,
    /// How the worker stops.
    #[serde(default)]
    pub shutdown: ShutdownConfig,
    /// Who may tell it to drain; nobody where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainConfig>,
}

/// Who may tell a worker to drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainConfig {
    /// The operator's public key: the 32 bytes of an Ed25519 key in base64. A worker that finds a signature wrong reads
    /// it again, so a new key needs no new pods.
    pub public_key: String,
}

/// A QueueConsumer by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ConsumerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where probes, state and metrics are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpConfig {
    /// TCP port, on all addresses.
    pub port: u16,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { port: 8080 }
    }
}

/// How the worker stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownConfig {
    /// Time for running jobs after SIGTERM, in seconds; what is unfinished then goes back to the queue.
    pub grace_period_seconds: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace_period_seconds: 585 }
    }
}
