//! Texts as tokens and back, and what marks the end of one.

use serde::Deserialize;
use tokenizers::Tokenizer as Inner;

use crate::model::folder::{Folder, corrupt};
use crate::model::tokenizing::{self, TokenizeError};
use crate::model::{LoadError, RunError};

const FILE: &str = "tokenizer.json";
/// What else is known of a tokenizer.
pub(super) const SETTINGS: &str = "tokenizer_config.json";

/// A token as a settings file names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    Text(String),
    Token { content: String },
}

impl Named {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

#[derive(Debug)]
pub(super) struct Tokenizer {
    inner: Inner,
}

impl Tokenizer {
    /// Loads the tokenizer of a model that knows so many tokens.
    pub(super) fn load(folder: &Folder, vocabulary: usize) -> Result<Self, LoadError> {
        let inner = tokenizing::open(folder, FILE)?;
        let known = inner.get_vocab_size(true);
        if known > vocabulary {
            return Err(corrupt(FILE, &format!("it has {known} tokens for a model that knows {vocabulary}")));
        }
        Ok(Self { inner })
    }

    /// The tokens of a text; `framed` with those that the model was trained to see before a text, which a rendered conversation
    /// has already.
    pub(super) fn tokens(&self, text: &str, framed: bool) -> Result<Vec<u32>, TokenizeError> {
        if !framed {
            return tokenizing::words(&self.inner, text);
        }
        tokenizing::framed(&self.inner, text)
    }

    /// The text of tokens, without those that are no text.
    pub(super) fn text(&self, tokens: &[u32]) -> Result<String, RunError> {
        self.inner
            .decode(tokens, true)
            .map_err(|error| RunError::Model(format!("the tokens cannot be made a text: {error}")))
    }

    /// The token of a number.
    pub(super) fn token(&self, number: u32) -> Option<String> {
        self.inner.id_to_token(number)
    }

    /// The number of a token.
    pub(super) fn number(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}
