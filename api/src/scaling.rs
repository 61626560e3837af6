//! `spec.scaling`: how many workers, and by which rule.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many workers, and by which rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("scaling.minReplicas must not be more than scaling.maxReplicas"))]
#[cfg_attr(test, x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ScalingSpec {
    /// Fewest workers; 0 lets an idle queue hold no GPU.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,

    /// Most workers.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,

    /// The rule: exactly one of its fields.
    #[serde(default)]
    pub target: ScalingTarget,

    /// How long the queue must be empty and every worker idle before the last worker goes.
    #[serde(default = "default_scale_to_zero")]
    #[schemars(range(min = 60, max = 86400))]
    pub scale_to_zero_after_seconds: i32,

    /// How long fewer workers must have been enough before there are fewer.
    #[serde(default = "default_stabilization")]
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_stabilization_seconds: i32,
}

impl Default for ScalingSpec {
    fn default() -> Self {
        Self {
            min_replicas: 0,
            max_replicas: default_max(),
            target: ScalingTarget::default(),
            scale_to_zero_after_seconds: default_scale_to_zero(),
            scale_down_stabilization_seconds: default_stabilization(),
        }
    }
}

/// The rule: exactly one of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.queueDelaySeconds) ? 1 : 0) + (has(self.messagesPerReplica) ? 1 : 0) == 1").message("exactly one of queueDelaySeconds, messagesPerReplica must be set in scaling.target"))]
#[cfg_attr(test, x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ScalingTarget {
    /// The oldest waiting message should start within this many seconds, by the service time that workers report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub queue_delay_seconds: Option<i32>,

    /// One worker for this many messages, waiting and in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_replica: Option<i32>,
}

impl Default for ScalingTarget {
    fn default() -> Self {
        Self { queue_delay_seconds: Some(60), messages_per_replica: None }
    }
}

fn default_max() -> i32 {
    10
}

fn default_scale_to_zero() -> i32 {
    300
}

fn default_stabilization() -> i32 {
    60
}
