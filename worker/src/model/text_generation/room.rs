//! How many tokens may be kept at a time, of all texts together: each leaves a key and a value in every layer.
//!
//! On a CPU a process that takes too much is killed, so texts whose tokens have no room wait for others to end. On a GPU too much
//! is an error that harms nobody: whoever meets it gives up what it has and is computed again when another text has ended.

use candle_core::{DType, Device};

use super::config::Config;
use crate::model::memory::for_keys;

const MIB: f64 = 1_048_576.0;

/// For keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    tokens: usize,
    bytes_of_token: f64,
}

impl Room {
    /// Beside a model that is loaded on `device` and computes in `dtype`.
    pub(super) fn new(config: &Config, dtype: DType, device: &Device) -> Self {
        let numbers = 2 * config.num_hidden_layers * config.kept_heads() * config.head();
        let bytes_of_token = (numbers * dtype.size_in_bytes()) as f64;
        let tokens = match for_keys().filter(|_| device.is_cpu()) {
            Some(free) => (free / bytes_of_token) as usize,
            None => usize::MAX,
        };
        tracing::info!(bytes_of_token, tokens = (tokens < usize::MAX).then_some(tokens), "room for keys and values");
        Self { tokens, bytes_of_token }
    }

    /// Tokens that there is room for.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why so many tokens of one text can never be kept.
    pub(super) fn too_small_for(&self, tokens: usize) -> Option<String> {
        let mebibytes = |tokens: usize| (tokens as f64 * self.bytes_of_token / MIB).round();
        (tokens > self.tokens).then(|| {
            format!(
                "{tokens} tokens of prompt and answer take {} MiB of keys and values, and there is room for {}: lower max_tokens, or \
                 raise worker.resources' memory",
                mebibytes(tokens),
                mebibytes(self.tokens)
            )
        })
    }

    /// There is room for so many, whatever the machine has.
    #[cfg(test)]
    pub(super) fn set(&mut self, tokens: usize) {
        self.tokens = tokens;
    }
}
