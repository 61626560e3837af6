//! A loaded model: from a request's texts to tokens, and from tokens to vectors.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::encoder::Encoder;
use super::layout::{Head, Prompts};
use super::pack::Pack;
use super::request::{Prompt, Settings, TextEmbeddingRequest, Truncate};
use super::tokenizer::{Limit, Tokenizer};
use crate::model::weights::{is_out_of_memory, run_error};
use crate::model::{InvalidInput, RunError};

/// Shorter vectors have no direction, as torch has it.
const SHORTEST: f64 = 1e-12;

/// All that a folder holds.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) tokenizer: Tokenizer,
    pub(super) encoder: Encoder,
    pub(super) head: Head,
    pub(super) prompts: Prompts,
    /// Numbers of a token's state, and of a vector.
    pub(super) width: usize,
    pub(super) outputs: usize,
}

/// A text as the encoder reads it.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// Of the first, that do not count for the vector.
    skipped: usize,
}

/// What is put before each text of a request.
struct Before<'a> {
    prompt: &'a str,
    /// How many tokens of each text do not count for its vector.
    skipped: usize,
}

impl Model {
    /// Whether what a job or a consumer asks for is there.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), InvalidInput> {
        if let Some(dimensions) = settings.dimensions.filter(|dimensions| *dimensions > self.outputs) {
            let message = format!("is {dimensions}; vectors of this model have {}", self.outputs);
            return Err(InvalidInput::field("dimensions", message));
        }
        self.prompt(settings).map(|_| ())
    }

    fn prompt<'a>(&'a self, settings: &'a Settings) -> Result<&'a str, InvalidInput> {
        let known = &self.prompts.prompts;
        match &settings.prompt {
            Some(Prompt::Spelled(prompt)) => Ok(prompt),
            Some(Prompt::Named(name)) => known.get(name).map(String::as_str).ok_or_else(|| {
                let names: Vec<_> = known.keys().map(String::as_str).collect();
                let hint = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                InvalidInput::field("prompt_name", format!("{name} is no prompt of this model; it has {hint}"))
            }),
            None => Ok(self
                .prompts
                .default_prompt_name
                .as_ref()
                .and_then(|name| known.get(name))
                .map_or("", String::as_str)),
        }
    }

    /// A request's texts as tokens, in order.
    pub(super) fn read(&self, request: &TextEmbeddingRequest) -> Result<Vec<Tokens>, RunError> {
        self.check(&request.settings)?;
        let before = self.before(&request.settings)?;
        let one = |(index, text): (usize, &&str)| {
            self.tokens(&before, text, request.settings.truncate)
                .map_err(|message| request.invalid(index, &message).into())
        };
        request.each().par_iter().enumerate().map(one).collect()
    }

    fn before<'a>(&'a self, settings: &'a Settings) -> Result<Before<'a>, InvalidInput> {
        let prompt = self.prompt(settings)?;
        if self.head.pooling.with_prompt || prompt.is_empty() {
            return Ok(Before { prompt, skipped: 0 });
        }
        let words = self.tokenizer.words(prompt).map_err(|error| InvalidInput::field("prompt", error.to_string()))?;
        if words.len() >= self.tokenizer.room() {
            let message = format!("has {} tokens, which leaves no room for a text", words.len());
            return Err(InvalidInput::field("prompt", message));
        }
        Ok(Before { prompt, skipped: self.tokenizer.before() + words.len() })
    }

    fn tokens(&self, before: &Before, text: &str, truncate: Truncate) -> Result<Tokens, String> {
        let words = if before.prompt.is_empty() {
            self.tokenizer.words(text)
        } else {
            self.tokenizer.words(&format!("{}{text}", before.prompt))
        };
        let words = words.map_err(|error| error.to_string())?;
        let room = self.tokenizer.room();
        if truncate == Truncate::Error && words.len() > room {
            let Limit { tokens, setting, file } = self.tokenizer.limit();
            return Err(format!(
                "has {} tokens, and {} around them; {tokens} are read ({setting} of {file}): shorten it, or set truncate to end",
                words.len(),
                tokens - room
            ));
        }
        let ids = self.tokenizer.frame(&words);
        if ids.is_empty() {
            return Err("has no tokens".into());
        }
        let skipped = before.skipped.min(ids.len() - 1);
        Ok(Tokens { ids, skipped })
    }

    /// The vectors of texts that are sorted by length, before they are cut and normalised. Where they have no room together,
    /// they are taken in halves.
    pub(super) fn embed(&self, texts: &[&Tokens]) -> Result<Vec<Vec<f32>>, RunError> {
        match self.pass(texts) {
            Err(error) if texts.len() > 1 && is_out_of_memory(&error) => {
                tracing::warn!(texts = texts.len(), "the texts do not fit into memory; trying halves");
                let (first, second) = texts.split_at(texts.len() / 2);
                Ok([self.embed(first)?, self.embed(second)?].concat())
            }
            passed => passed.map_err(|error| run_error(&error)),
        }
    }

    fn pass(&self, texts: &[&Tokens]) -> CandleResult<Vec<Vec<f32>>> {
        let pack = Pack::new(texts.iter().map(|text| text.ids.as_slice()).collect());
        let states = self.encoder.forward(&pack)?;
        let states = states.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut vectors = Vec::new();
        let mut rest = states.as_slice();
        for (text, length) in texts.iter().zip(pack.lengths()) {
            let (own, others) = rest.split_at(length * self.width);
            rest = others;
            self.head.pooling.pool(own, self.width, text.skipped, &mut vectors);
        }
        let mut vectors =
            Tensor::from_vec(vectors, (texts.len(), self.head.pooling.outputs(self.width)), &Device::Cpu)?;
        for dense in &self.head.dense {
            vectors = dense.forward(&vectors)?;
        }
        vectors.to_vec2()
    }

    /// Whether the vectors of such a request are made as long as one.
    pub(super) fn normalizes(&self, settings: &Settings) -> bool {
        settings.normalize.unwrap_or(self.head.normalizes)
    }

    /// A vector as it was asked for: cut, and as long as one.
    pub(super) fn finish(&self, mut vector: Vec<f32>, settings: &Settings) -> Result<Vec<f32>, RunError> {
        vector.truncate(settings.dimensions.unwrap_or(self.outputs));
        if self.normalizes(settings) {
            let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(SHORTEST);
            for value in &mut vector {
                *value = (f64::from(*value) / length) as f32;
            }
        }
        if vector.iter().all(|value| value.is_finite()) {
            return Ok(vector);
        }
        Err(RunError::Model("the vector has numbers that are not finite; model.precision F32 may help".into()))
    }
}
