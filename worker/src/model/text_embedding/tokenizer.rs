//! A text as the tokens that an encoder reads: `tokenizer.json`, cut to the model's length here.

use serde::Deserialize;
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{NormalizerWrapper, Tokenizer as Inner};

use super::layout::SENTENCE_CONFIG;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, within};
use crate::model::tokenizing::{self, TokenizeError};

const SETTINGS: &str = "tokenizer_config.json";
/// Any text that has tokens, to see what is put around them.
const SAMPLE: &str = "a";

#[derive(Debug)]
pub(super) struct Tokenizer {
    inner: Inner,
    /// Put before and after the tokens of a text.
    before: Vec<u32>,
    after: Vec<u32>,
    limit: Limit,
}

/// How many tokens of a text are read, those around it included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) tokens: usize,
    /// The setting that says so, and its file.
    pub(super) setting: &'static str,
    pub(super) file: &'static str,
}

/// What is asked of a tokenizer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// `max_seq_length` of the folder, where it has one.
    pub(super) max_seq_length: Option<usize>,
    /// Tokens that the encoder has places for.
    pub(super) places: usize,
    /// Tokens that the encoder knows.
    pub(super) vocabulary: usize,
    /// Whether texts are read in small letters, whatever the tokenizer does.
    pub(super) lower_case: bool,
}

impl Limit {
    fn of(wanted: Wanted, model_max_length: Option<f64>) -> Self {
        let limit = |setting, file| move |tokens| Self { tokens, setting, file };
        let said = wanted.max_seq_length.map(limit("max_seq_length", SENTENCE_CONFIG));
        let of_tokenizer = model_max_length.map(|length| length as usize).map(limit("model_max_length", SETTINGS));
        let places = limit("max_position_embeddings", "config.json")(wanted.places);
        said.or(of_tokenizer).filter(|limit| limit.tokens <= wanted.places).unwrap_or(places)
    }
}

impl Tokenizer {
    /// Loads the tokenizer that lies in `component`.
    pub(super) fn load(folder: &Folder, component: &str, wanted: Wanted) -> Result<Self, LoadError> {
        #[derive(Default, Deserialize)]
        struct Settings {
            /// A float where it stands for "no limit".
            model_max_length: Option<f64>,
        }
        let file = within(component, "tokenizer.json");
        let wrong = |error: tokenizers::Error| corrupt(&file, &error.to_string());
        let mut inner = tokenizing::open(folder, &file)?;
        if wanted.lower_case {
            lower(&mut inner).map_err(wrong)?;
        }
        let settings = within(component, SETTINGS);
        let settings: Settings = if folder.has(&settings) { folder.json(&settings)? } else { Settings::default() };
        let known = inner.get_vocab_size(true);
        if known > wanted.vocabulary {
            return Err(corrupt(
                &file,
                &format!("it has {known} tokens for an encoder that knows {}", wanted.vocabulary),
            ));
        }
        let (before, after) =
            around(&inner).map_err(wrong)?.ok_or_else(|| corrupt(&file, "it changes what it frames"))?;
        let limit = Limit::of(wanted, settings.model_max_length);
        if limit.tokens <= before.len() + after.len() {
            let what = format!("{} is {}, which leaves no room for a text", limit.setting, limit.tokens);
            return Err(corrupt(&within(component, limit.file), &what));
        }
        Ok(Self { inner, before, after, limit })
    }

    /// The tokens of a text alone.
    pub(super) fn words(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        tokenizing::words(&self.inner, text)
    }

    /// What the encoder reads of a text's tokens: as many as there is room for, framed.
    pub(super) fn frame(&self, words: &[u32]) -> Vec<u32> {
        let words = &words[..words.len().min(self.room())];
        [&self.before, words, &self.after].concat()
    }

    /// Tokens of a text that there is room for, without those around them.
    pub(super) fn room(&self) -> usize {
        self.limit.tokens - self.before.len() - self.after.len()
    }

    /// Tokens that are put before a text's.
    pub(super) fn before(&self) -> usize {
        self.before.len()
    }

    pub(super) fn limit(&self) -> Limit {
        self.limit
    }
}

/// Has texts read in small letters, where they are not already.
fn lower(inner: &mut Inner) -> tokenizers::Result<()> {
    let own = inner.get_normalizer().cloned();
    let is_lower = |one: &NormalizerWrapper| match one {
        NormalizerWrapper::Lowercase(_) => true,
        NormalizerWrapper::BertNormalizer(bert) => bert.lowercase,
        _ => false,
    };
    let lowers = match &own {
        Some(NormalizerWrapper::Sequence(all)) => all.as_ref().iter().any(is_lower),
        Some(one) => is_lower(one),
        None => false,
    };
    if !lowers {
        let all = std::iter::once(Lowercase.into()).chain(own).collect();
        inner.with_normalizer(Some(Sequence::new(all)))?;
    }
    Ok(())
}

/// What is put before and after a text's tokens.
fn around(inner: &Inner) -> tokenizers::Result<Option<(Vec<u32>, Vec<u32>)>> {
    let bare = inner.encode_fast(SAMPLE, false)?;
    let framed = inner.encode_fast(SAMPLE, true)?;
    let (bare, framed) = (bare.get_ids(), framed.get_ids());
    if bare.is_empty() {
        return Ok(None);
    }
    let at = framed.windows(bare.len()).position(|window| window == bare);
    Ok(at.map(|at| (framed[..at].to_vec(), framed[at + bare.len()..].to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_is_said_as_far_as_there_are_places() {
        let limit = |max_seq_length, model_max_length| {
            let wanted = Wanted { max_seq_length, places: 512, vocabulary: 1, lower_case: false };
            let Limit { tokens, setting, .. } = Limit::of(wanted, model_max_length);
            (tokens, setting)
        };
        assert_eq!(limit(Some(256), Some(128.0)), (256, "max_seq_length"));
        assert_eq!(limit(None, Some(128.0)), (128, "model_max_length"));
        assert_eq!(limit(None, Some(1e30)), (512, "max_position_embeddings"));
        assert_eq!(limit(Some(1024), Some(128.0)), (512, "max_position_embeddings"));
        assert_eq!(limit(None, None), (512, "max_position_embeddings"));
    }
}
