//! `spec.model.server.container`: the container of a model server, in a pod's own words.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, VolumeMount};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ImagePullPolicy, Resources};

/// The server's container: a native sidecar named `server`, up before the worker and stopped after it. It has the GPUs of
/// `worker.gpu`; the worker has none then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerContainer {
    /// Its image. Pulled with `worker.imagePullSecrets`.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Always, IfNotPresent or Never. Default: Kubernetes' own rule by tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImagePullPolicy")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Instead of the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,

    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 4096)))]
    pub args: Vec<String>,

    /// Environment. PORT and HOME are set where they are not named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// Environment from ConfigMaps and Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub env_from: Vec<EnvFromSource>,

    /// CPU and memory; GPUs are added from `worker.gpu`.
    #[serde(default)]
    pub resources: Resources,

    /// As in a pod's container, over what is set by default: no root, a read-only root file system, no capabilities.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub security_context: Map<String, Value>,

    /// Where the pod's volumes are mounted, besides /dev/shm, /tmp, and the model cache at /var/cache/millrace: `cache` and
    /// those of `volumes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub volume_mounts: Vec<VolumeMount>,

    /// More volumes of the pod, as a pod has them: a claim with weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::any_objects")]
    pub volumes: Vec<Map<String, Value>>,

    /// As in a pod's container: restarts a server that hangs. Readiness is the worker's to find out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub liveness_probe: Map<String, Value>,

    /// /dev/shm.
    #[serde(default)]
    pub shared_memory: SharedMemory,
}

/// /dev/shm: memory that the server's processes share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedMemory {
    /// Most that it may hold, as a Kubernetes quantity: `8Gi`. It counts against the server's memory limit. Default: as
    /// much as the pod's memory limits, or the node, allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i?)?$"))]
    pub size_limit: Option<String>,
}
