//! `spec.model`: what is computed, from which weights, on which device.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ServerSpec;

/// The model that a worker loads and what it does with a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.task in ['Echo', 'Http', 'Custom'] || has(self.source)").message("model.source is required for this task: set one of huggingFace, s3, persistentVolumeClaim, image")))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.task != 'Echo' || !has(self.source)").message("model.source must not be set: task Echo loads no model")))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.task != 'Http' || !has(self.source)").message("model.source must not be set: with task Http the server loads its model itself, so name it in model.server.container (args, env, volumes)")))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("(self.task == 'Http') == has(self.server)").message("model.server must be set exactly where model.task is Http")))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("self.task != 'Http' || !has(self.batch) || !has(self.batch.maxSize) || self.batch.maxSize == 1").message("model.batch.maxSize must not be set: with task Http the server makes its own batches of up to model.server.concurrency requests")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// What the workers compute.
    pub task: Task,

    /// Where the weights come from: exactly one of its fields. Not for Echo and Http; for Custom where the
    /// engine wants a folder of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ModelSource>,

    /// Where the model runs. Auto: the GPU when one is asked for, else the CPU; a GPU that was asked for and cannot be
    /// used is an error, never a silent fallback.
    #[serde(default)]
    pub device: Device,

    /// Number format of the weights and activations. Auto: F32 on a CPU, F16 on a GPU.
    #[serde(default)]
    pub precision: Precision,

    /// Defaults that a job may override, in the job's own words: `steps: 4`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "kube", schemars(schema_with = "crate::schema::any_object"))]
    pub parameters: Map<String, Value>,

    /// How jobs are grouped for the model.
    #[serde(default)]
    pub batch: BatchSpec,

    /// Where downloaded weights are kept.
    #[serde(default)]
    pub cache: CacheSpec,

    /// The model server, for task Http alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSpec>,
}

impl ModelSpec {
    /// How many jobs a worker runs at a time.
    pub fn slots(&self) -> usize {
        let slots = self.server.as_ref().map_or(self.batch.max_size, |server| server.concurrency);
        usize::try_from(slots).unwrap_or(1).max(1)
    }
}

/// What a worker computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Task {
    /// A prompt gives PNG pictures, by an SDXL-family diffusers pipeline.
    TextToImage,
    /// A text gives a vector, by a model in the layout of sentence-transformers.
    TextEmbedding,
    /// A prompt or a conversation gives the text that follows, by a decoder of the Llama, Mistral or Qwen families.
    TextGeneration,
    /// Audio gives what is said in it, by a model of the Whisper family.
    SpeechToText,
    /// Whatever a model server answers that runs beside the worker.
    Http,
    /// Returns its input after `parameters.milliseconds`: for trying out a queue and for load tests.
    Echo,
    /// What the team's own worker computes, built on the library millrace-worker: its image is `worker.image`.
    Custom,
}

impl Task {
    /// The word used in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextToImage => "TextToImage",
            Self::TextEmbedding => "TextEmbedding",
            Self::TextGeneration => "TextGeneration",
            Self::SpeechToText => "SpeechToText",
            Self::Http => "Http",
            Self::Echo => "Echo",
            Self::Custom => "Custom",
        }
    }

    /// Whether it cannot do without `model.source`.
    pub fn needs_source(self) -> bool {
        match self {
            Self::TextToImage | Self::TextEmbedding | Self::TextGeneration | Self::SpeechToText => true,
            Self::Http | Self::Echo | Self::Custom => false,
        }
    }
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Device {
    /// The GPU when one is asked for, else the CPU.
    #[default]
    Auto,
    /// The CPU, whatever the pod was given.
    Cpu,
    /// A CUDA GPU.
    Cuda,
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Precision {
    /// F32 on a CPU, F16 on a GPU.
    #[default]
    Auto,
    /// 32 bit.
    F32,
    /// 16 bit, IEEE.
    F16,
    /// 16 bit, bfloat.
    BF16,
}

/// Where the weights come from: exactly one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("(has(self.huggingFace) ? 1 : 0) + (has(self.s3) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.image) ? 1 : 0) == 1").message("exactly one of huggingFace, s3, persistentVolumeClaim, image must be set in model.source")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// A repository of the Hugging Face hub, or of a server that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,

    /// A folder in S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,

    /// A folder on a volume that exists already; mounted read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,

    /// An OCI image that holds the model; mounted read-only. The cluster needs the feature gate ImageVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
}

/// A repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// `owner/name`.
    #[cfg_attr(feature = "kube", schemars(length(max = 200), regex(pattern = r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")))]
    pub repository: String,

    /// A branch, tag or commit. A commit makes every worker load the same weights for ever.
    #[serde(default = "default_revision")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 200)))]
    pub revision: String,

    /// Take the files of this variant where there are some: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$")))]
    pub variant: Option<String>,

    /// Another server that speaks the hub's protocol. Default: the public hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+(/\S*)?$")))]
    pub endpoint: Option<String>,

    /// A Secret of the same namespace with the access token, for private and gated repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// One key of a Secret in the QueueConsumer's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub name: String,
    /// The key in its data.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub key: String,
}

/// A folder in S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
pub struct S3Source {
    /// `s3://bucket/folder/`.
    #[cfg_attr(
        feature = "kube",
        schemars(length(max = 1024), regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?$"))
    )]
    pub uri: String,

    /// AWS region of the bucket. Default: the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$")))]
    pub region: Option<String>,

    /// Endpoint of the S3 API, for a store other than AWS; addressed with the bucket in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/\s]+/?$")))]
    pub endpoint: Option<String>,

    /// Take the files of this variant where there are some: `fp16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$")))]
    pub variant: Option<String>,
}

