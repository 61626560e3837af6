//! The words that millrace's operator and worker share: the QueueConsumer resource, the worker's config, what a worker
//! reports, and the result record.
//!
//! Feature `kube` adds the CRD derive and the parts of the resource that speak of pods; the worker builds without it.

mod callback_host;
mod config;
mod drain;
mod job_id;
mod key_template;
mod model;
mod output;
mod queue;
mod queue_url;
mod record;
mod server;
mod state;
pub mod task;

#[cfg(feature = "kube")]
mod consumer;
#[cfg(feature = "kube")]
mod scaling;
#[cfg(feature = "kube")]
mod schema;
#[cfg(feature = "kube")]
mod server_container;
#[cfg(feature = "kube")]
mod status;
#[cfg(feature = "kube")]
mod worker;

pub use callback_host::{CallbackHost, CallbackHostError, CallbackHosts, CallbackUrlError, Listing};
pub use config::{ConsumerRef, DrainConfig, HttpConfig, ShutdownConfig, WorkerConfig};
pub use drain::{
    DRAIN_CLOCK_SKEW, DRAIN_LAPSES, DRAIN_PATH, DRAIN_SIGNATURE_HEADER, DRAIN_TIME_HEADER, DrainOrder, drain_text,
};
pub use job_id::{FIRST_MESSAGE_ATTRIBUTE, JOB_ID_ATTRIBUTE, MAX_JOB_ID, RECORD_SUFFIX, canonical_json, encode_job_id};
pub use key_template::{KeyFields, KeyTemplate, KeyTemplateError};
pub use model::{
    BatchSpec, CacheSpec, ClaimCache, Device, EmptyDirCache, HuggingFaceSource, ImagePullPolicy, ImageSource, Medium,
    ModelSource, ModelSpec, PersistentVolumeClaimSource, Precision, S3Source, SecretKeyRef, Task,
};
pub use output::{CallbackSpec, ConditionalWrites, OutputSpec, ReplyFormat, ReplySpec};
pub use queue::{AllowSpec, BodyFormat, InvalidInputPolicy, MAX_OBJECT, MappingSpec, QueueSpec, RetrySpec};
pub use queue_url::{QueueUrl, QueueUrlError, is_fifo};
pub use record::{JobStatus, RecordError, RecordModel, RecordOutput, ResultRecord, Timings};
pub use server::{RequestBody, ServerHeader, ServerPreset, ServerRequest, ServerResponse, ServerSpec};
pub use state::{Activity, Failing, JobProgress, JobState, Problem, Received, ServiceSeconds, WorkerState};

#[cfg(feature = "kube")]
pub use consumer::{GROUP, QueueConsumer, QueueConsumerSpec, VERSION, crd, crd_yaml};
#[cfg(feature = "kube")]
pub use scaling::{ScalingMode, ScalingSchedule, ScalingSpec, ScalingTarget};
#[cfg(feature = "kube")]
pub use server_container::{ServerContainer, SharedMemory};
#[cfg(feature = "kube")]
pub use status::{Estimates, LastScale, QueueConsumerStatus, QueueDepth, condition, reason};
#[cfg(feature = "kube")]
pub use worker::{GpuSpec, Resources, UpdateStrategy, WorkerSpec};
