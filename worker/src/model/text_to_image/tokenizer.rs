//! CLIP's byte-pair tokenizer: from `tokenizer.json`, or from `vocab.json` and `merges.txt` as most SDXL repositories
//! have it.

use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt};
use crate::model::tokenizing::{self, TokenizeError};

/// How CLIP cuts a text into words before it looks for byte pairs.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

#[derive(Debug)]
pub(super) struct Tokenizer {
    inner: Inner,
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
}

/// The part of `tokenizer_config.json` and `special_tokens_map.json` that matters here.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    pad_token: Option<Special>,
    /// A float in some repositories, where it stands for "no limit".
    model_max_length: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Special {
    Plain(String),
    Added { content: String },
}

impl Special {
    fn text(self) -> String {
        match self {
            Self::Plain(text) | Self::Added { content: text } => text,
        }
    }
}

impl Tokenizer {
    /// Loads a tokenizer for an encoder that reads `positions` tokens out of `vocabulary`.
    pub(super) fn load(
        folder: &Folder,
        component: &str,
        positions: usize,
        vocabulary: usize,
    ) -> Result<Self, LoadError> {
        let file = format!("{component}/tokenizer.json");
        let (file, mut inner) = if folder.has(&file) {
            let inner = tokenizing::open(folder, &file)?;
            (file, inner)
        } else {
            (format!("{component}/vocab.json"), from_vocabulary(folder, component)?)
        };
        let settings: Settings = folder.json(&format!("{component}/tokenizer_config.json"))?;
        let map = format!("{component}/special_tokens_map.json");
        let more: Settings = if folder.has(&map) { folder.json(&map)? } else { Settings::default() };

        let named = |one: Option<Special>, other: Option<Special>| one.or(other).map(Special::text);
        let begin = named(settings.bos_token, more.bos_token).unwrap_or_else(|| "<|startoftext|>".into());
        let end = named(settings.eos_token, more.eos_token).unwrap_or_else(|| "<|endoftext|>".into());
        let pad = named(settings.pad_token, more.pad_token).unwrap_or_else(|| end.clone());
        // Within a prompt too they are whole tokens: SDXL's second tokenizer reads every "!" as its padding, and the
        // model was trained on that.
        let special = [&begin, &end, &pad].map(|text| AddedToken::from(text.as_str(), true));
        inner.add_special_tokens(special).map_err(|error| corrupt(&file, &error.to_string()))?;

        let id = |text: &str| match inner.token_to_id(text) {
            Some(id) if (id as usize) < vocabulary => Ok(id),
            Some(id) => {
                Err(corrupt(&file, &format!("token {text} is number {id} of an encoder that knows {vocabulary}")))
            }
            None => Err(corrupt(&file, &format!("it has no token {text}"))),
        };
        let limit = settings.model_max_length.or(more.model_max_length).map_or(positions, |limit| limit as usize);
        let length = limit.min(positions);
        if length < 3 {
            return Err(corrupt(&format!("{component}/tokenizer_config.json"), "model_max_length is below 3"));
        }
        Ok(Self { begin: id(&begin)?, end: id(&end)?, pad: id(&pad)?, length, inner })
    }

    /// How many tokens the encoder reads.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// How many tokens of a text fit between its begin and end tokens.
    pub(super) fn room(&self) -> usize {
        self.length - 2
    }

    /// The tokens of a text alone.
    pub(super) fn words(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        tokenizing::words(&self.inner, text)
    }

    /// A chunk of at most [`Self::room`] tokens as the encoder reads it: between begin and end, filled up to the full
    /// length.
    pub(super) fn frame(&self, words: &[u32]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.begin);
        ids.extend(words.iter().take(self.room()));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        ids
    }
}

/// CLIP's tokenizer around a published vocabulary, as transformers converts it.
fn from_vocabulary(folder: &Folder, component: &str) -> Result<Inner, LoadError> {
    let vocabulary = format!("{component}/vocab.json");
    let merges = format!("{component}/merges.txt");
    let wrong = |error: tokenizers::Error| corrupt(&vocabulary, &format!("with merges.txt: {error}"));
    let (words_of, pairs_of) = (folder.small(&vocabulary)?, folder.small(&merges)?);
    let bpe = BPE::from_file(&words_of.to_string_lossy(), &pairs_of.to_string_lossy())
        .end_of_word_suffix("</w>".into())
        .unk_token("<|endoftext|>".into())
        .build()
        .map_err(wrong)?;
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(wrong)?;
    let words = SplitPattern::Regex(WORDS.into());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(wrong)?;
    let mut inner = Inner::new(bpe);
    inner
        .with_normalizer(Some(Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()])))
        .map_err(wrong)?
        .with_pre_tokenizer(Some(PreSequence::new(vec![words.into(), ByteLevel::new(false, true, true).into()])));
    Ok(inner)
}
