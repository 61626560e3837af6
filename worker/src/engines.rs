//! Which engine serves a task, and how each is loaded.

use millrace_api::Task;
use millrace_nn::cores;
use serde_json::{Map, Value};

use crate::model::echo::{self, Echo};
use crate::model::text_embedding::{self, TextEmbedding};
use crate::model::text_to_image::{self, TextToImage};
use crate::model::{Engine, InvalidInput, LoadError, Loading};

/// An engine that the worker can be asked for by its task.
pub trait Served: Engine + Sized {
    /// Checks `model.parameters` by the rules of a job's input.
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput>;

    /// Loads it, on the thread that is going to run it.
    fn load(how: &Loading) -> Result<Self, LoadError>;
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
        Task::TextEmbedding => what.with::<TextEmbedding>(),
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

impl Served for TextToImage {
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        text_to_image::validate_defaults(defaults)
    }

    fn load(how: &Loading) -> Result<Self, LoadError> {
        cores::join();
        text_to_image::load(how)
    }
}

impl Served for TextEmbedding {
    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        text_embedding::validate_defaults(defaults)
    }

    fn load(how: &Loading) -> Result<Self, LoadError> {
        cores::join();
        text_embedding::load(how)
    }
}
