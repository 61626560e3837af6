//! The model side of the worker: what an engine is. An engine never sees SQS, a job never sees a device.
//!
//! A request is decoded and checked on the async side (`Request::decode`), waits in a batch with others of the same
//! `batch_key`, and runs on the one OS thread that owns the engine (`Engine::run`).

#[cfg(feature = "models")]
#[cfg(test)]
mod altered;
#[cfg(feature = "models")]
mod attending;
#[cfg(feature = "models")]
mod cache;
pub mod concurrent;
#[cfg(feature = "models")]
#[cfg(test)]
mod damaged;
#[cfg(feature = "models")]
mod device;
pub mod echo;
pub mod fields;
#[cfg(feature = "models")]
mod folder;
#[cfg(feature = "models")]
#[cfg(test)]
mod golden;
#[cfg(feature = "models")]
mod inline;
mod loading;
#[cfg(feature = "models")]
pub mod made;
#[cfg(feature = "models")]
mod memory;
mod output;
#[cfg(feature = "models")]
mod passes;
pub mod server;
mod session;
pub mod source;
#[cfg(feature = "models")]
pub mod speech_to_text;
pub mod stepwise;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(feature = "models")]
pub mod text_embedding;
#[cfg(feature = "models")]
pub mod text_generation;
#[cfg(feature = "models")]
pub mod text_to_image;
pub mod thread;
#[cfg(feature = "models")]
mod tokenizing;
#[cfg(feature = "models")]
mod weights;

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use self::concurrent::Concurrent;
pub use self::loading::{Loading, gpus_given};
pub use self::output::{Body, Name, Output, PART, Sent, Stream};
use self::stepwise::Stepwise;
use crate::parts::Parts;

/// One input of a job, before its task has looked at it.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A plain body: the task's main field (a prompt, a text).
    Text(String),
    /// The task's input as a JSON object, in the job's own field names.
    Object(Map<String, Value>),
    /// A call with one argument and fields by name.
    Call {
        /// The task's main field.
        text: String,
        /// The others.
        fields: Map<String, Value>,
    },
}

impl Input {
    /// As JSON: a call is the list of its text and its fields.
    pub fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Object(object) => Value::Object(object.clone()),
            Self::Call { text, fields } => Value::Array(vec![text.as_str().into(), fields.clone().into()]),
        }
    }
}

/// Why an input can never run: which field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct InvalidInput {
    /// The field, as the producer wrote it (`steps`, `inputs[2].width`); none where the whole body is at fault.
    pub field: Option<String>,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl InvalidInput {
    /// An error of one named field.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), message: message.into() }
    }

    /// An error of the body as a whole.
    pub fn body(message: impl Into<String>) -> Self {
        Self { field: None, message: message.into() }
    }

    /// The same of a consumer's defaults.
    #[must_use]
    pub(crate) fn of_defaults(self) -> Self {
        Self { field: self.field.map(|field| format!("{}.{field}", millrace_api::task::PARAMETERS)), ..self }
    }
}

/// What is known of a job around its input.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The job's id.
    pub job_id: &'a str,
    /// For a request that names no seed; derived from the job's id, so a repeat computes the same output.
    pub seed: u64,
    /// What kind of job it is, where the message says so: `queue.mapping.route`, Celery's `headers.task`, a task
    /// envelope's `task_name`.
    pub route: Option<&'a str>,
    /// The whole body of a task envelope, as it came.
    pub envelope: Option<&'a Map<String, Value>>,
}

/// One job's input as its task understands it: checked before it waits for the model.
pub trait Request: Debug + Send + Sync + Sized + 'static {
    /// Fields of an input object that may name an object in S3, as `s3://bucket/key`: it is read beforehand, and the field
    /// holds its content in base64 when the input is decoded.
    const OBJECT_FIELDS: &'static [&'static str] = &[];

    /// The field that an object is which is itself a job's input (an S3 event's), in base64; none where it is a text or a
    /// JSON object, as a body is.
    const CONTENT_FIELD: Option<&'static str> = None;

    /// Reads `input` over `defaults` (the consumer's `model.parameters`, in the job's own words).
    fn decode(input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Self, InvalidInput>;

    /// Requests share a batch only when their keys are equal (the same size, steps, and so on). All share one unless this
    /// says otherwise.
    fn batch_key(&self) -> u64 {
        0
    }

    /// Whether a consumer's `model.parameters` are right, by the rules of a job's input: asked when the worker starts, so
    /// that what no job could say is found before the first one. Unless this is written, they are not looked at.
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        let _ = defaults;
        Ok(())
    }
}

/// A request as those see it who have it wait for its turn.
pub trait Batchable: Debug + Send + Sync + 'static {
    /// Requests share a batch only when their keys are equal.
    fn key(&self) -> u64;
}

