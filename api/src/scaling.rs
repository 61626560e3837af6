//! `spec.scaling`: how many workers, and by which rule.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many workers, and by which rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("scaling.minReplicas must not be more than scaling.maxReplicas"))]
#[cfg_attr(test, x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ScalingSpec {
    /// Whether the decision is carried out.
    #[serde(default)]
    pub mode: ScalingMode,

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

    /// How long fewer workers must have been enough before there are fewer. By default 60, and with queueDelaySeconds as
    /// long as a start takes, from 20 to 60: an idle worker then costs no more than its next start would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_stabilization_seconds: Option<i32>,

    /// How long a pod that waits for a node counts as on its way. After that it counts for nothing, and no more pods are
    /// asked for than can be had.
    #[serde(default = "default_scheduling_timeout")]
    #[schemars(range(min = 30, max = 86400))]
    pub scheduling_timeout_seconds: i32,

    /// Times with more than minReplicas, for known peaks. Where several hold, the highest counts; maxReplicas bounds all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub schedules: Vec<ScalingSchedule>,

    /// Where a GPU budget is short, a consumer of higher priority gets what it needs before one of lower priority.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,

    /// Where a GPU budget is short, consumers of one priority share it in proportion to their weights.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: i32,
}

impl Default for ScalingSpec {
    fn default() -> Self {
        Self {
            mode: ScalingMode::Active,
            min_replicas: 0,
            max_replicas: default_max(),
            target: ScalingTarget::default(),
            scale_to_zero_after_seconds: default_scale_to_zero(),
            scale_down_stabilization_seconds: None,
            scheduling_timeout_seconds: default_scheduling_timeout(),
            schedules: Vec::new(),
            priority: 0,
            weight: default_weight(),
        }
    }
}

/// Whether the decision is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ScalingMode {
    /// It is.
    #[default]
    Active,
    /// It is made and reported, and the worker count is left alone.
    DryRun,
    /// None is made: the worker count is left alone.
    Paused,
}

/// A time with more workers than usual: from each `start` to the next `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingSchedule {
    /// The time zone of `start` and `end`, by its IANA name: `Europe/Berlin`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,

    /// When it begins, as cron has it: minute, hour, day of month, month, day of week. `0 8 * * 1-5` is 8:00 from Monday
    /// to Friday.
    #[schemars(length(min = 1, max = 128))]
    pub start: String,

    /// When it ends, as cron has it.
    #[schemars(length(min = 1, max = 128))]
    pub end: String,

    /// Fewest workers in that time.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
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

fn default_scheduling_timeout() -> i32 {
    600
}

fn default_weight() -> i32 {
    1
}

fn default_time_zone() -> String {
    "Etc/UTC".into()
}