/// A folder on a PersistentVolumeClaim of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// The claim's name.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub claim_name: String,

    /// Folder of the model within the volume. Default: its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024)))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')").message("path must be relative to the volume and must not contain '..'")))]
    pub path: String,

    /// Take the files of this variant where there are some: `fp16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$")))]
    pub variant: Option<String>,
}

/// A folder in an OCI image, which Kubernetes mounts as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image: `registry/model:tag`, or `registry/model@sha256:…`, which is the same model for ever. Pulled with
    /// `worker.imagePullSecrets`.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9\[]\S*$")))]
    pub reference: String,

    /// Always, IfNotPresent or Never. Default: Kubernetes' own rule by tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(with = "ImagePullPolicy"))]
    pub pull_policy: Option<ImagePullPolicy>,

    /// Folder of the model within the image. Default: its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024)))]
    #[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')").message("path must be relative to the image's root and must not contain '..'")))]
    pub path: String,

    /// Take the files of this variant where there are some: `fp16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$")))]
    pub variant: Option<String>,
}

impl ImageSource {
    /// Which image exactly, as far as the reference tells: its digest, or all of it.
    pub fn revision(&self) -> &str {
        self.reference.split_once('@').map_or(&self.reference, |(_, digest)| digest)
    }
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never.
    Never,
}

impl ImagePullPolicy {
    /// The word used in a pod.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl ModelSource {
    /// The variant of the weight files, whichever source it is named in.
    pub fn variant(&self) -> Option<&str> {
        let hugging_face = self.hugging_face.as_ref().and_then(|s| s.variant.as_deref());
        let s3 = self.s3.as_ref().and_then(|s| s.variant.as_deref());
        let claim = self.persistent_volume_claim.as_ref().and_then(|s| s.variant.as_deref());
        let image = self.image.as_ref().and_then(|s| s.variant.as_deref());
        hugging_face.or(s3).or(claim).or(image)
    }

    /// How the result record names the source: `huggingface:owner/name`, `s3://bucket/folder`, `pvc:claim/path`,
    /// `image:registry/model:tag/path`.
    pub fn name(&self) -> String {
        if let Some(s) = &self.hugging_face {
            format!("huggingface:{}", s.repository)
        } else if let Some(s) = &self.s3 {
            s.uri.clone()
        } else if let Some(s) = &self.persistent_volume_claim {
            format!("pvc:{}/{}", s.claim_name, s.path)
        } else if let Some(s) = &self.image {
            let folder = if s.path.is_empty() { "" } else { "/" };
            format!("image:{}{folder}{}", s.reference, s.path)
        } else {
            String::new()
        }
    }
}

/// How jobs are grouped for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct BatchSpec {
    /// Most jobs that the model works on at a time; a worker receives so many, and more only when one is about to end.
    #[serde(default = "default_batch_size")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1024)))]
    pub max_size: i32,

    /// Longest time that the first job of a batch waits for others, in milliseconds. TextToImage waits for nobody: jobs join
    /// it between steps.
    #[serde(default = "default_batch_wait")]
    #[cfg_attr(feature = "kube", schemars(range(min = 0, max = 60000)))]
    pub max_wait_milliseconds: i32,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self { max_size: default_batch_size(), max_wait_milliseconds: default_batch_wait() }
    }
}

/// Where downloaded weights are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[cfg_attr(feature = "kube", x_kube(validation = Rule::new("!has(self.persistentVolumeClaim) || !has(self.emptyDir) || !(has(self.emptyDir.sizeLimit) || has(self.emptyDir.medium))").message("emptyDir must not be set beside persistentVolumeClaim in model.cache")))]
#[cfg_attr(all(test, feature = "kube"), x_kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct CacheSpec {
    /// A volume that lives as long as the pod.
    #[serde(default)]
    pub empty_dir: EmptyDirCache,

    /// A volume that workers share, instead: one of them downloads a model, the others wait and find it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimCache>,
}

/// A volume that lives as long as the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirCache {
    /// Most that it may hold, as a Kubernetes quantity: `40Gi`. Default: the node's own limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i?)?$")))]
    pub size_limit: Option<String>,

    /// Memory: the files are kept in memory instead of on the node's disk, and count against the worker's memory limit
    /// as long as the pod lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

/// What a volume that lives as long as the pod is made of, if not of the node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Medium {
    /// The node's memory.
    Memory,
}

impl Medium {
    /// The word that Kubernetes has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "Memory",
        }
    }
}

/// A volume that workers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(kube::KubeSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClaimCache {
    /// The claim's name, in the QueueConsumer's namespace. Workers write to it, so for more than one node it must be
    /// ReadWriteMany.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub claim_name: String,
}

fn default_revision() -> String {
    "main".into()
}

fn default_batch_size() -> i32 {
    1
}

fn default_batch_wait() -> i32 {
    50
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_by_its_folder_and_its_digest() {
        let of = |reference: &str, path: &str| ImageSource {
            reference: reference.into(),
            pull_policy: None,
            path: path.into(),
            variant: Some("fp16".into()),
        };
        for (image, name, revision) in [
            (of("registry:5000/sdxl:1", ""), "image:registry:5000/sdxl:1", "registry:5000/sdxl:1"),
            (of("sdxl:1@sha256:ab", "a/b"), "image:sdxl:1@sha256:ab/a/b", "sha256:ab"),
        ] {
            assert_eq!(image.revision(), revision);
            let source = ModelSource { image: Some(image), ..ModelSource::default() };
            assert_eq!((source.name().as_str(), source.variant()), (name, Some("fp16")));
        }
    }
}
