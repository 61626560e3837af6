//! Which of millrace's own engines serves a task.

use millrace_api::{ServerSpec, Task};
use millrace_nn::cores;

use crate::handler::Handler;
use crate::model::echo::Echo;
use crate::model::server::Beside;
use crate::model::speech_to_text::{self, SpeechToText};
use crate::model::text_embedding::{self, TextEmbedding};
use crate::model::text_generation::{self, TextGeneration};
use crate::model::text_to_image::{self, TextToImage};
use crate::model::{LoadError, Loading};

/// A use of a handler, whichever a task needs.
pub trait Use {
    /// What comes of it.
    type Output;

    /// Does it with this one.
    fn with<H: Handler>(self, handler: H) -> Self::Output;
}

/// Does `what` with the handler of `task`, which may be served by `server`; none where that is not millrace's to serve.
pub fn dispatch<U: Use>(task: Task, server: Option<&ServerSpec>, what: U) -> Option<U::Output> {
    match task {
        Task::TextToImage => Some(what.with(text_to_image)),
        Task::TextEmbedding => Some(what.with(text_embedding)),
        Task::TextGeneration => Some(what.with(text_generation)),
        Task::SpeechToText => Some(what.with(speech_to_text)),
        Task::Http => Some(what.with(Beside(server.cloned()))),
        Task::Echo => Some(what.with(Echo::load)),
        Task::Custom => None,
    }
}

fn text_to_image(how: &Loading) -> Result<TextToImage, LoadError> {
    cores::join();
    text_to_image::load(how)
}

fn text_embedding(how: &Loading) -> Result<TextEmbedding, LoadError> {
    cores::join();
    text_embedding::load(how)
}

fn text_generation(how: &Loading) -> Result<TextGeneration, LoadError> {
    cores::join();
    text_generation::load(how)
}

fn speech_to_text(how: &Loading) -> Result<SpeechToText, LoadError> {
    cores::join();
    speech_to_text::load(how)
}