impl<R: Request> Batchable for R {
    fn key(&self) -> u64 {
        self.batch_key()
    }
}

/// What a request came to: files, or a JSON value, or both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Product {
    /// Files to upload, in order.
    pub outputs: Vec<Output>,
    /// A small JSON result, kept in the record itself.
    pub value: Option<Value>,
    /// The seed that was used, where the task has one.
    pub seed: Option<u64>,
    /// How it was computed, in the words of jobs, with what they left open; nothing where the task has no such words.
    pub parameters: Map<String, Value>,
}

/// Why a request that was valid did not give a product.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Found invalid only by the model (a prompt that has too many tokens). Never retried.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The model failed on it (NaN, a kernel error). Retried.
    #[error("{0}")]
    Model(String),
    /// The device had no room for the batch.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Its lease was lost or the worker is stopping.
    #[error("cancelled")]
    Cancelled,
}

/// Told by the async side to an engine that is running; an engine looks at it between steps, or waits for it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Asks for the request to be given up.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether the request is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the request is no longer wanted.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done.
    pub step: u32,
    /// Of so many.
    pub steps: u32,
}

/// Told by an engine of a request's way, on the engine's own thread: it must be quick.
pub trait Hook: Debug + Send + Sync {
    /// A step is done.
    fn stepped(&self, at: Progress);

    /// What the result is going to be like; of requests that ask for it.
    fn preview(&self, preview: Output);
}

/// A request in a batch.
#[derive(Debug)]
pub struct Item<R> {
    /// The decoded request; shared, so that a batch can be tried again in halves.
    pub request: Arc<R>,
    /// Set when this request is no longer wanted.
    pub cancel: Cancel,
    /// Who wants to know how far it is.
    pub hook: Option<Arc<dyn Hook>>,
    /// Where outputs go that are uploaded while they are made; none where they are kept until then.
    pub uploads: Option<Arc<Parts>>,
    /// Whether it is the last of its job: when it ends, the worker has a place for another job.
    pub is_last: bool,
}

impl<R> Item<R> {
    /// A request that nobody will cancel or follow.
    pub fn new(request: R) -> Self {
        Self { request: Arc::new(request), cancel: Cancel::default(), hook: None, uploads: None, is_last: true }
    }
}

impl<R> Item<R> {
    /// Says how far it is to whoever wants to know.
    pub(crate) fn tell(&self, at: Progress) {
        if let Some(hook) = &self.hook {
            hook.stepped(at);
        }
    }

    /// An output that is uploaded while it is made.
    pub fn stream(&self, name: Name) -> Stream {
        Stream::new(name, self.uploads.clone())
    }
}

impl<R> Clone for Item<R> {
    fn clone(&self) -> Self {
        Self {
            request: Arc::clone(&self.request),
            cancel: self.cancel.clone(),
            hook: self.hook.clone(),
            uploads: self.uploads.clone(),
            is_last: self.is_last,
        }
    }
}

/// A loaded model on its device. Lives on one OS thread and is the only owner of the device's memory.
pub trait Engine: Send + 'static {
    /// What it runs.
    type Request: Batchable;

    /// Runs one request that stands for real work (smallest size, one step), so that ready means "infers". An engine
    /// that leaves it out is ready as soon as it is loaded.
    fn warm_up(&mut self) -> Result<(), RunError> {
        Ok(())
    }

    /// Runs a batch of requests with one key. Gives exactly one result per item, in order.
    fn run(&mut self, batch: &[Item<Self::Request>]) -> Vec<Result<Product, RunError>>;

    /// The engine as one that can be run step by step; requests then join it and leave it between steps, and are not
    /// batched by `run`.
    fn stepwise(&mut self) -> Option<&mut dyn Stepwise<Self::Request>> {
        None
    }

    /// The engine as one whose requests run side by side, each by itself; it is then given no batches. For good: what has
    /// it needs the engine no more.
    fn concurrent(&self) -> Option<Arc<dyn Concurrent<Self::Request>>> {
        None
    }

    /// What was loaded, for the record's `model.revision` (a commit, an ETag digest); none where there is nothing to say.
    fn revision(&self) -> Option<String> {
        None
    }
}

/// Why a model did not load: a reason in CamelCase for `/state` and conditions, and a message that names the file or
/// tensor and the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// `ModelFileMissing`, `ModelCorrupt`, `DeviceUnavailable`, `DriverTooOld`, `OutOfMemory`, …
    pub reason: &'static str,
    /// Which file, tensor or device, and what would be right.
    pub message: String,
}

impl LoadError {
    /// The consumer's `model.parameters` are not right.
    pub fn parameters(error: &InvalidInput) -> Self {
        Self { reason: "InvalidParameters", message: error.to_string() }
    }
}
