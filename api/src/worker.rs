//! `spec.worker`: the pods that do the work.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ImagePullPolicy;

/// The pods that do the work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSpec {
    /// GPUs of each worker.
    #[serde(default)]
    pub gpu: GpuSpec,

    /// CPU and memory of the worker container; GPUs are added from `gpu`.
    #[serde(default)]
    pub resources: Resources,

    /// Worker image. Default: the operator's, for CUDA where the model runs on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Always, IfNotPresent or Never. Default: Kubernetes' own rule by tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImagePullPolicy")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets of the namespace to pull the image with, and the one of `model.source.image`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// ServiceAccount to run under. Default: one is made, named after the QueueConsumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Annotations of the ServiceAccount that is made: `eks.amazonaws.com/role-arn`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::string_map")]
    pub service_account_annotations: BTreeMap<String, String>,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::string_map")]
    pub node_selector: BTreeMap<String, String>,

    /// Tolerations, besides the one for the taint named as the GPU resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// Affinity, as in a pod.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub affinity: Map<String, Value>,

    /// Environment of the worker container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// Environment of the worker container, from ConfigMaps and Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub env_from: Vec<EnvFromSource>,

    /// More labels of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::string_map")]
    pub pod_labels: BTreeMap<String, String>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::string_map")]
    pub pod_annotations: BTreeMap<String, String>,

    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// RuntimeClass of the pods: `nvidia` on some clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,

    /// How a changed model, image or resource reaches the pods.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,

    /// Time that a pod gets to finish its jobs when it must go, in seconds. A job that does not fit goes back to the
    /// queue.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 30, max = 43200))]
    pub termination_grace_period_seconds: i64,
}

/// GPUs of each worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuSpec {
    /// How many; 0 makes CPU workers.
    #[serde(default = "default_gpu_count")]
    #[schemars(range(min = 0, max = 16))]
    pub count: i32,

    /// The extended resource that a GPU is asked for by. A taint of that name is tolerated.
    #[serde(default = "default_gpu_resource")]
    #[schemars(length(min = 3, max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub resource_name: String,
}

impl Default for GpuSpec {
    fn default() -> Self {
        Self { count: default_gpu_count(), resource_name: default_gpu_resource() }
    }
}

/// CPU, memory and other amounts of the worker container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub requests: BTreeMap<String, IntOrString>,

    /// What the container may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub limits: BTreeMap<String, IntOrString>,
}

impl Resources {
    /// Amounts as a pod has them: `2` is `"2"`.
    pub fn quantities(amounts: &BTreeMap<String, IntOrString>) -> BTreeMap<String, Quantity> {
        let quantity = |amount: &IntOrString| match amount {
            IntOrString::Int(n) => Quantity(n.to_string()),
            IntOrString::String(text) => Quantity(text.clone()),
        };
        amounts.iter().map(|(name, amount)| (name.clone(), quantity(amount))).collect()
    }
}

/// How a changed model, image or resource reaches the pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!((self.maxSurge == 0 || self.maxSurge == '0%') && (self.maxUnavailable == 0 || self.maxUnavailable == '0%'))").message("updateStrategy.maxSurge and maxUnavailable must not both be 0: no pod could ever be replaced"))]
#[cfg_attr(test, x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Pods above the wanted count during a rollout, a count or a percentage. 0, as a spare GPU is rarely free.
    #[serde(default = "default_max_surge")]
    #[schemars(schema_with = "crate::schema::int_or_percent")]
    pub max_surge: IntOrString,

    /// Pods below the wanted count during a rollout, a count or a percentage.
    #[serde(default = "default_max_unavailable")]
    #[schemars(schema_with = "crate::schema::int_or_percent")]
    pub max_unavailable: IntOrString,
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self { max_surge: default_max_surge(), max_unavailable: default_max_unavailable() }
    }
}

fn default_grace() -> i64 {
    600
}

fn default_gpu_count() -> i32 {
    1
}

fn default_gpu_resource() -> String {
    "nvidia.com/gpu".into()
}

fn default_max_surge() -> IntOrString {
    IntOrString::Int(0)
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::String("25%".into())
}
