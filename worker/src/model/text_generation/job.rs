//! One request on its way: its texts, how far each is, and what they came to.

use super::decoder::Piece;
use super::model::{Model, Prompt};
use super::request::TextGenerationRequest;
use super::result::{FinishReason, Written, product};
use super::sampler::{Sampler, Sampling};
use super::stream::Stream;
use crate::model::cache::Cache;
use crate::model::stepwise::{Finish, Working, lost};
use crate::model::{Item, Progress, RunError};

/// Tokens of a prompt that are computed at a time, so that texts that are being written do not wait for a long one. It is the
/// same whoever else there is: what a text is does not depend on that.
const PIECE: usize = 256;

/// A request that the engine works on.
#[derive(Debug)]
pub(super) struct Job {
    item: Item<TextGenerationRequest>,
    sampling: Sampling,
    pub(super) texts: Vec<Text>,
}

/// One text that is being written.
#[derive(Debug)]
pub(super) struct Text {
    /// Of the prompt, and what was drawn since.
    tokens: Vec<u32>,
    prompt: usize,
    /// Most that are drawn.
    most: usize,
    /// None while it waits for room.
    pub(super) cache: Option<Cache>,
    sampler: Sampler,
    stream: Stream,
    written: Option<Written>,
}

impl Job {
    pub(super) fn begin(model: &Model, item: Item<TextGenerationRequest>) -> Result<Self, RunError> {
        let request = &item.request;
        let sampling = model.generation.sampling(&request.settings.wishes);
        let text = |(number, Prompt { tokens, most }): (u64, Prompt)| Text {
            prompt: tokens.len(),
            tokens,
            most,
            cache: None,
            sampler: Sampler::new(sampling, request.seed, number),
            stream: Stream::new(&request.settings.stop),
            written: None,
        };
        let texts = (0..).zip(model.read(request)?).map(text).collect();
        let job = Self { item, sampling, texts };
        job.tell();
        Ok(job)
    }

    /// Tokens of it that there must be room for now.
    pub(super) fn held(&self) -> usize {
        self.texts.iter().filter_map(|text| text.cache.as_ref()).map(Cache::most).sum()
    }

    /// What is left to do for its result, when all texts are done.
    pub(super) fn finish(self) -> Result<Finish, RunError> {
        let written: Vec<Written> =
            self.texts.into_iter().map(|text| text.written.ok_or_else(lost)).collect::<Result<_, _>>()?;
        Ok(Box::new(move || Ok(product(&self.item.request, &self.sampling, &written))))
    }
}

impl Working for Job {
    fn is_cancelled(&self) -> bool {
        self.item.cancel.is_cancelled()
    }

    fn is_done(&self) -> bool {
        self.texts.iter().all(Text::is_done)
    }

    /// How far the text is that has the most to go.
    fn progress(&self) -> Progress {
        let steps = self.texts.iter().map(|text| text.most).max().unwrap_or(0);
        let left = self.texts.iter().map(Text::left).max().unwrap_or(0);
        Progress { step: (steps - left) as u32, steps: steps as u32 }
    }

    fn tell(&self) {
        self.item.tell(self.progress());
    }
}

impl Text {
    pub(super) fn is_done(&self) -> bool {
        self.written.is_some()
    }

    /// Tokens that may still be drawn.
    fn left(&self) -> usize {
        if self.is_done() { 0 } else { self.most - (self.tokens.len() - self.prompt) }
    }

    /// Tokens that it may come to with its prompt. The last of them is never computed.
    pub(super) fn needs(&self) -> usize {
        self.prompt + self.most - 1
    }

    /// Its next tokens, and whether they are a part of a prompt; none of one that waits or is done.
    pub(super) fn piece(&mut self) -> Option<(Piece, bool)> {
        let cache = self.cache.take()?;
        let rest = &self.tokens[cache.length()..];
        let tokens = rest[..rest.len().min(PIECE)].to_vec();
        let long = tokens.len() > 1;
        Some((Piece { tokens, cache }, long))
    }

    /// Takes a piece back as it was.
    pub(super) fn put_back(&mut self, piece: Piece) {
        self.cache = Some(piece.cache);
    }

    /// Takes a piece back that was computed, with the logits after it.
    pub(super) fn take(&mut self, model: &Model, piece: Piece, logits: Vec<f32>) -> Result<(), RunError> {
        let Piece { tokens, mut cache } = piece;
        cache.advance(tokens.len());
        if cache.length() < self.tokens.len() {
            self.cache = Some(cache);
            return Ok(());
        }
        let token = self.sampler.draw(logits, &self.tokens)?;
        self.tokens.push(token);
        let ended = model.ends.contains(&token);
        let stopped = !ended && self.stream.push(&model.tokenizer, token)?;
        let completion_tokens = self.tokens.len() - self.prompt;
        if !(ended || stopped || completion_tokens == self.most) {
            self.cache = Some(cache);
            return Ok(());
        }
        let reason = if ended || stopped { FinishReason::Stop } else { FinishReason::Length };
        let text = std::mem::take(&mut self.stream).finish(&model.tokenizer, stopped)?;
        self.written = Some(Written { text, reason, prompt_tokens: self.prompt, completion_tokens });
        Ok(())
    }
}
