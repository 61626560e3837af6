//! `tokenizer.json` as every task reads it.

use tokenizers::Tokenizer;

use super::LoadError;
use super::folder::{Folder, corrupt};

/// Why a text has no tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be tokenized: {0}")]
pub(super) struct TokenizeError(String);

/// Reads a tokenizer. How long texts are and what fills them up is left to whoever asks: a file has what it had when somebody
/// saved it after use.
pub(super) fn open(folder: &Folder, file: &str) -> Result<Tokenizer, LoadError> {
    let wrong = |error: tokenizers::Error| corrupt(file, &error.to_string());
    let mut tokenizer = Tokenizer::from_file(folder.small(file)?).map_err(wrong)?;
    tokenizer.with_truncation(None).map_err(wrong)?.with_padding(None);
    Ok(tokenizer)
}

/// The tokens of a text alone.
pub(super) fn words(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizeError> {
    let encoding = tokenizer.encode_fast(text, false).map_err(|error| TokenizeError(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// The tokens of a text, with those that the tokenizer puts around one.
pub(super) fn framed(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizeError> {
    let encoding = tokenizer.encode_fast(text, true).map_err(|error| TokenizeError(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}
