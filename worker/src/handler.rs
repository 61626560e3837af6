//! Who serves jobs: reads their inputs as requests, and loads the engine that runs these. A function that loads an engine
//! is one by itself; [`Routes`](crate::routes::Routes) makes one of several.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::{About, Engine, Input, InvalidInput, LoadError, Loading, Request};

/// Serves jobs.
pub trait Handler: Send + Sync + 'static {
    /// What runs them.
    type Engine: Engine;

    /// Whether a consumer's `model.parameters` are right for it: asked before anything is loaded.
    fn check_defaults(&self, defaults: &Map<String, Value>) -> Result<(), InvalidInput>;

    /// Fields of an input object that may name an object in S3: [`Request::OBJECT_FIELDS`].
    fn object_fields(&self, about: &About) -> &'static [&'static str];

    /// The field that an object is which is itself a job's input: [`Request::CONTENT_FIELD`].
    fn content_field(&self, about: &About) -> Option<&'static str>;

    /// Reads one input of a job: [`Request::decode`].
    fn decode(
        &self,
        input: &Input,
        defaults: &Map<String, Value>,
        about: &About,
    ) -> Result<RequestOf<Self>, InvalidInput>;

    /// Loads the engine, on the thread that is going to own it. Tried again, after a pause, until it works.
    fn load(&self, how: &Loading) -> Result<Self::Engine, LoadError>;

    /// The longest such pause.
    fn longest_pause(&self) -> Duration {
        Duration::from_mins(1)
    }
}

/// What a handler's engine runs.
pub type RequestOf<H> = <<H as Handler>::Engine as Engine>::Request;

impl<E: Engine<Request: Request>, L: Fn(&Loading) -> Result<E, LoadError> + Send + Sync + 'static> Handler for L {
    type Engine = E;

    fn check_defaults(&self, defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        E::Request::check_defaults(defaults)
    }

    fn object_fields(&self, _: &About) -> &'static [&'static str] {
        E::Request::OBJECT_FIELDS
    }

    fn content_field(&self, _: &About) -> Option<&'static str> {
        E::Request::CONTENT_FIELD
    }

    fn decode(&self, input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<E::Request, InvalidInput> {
        E::Request::decode(input, defaults, about)
    }

    fn load(&self, how: &Loading) -> Result<E, LoadError> {
        self(how)
    }
}
