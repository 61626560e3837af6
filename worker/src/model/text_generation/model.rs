//! A loaded model: from a request to tokens, and how its answers are drawn and end.

use rayon::prelude::*;
use serde::Deserialize;

use super::chat::Chat;
use super::config::Ids;
use super::decoder::Decoder;
use super::request::{Settings, Talk, TextGenerationRequest, Wishes};
use super::sampler::Sampling;
use super::tokenizer::Tokenizer;
use crate::model::folder::Folder;
use crate::model::{InvalidInput, LoadError, RunError};

/// What a model's publishers say of how it writes.
pub(super) const GENERATION: &str = "generation_config.json";
/// Most tokens of an answer of which nothing is said.
const MAX_TOKENS: usize = 512;

/// `generation_config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Generation {
    #[serde(default)]
    do_sample: Option<bool>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    pub(super) eos_token_id: Option<Ids>,
}

impl Generation {
    /// Reads a folder's, where it has some.
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        if folder.has(GENERATION) { folder.json(GENERATION) } else { Ok(Self::default()) }
    }

    /// How tokens are drawn for a job with these wishes. One that wishes nothing gets what the publishers say, which is the likeliest
    /// token where they say nothing; whoever names a share or a number of tokens wants to draw.
    pub(super) fn sampling(&self, wishes: &Wishes) -> Sampling {
        let draws = self.do_sample == Some(true)
            || wishes.top_p.is_some()
            || wishes.top_k.is_some_and(|tokens| tokens > 0)
            || wishes.min_p.is_some();
        let own = if draws { self.temperature.unwrap_or(1.0) } else { 0.0 };
        Sampling {
            temperature: wishes.temperature.unwrap_or(own),
            top_k: wishes.top_k.or(self.top_k).unwrap_or(0),
            top_p: wishes.top_p.or(self.top_p).unwrap_or(1.0),
            min_p: wishes.min_p.or(self.min_p).unwrap_or(0.0),
            repetition_penalty: wishes.repetition_penalty.or(self.repetition_penalty).unwrap_or(1.0),
        }
    }
}

/// All that a folder holds.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) tokenizer: Tokenizer,
    pub(super) chat: Option<Chat>,
    pub(super) decoder: Decoder,
    pub(super) generation: Generation,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
    /// Most tokens of a prompt and its answer.
    pub(super) context: usize,
    /// The setting that says so, and its file.
    pub(super) context_of: String,
}

/// What one text goes on with.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// Most tokens of its answer.
    pub(super) most: usize,
}

impl Model {
    /// Whether what a consumer asks for of every job is there.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), InvalidInput> {
        if settings.chat == Some(true) && self.chat.is_none() {
            return Err(InvalidInput::field("chat", NO_TEMPLATE));
        }
        if settings.system.is_some() && settings.chat != Some(false) && self.chat.is_none() {
            return Err(InvalidInput::field("system", NO_TEMPLATE));
        }
        match settings.max_tokens.filter(|most| *most >= self.context) {
            Some(most) => {
                let message =
                    format!("is {most}; the model reads {} tokens with the prompt ({})", self.context, self.context_of);
                Err(InvalidInput::field("max_tokens", message))
            }
            None => Ok(()),
        }
    }

    /// A request's prompts as tokens, in order.
    pub(super) fn read(&self, request: &TextGenerationRequest) -> Result<Vec<Prompt>, RunError> {
        self.check(&request.settings)?;
        let one = |(index, talk): (usize, &Talk)| {
            self.prompt(talk, request.settings.max_tokens).map_err(|message| request.invalid(index, message).into())
        };
        request.talks().par_iter().enumerate().map(one).collect()
    }

    fn prompt(&self, talk: &Talk, most: Option<usize>) -> Result<Prompt, String> {
        let tokens = match (talk, &self.chat) {
            (Talk::Prompt(text), _) => self.tokenizer.tokens(text, true),
            (Talk::Conversation(messages), Some(chat)) => self.tokenizer.tokens(&chat.render(messages)?, false),
            (Talk::Conversation(_), None) => return Err(NO_TEMPLATE.into()),
        };
        let tokens = tokens.map_err(|error| error.to_string())?;
        let (length, context, of) = (tokens.len(), self.context, &self.context_of);
        if tokens.is_empty() {
            return Err("has no tokens".into());
        }
        let left = context.saturating_sub(length);
        match most {
            _ if left == 0 => Err(format!(
                "has {length} tokens, which leaves none for an answer: the model reads {context} ({of}); shorten it"
            )),
            Some(most) if most > left => Err(format!(
                "has {length} tokens, and max_tokens is {most}: together {}, and the model reads {context} ({of}); shorten it or \
                 lower max_tokens",
                length + most
            )),
            most => Ok(Prompt { tokens, most: most.unwrap_or(MAX_TOKENS.min(left)) }),
        }
    }
}

const NO_TEMPLATE: &str = "needs a chat template, and the model has none (chat_template.jinja, or chat_template of \
                           tokenizer_config.json): give prompt alone, whose text is gone on with as it is";
