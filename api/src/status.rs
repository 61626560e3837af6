//! `status`: what the operator saw and decided.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw and decided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueConsumerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Worker pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Worker pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Worker pods that the last decision asked for.
    #[serde(default)]
    pub desired_replicas: i32,

    /// The queue's counts, as SQS reports them (approximate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueDepth>,

    /// What was measured, to two digits, for the decisions after a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimates: Option<Estimates>,

    /// The objects that the operator made of the spec, as it left them, in a hash: after a restart of the operator it
    /// leaves alone what is still like that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_hash: Option<String>,

    /// The last change of the worker count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale: Option<LastScale>,

    /// Ready, QueueAccessible, WorkersAvailable and ScalingActive; Reconciling, Stalled, Degraded, BudgetLimited and
    /// QueueShared while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The queue's counts, as SQS reports them (approximate).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueDepth {
    /// Messages that can be received now.
    pub visible: i64,
    /// Messages that workers hold.
    pub in_flight: i64,
    /// Messages that become visible later.
    pub delayed: i64,
    /// For about how many seconds the oldest message that can be received has waited, as far as workers tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_message_age_seconds: Option<i64>,
}

/// What was measured. Each is missing until there was something to measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Estimates {
    /// Wall time that a job holds a slot, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_seconds: Option<f64>,
    /// From when a pod is asked for until its worker is ready, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_seconds: Option<f64>,
    /// Messages that arrive in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_minute: Option<f64>,
    /// From when the queue fell silent until the next message came, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_seconds: Option<f64>,
}

/// The last change of the worker count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct LastScale {
    /// When it was decided.
    pub time: Time,
    /// Workers before.
    pub from: i32,
    /// Workers after.
    pub to: i32,
    /// The rule, in one CamelCase word.
    pub reason: String,
    /// The rule with its inputs.
    pub message: String,
}

/// Types of conditions.
pub mod condition {
    /// The spec is good, the queue can be read, and workers can be had. True at zero replicas.
    pub const READY: &str = "Ready";
    /// The operator can read the queue's attributes.
    pub const QUEUE_ACCESSIBLE: &str = "QueueAccessible";
    /// The workers that were asked for are there, or on their way without trouble.
    pub const WORKERS_AVAILABLE: &str = "WorkersAvailable";
    /// The worker count follows the queue.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// Only while true: the workers are being changed (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// Only while true: nothing will get better without a change of the spec or its surroundings (kstatus).
    pub const STALLED: &str = "Stalled";
    /// Only while true: workers crash, fail every job, or report a problem.
    pub const DEGRADED: &str = "Degraded";
    /// Only while true: a GPU budget keeps the consumer from the workers that its queue needs.
    pub const BUDGET_LIMITED: &str = "BudgetLimited";
    /// Only while true: another QueueConsumer reads the same queue.
    pub const QUEUE_SHARED: &str = "QueueShared";
}

/// Reasons of conditions that the operator gives itself; others are Kubernetes' or a worker's own words.
pub mod reason {
    /// All is well.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// No worker is wanted now.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// Workers are starting.
    pub const STARTING: &str = "WorkersStarting";
    /// A field has a value that cannot work.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// SQS says that there is no such queue.
    pub const QUEUE_NOT_FOUND: &str = "QueueNotFound";
    /// SQS refuses the operator.
    pub const QUEUE_ACCESS_DENIED: &str = "QueueAccessDenied";
    /// SQS cannot be reached.
    pub const QUEUE_UNREACHABLE: &str = "QueueUnreachable";
    /// The operator has no usable AWS credentials.
    pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
    /// SQS asks for fewer calls.
    pub const QUEUE_THROTTLED: &str = "QueueThrottled";
    /// The queue was not read yet.
    pub const NOT_READ_YET: &str = "NotReadYet";
    /// Kubernetes refused one of the objects.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// `scaling.mode` is Paused.
    pub const PAUSED: &str = "Paused";
    /// `scaling.mode` is DryRun.
    pub const DRY_RUN: &str = "DryRun";
    /// Every job fails.
    pub const JOBS_FAILING: &str = "JobsFailing";
    /// A GPU budget leaves no more workers.
    pub const GPU_BUDGET: &str = "GpuBudget";
    /// Another QueueConsumer reads the same queue.
    pub const SAME_QUEUE: &str = "SameQueue";
    /// The cluster leaves image volumes out of pods.
    pub const IMAGE_VOLUMES_UNSUPPORTED: &str = "ImageVolumesUnsupported";
    /// An object of the wanted name belongs to somebody else.
    pub const NAME_TAKEN: &str = "NameTaken";
}
