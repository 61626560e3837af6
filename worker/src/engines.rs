//! Which engine serves a task, and how each is loaded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_api::{Device, ModelSpec, Precision, ServerSpec, Task};
use serde_json::{Map, Value};

use crate::model::echo::{self, Echo};
use crate::model::server::Server;
use crate::model::text_to_image::{self, TextToImage};
use crate::model::{Engine, InvalidInput, LoadError};
use crate::trouble::Troubles;

/// An engine that the worker can be asked for by its task.
pub trait Served: Engine + Sized {
    /// Longest pause before it is tried again to load one that did not load.
    const LONGEST_PAUSE: Duration = Duration::from_mins(1);

    /// Checks `model.parameters` by the rules of a job's input.
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput>;

    /// Loads it; `dir` is the model's folder where the task has one.
    fn load(how: &Loading) -> Result<Self, LoadError>;
}

/// What an engine is loaded from and onto.
#[derive(Debug, Clone)]
pub struct Loading {
    /// The model's folder; empty for a task without.
    pub dir: PathBuf,
    /// Where it runs.
    pub device: Device,
    /// Its numbers.
    pub precision: Precision,
    /// Of the weight files.
    pub variant: Option<String>,
    /// GPUs that the pod was given.
    pub gpus: u32,
    /// The consumer's parameters, of which some are for the loader.
    pub parameters: Map<String, Value>,
    /// The server beside the worker, where the task has one.
    pub server: Option<ServerSpec>,
    /// Where the engine tells what keeps it from working.
    pub troubles: Troubles,
}

impl Loading {
    /// As `spec` says, from `dir`.
    pub fn new(spec: &ModelSpec, dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            device: spec.device,
            precision: spec.precision,
            variant: spec.source.as_ref().and_then(|s| s.variant()).map(str::to_owned),
            gpus: gpus_given(),
            parameters: spec.parameters.clone(),
            server: spec.server.clone(),
            troubles: Troubles::default(),
        }
    }
}

/// GPUs that the pod was given: `MILLRACE_GPU_COUNT`, which the operator sets.
pub fn gpus_given() -> u32 {
    std::env::var("MILLRACE_GPU_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A use of an engine, whichever a task needs.
pub trait Use {
    /// What comes of it.
    type Output;

    /// Does it with this engine.
    fn with<E: Served>(self) -> Self::Output;
}

/// Does `what` with the engine of `task`.
pub fn dispatch<U: Use>(task: Task, what: U) -> U::Output {
    match task {
        Task::TextToImage => what.with::<TextToImage>(),
        Task::Http => what.with::<Server>(),
        Task::Echo => what.with::<Echo>(),
    }
}

impl Served for Echo {
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        echo::validate_defaults(defaults)
    }

    fn load(_: &Loading) -> Result<Self, LoadError> {
        Ok(Self)
    }
}

impl Served for Server {
    /// A server is asked whether it is up: that costs nothing.
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    /// They are the server's, which alone knows them.
    fn check_defaults(_: &Map<String, Value>) -> Result<(), InvalidInput> {
        Ok(())
    }

    fn load(how: &Loading) -> Result<Self, LoadError> {
        Self::connect(how.server.as_ref(), &how.troubles)
    }
}

impl Served for TextToImage {
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        text_to_image::validate_defaults(defaults)
    }

    fn load(how: &Loading) -> Result<Self, LoadError> {
        text_to_image::load(&how.dir, how.device, how.precision, how.variant.as_deref(), how.gpus, &how.parameters)
    }
}
