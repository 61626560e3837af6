//! A loaded model: what jobs may ask of it, and how the text of a window begins.

use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};
use millrace_api::task::speech_to_text::{LANGUAGE, PROMPT, TASK};
use tokenizers::Tokenizer;

use super::decoder::{Decoder, Heard};
use super::encoder::Encoder;
use super::mel::{Features, Mel};
use super::request::Settings;
use super::rules::Marks;
use crate::model::{InvalidInput, RunError, tokenizing};

/// All that a folder holds.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) mel: Arc<Mel>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) marks: Marks,
    /// Frames of a window.
    pub(super) window: usize,
    /// Places that the decoder has for tokens.
    pub(super) tokens: usize,
    /// Most tokens of a window's text, without those that are before it.
    pub(super) most: usize,
    pub(super) device: Device,
}

/// A window that was cut out of a job's features: (frames, bands).
pub(super) struct Window(Vec<f32>);

impl Model {
    /// Whether the model can do what is asked for.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), InvalidInput> {
        let marks = &self.marks;
        match &settings.language {
            Some(code) if marks.languages.is_empty() && code != "en" => {
                let message =
                    format!("cannot be {code}: the model knows English alone; take one that is not called .en");
                return Err(InvalidInput::field(LANGUAGE.name(), message));
            }
            Some(code) if !marks.languages.is_empty() && !marks.languages.contains_key(code) => {
                let known: Vec<&str> = marks.languages.keys().map(String::as_str).collect();
                let message = format!("cannot be {code}: the model knows {}", known.join(", "));
                return Err(InvalidInput::field(LANGUAGE.name(), message));
            }
            _ => {}
        }
        if settings.translate && marks.translate.is_none() {
            let message = "cannot be translate: the model only writes down what it hears";
            return Err(InvalidInput::field(TASK.name(), message));
        }
        if settings.prompt.is_some() && marks.previous.is_none() {
            let message = "cannot be given to this model: its generation_config.json has no prev_sot_token_id";
            return Err(InvalidInput::field(PROMPT.name(), message));
        }
        Ok(())
    }

    /// The tokens of what may have come before: the last ones, at most half of what there are places for.
    pub(super) fn read_prompt(&self, settings: &Settings) -> Result<Vec<u32>, RunError> {
        let (Some(prompt), Some(previous)) = (&settings.prompt, self.marks.previous) else { return Ok(Vec::new()) };
        let tokens = tokenizing::words(&self.tokenizer, &format!(" {prompt}"))
            .map_err(|error| InvalidInput::field(PROMPT.name(), error.to_string()))?;
        // a mark that somebody wrote is no text
        let tokens: Vec<u32> = tokens.into_iter().filter(|token| *token < self.marks.end).collect();
        let places = (self.tokens / 2).saturating_sub(1);
        let from = tokens.len().saturating_sub(places);
        Ok(std::iter::once(previous).chain(tokens.into_iter().skip(from)).collect())
    }

    /// What a text begins with that is not drawn.
    pub(super) fn begin(&self, prompt: &[u32], language: Option<&str>, translate: bool, timed: bool) -> Vec<u32> {
        let marks = &self.marks;
        let mut tokens = prompt.to_vec();
        tokens.push(marks.start);
        tokens.extend(language.and_then(|code| marks.languages.get(code)));
        tokens.extend(if translate { marks.translate } else { marks.transcribe });
        tokens.extend((!timed).then_some(marks.no_times));
        tokens
    }

    /// The window of a job's features that begins at a frame; behind their end there is nothing.
    pub(super) fn cut(&self, features: &Features, from: usize) -> Window {
        let values = features.values.get(from * features.bands..).unwrap_or_default();
        let most = self.window * features.bands;
        let mut window = values[..values.len().min(most)].to_vec();
        window.resize(most, 0.0);
        Window(window)
    }

    /// What is heard in windows.
    pub(super) fn hear(&self, windows: &[Window]) -> CandleResult<Vec<Heard>> {
        let values: Vec<f32> = windows.iter().flat_map(|window| window.0.iter().copied()).collect();
        let shape = (windows.len(), self.window, values.len() / (windows.len() * self.window).max(1));
        let encoded = self.encoder.forward(&Tensor::from_vec(values, shape, &self.device)?)?;
        (0..windows.len()).map(|index| self.decoder.hear(&encoded.get(index)?)).collect()
    }
}
