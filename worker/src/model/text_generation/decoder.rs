//! Decoders of the Llama, Mistral and Qwen families: one block, which they differ in by a bias or a norm.
//!
//! The tokens of a pass lie end to end, whichever text they are of and however many it has of them: a long prompt's next
//! part, one token of a text that is being written. Linear layers and norms see rows and nothing else; attention looks at each
//! text by itself, over the keys and values of its own.

use candle_core::{Device, IndexOp, Result, Tensor};
use candle_nn::ops::silu;

use super::config::{Config, Family};
use super::layers::{Embedding, Linear, Norm, Weights};
use super::rope::{Rope, Turns};
use crate::model::attending::{Sees, attend};
use crate::model::cache::Cache;
use crate::model::passes::{each, ends, lasts};

/// The next tokens of one text.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) tokens: Vec<u32>,
    /// Of those before them.
    pub(super) cache: Cache,
}

/// A loaded decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    /// None where the head's weights are the tokens' vectors as well.
    embedding: Option<Embedding>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    rope: Rope,
    device: Device,
}

impl Decoder {
    /// Reads it; `rope` knows the places of its tokens.
    pub(super) fn new(weights: &dyn Weights, family: Family, config: &Config, rope: Rope, on: &Device) -> Result<Self> {
        const VECTORS: &str = "model.embed_tokens";
        let (width, tokens) = (config.hidden_size, config.vocab_size);
        let (embedding, head) = if config.tie_word_embeddings {
            (None, weights.linear(VECTORS, width, tokens, false)?)
        } else {
            (Some(weights.embedding(VECTORS, tokens, width)?), weights.linear("lm_head", width, tokens, false)?)
        };
        let layers = (0..config.num_hidden_layers).map(|layer| Layer::new(weights, family, config, layer));
        let layers = layers.collect::<Result<_>>()?;
        let norm = weights.norm("model.norm", width, config.rms_norm_eps)?;
        Ok(Self { embedding, layers, norm, head, rope, device: on.clone() })
    }

    /// An empty cache for a text of up to `most` tokens.
    pub(super) fn cache(&self, most: usize) -> Cache {
        Cache::new(self.layers.len(), most)
    }

    /// How likely each token is after each piece's last, as logits. The pieces' caches have what they need to go on from there,
    /// once they are advanced.
    pub(super) fn forward(&self, pieces: &mut [Piece]) -> Result<Vec<Vec<f32>>> {
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        let places: Vec<usize> =
            pieces.iter().flat_map(|Piece { tokens, cache }| cache.length()..cache.length() + tokens.len()).collect();
        let turns = self.rope.at(&places)?;
        let tokens = Tensor::new(tokens, &self.device)?;
        let mut x = match &self.embedding {
            Some(embedding) => embedding.forward(&tokens)?,
            None => self.head.weights_of(&tokens)?,
        };
        let ends = ends(pieces.iter().map(|piece| piece.tokens.len()));
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, index, pieces, &ends, &turns)?;
        }
        let x = x.index_select(&lasts(&ends, &self.device)?, 0)?;
        let logits = self.head.forward(&self.norm.forward(&x)?)?;
        logits.to_dtype(candle_core::DType::F32)?.to_vec2()
    }
}

/// One block.
#[derive(Debug)]
struct Layer {
    before_attention: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Of each head of queries and keys.
    norms: Option<(Norm, Norm)>,
    out: Linear,
    before_mlp: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
    heads: usize,
    kept_heads: usize,
    head: usize,
    window: Option<usize>,
}

impl Layer {
    fn new(weights: &dyn Weights, family: Family, config: &Config, index: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (width, inner, head) = (config.hidden_size, config.intermediate_size, config.head());
        let (heads, kept_heads) = (config.num_attention_heads, config.kept_heads());
        let (biased, biased_out) = config.biases(family);
        let linear = |part: &str, inputs, outputs, biased| weights.linear(&name(part), inputs, outputs, biased);
        let norm = |part: &str, width| weights.norm(&name(part), width, config.rms_norm_eps);
        let norms = match family {
            Family::Qwen3 => Some((norm("self_attn.q_norm", head)?, norm("self_attn.k_norm", head)?)),
            Family::Llama | Family::Mistral | Family::Qwen2 => None,
        };
        Ok(Self {
            before_attention: norm("input_layernorm", width)?,
            query: linear("self_attn.q_proj", width, heads * head, biased)?,
            key: linear("self_attn.k_proj", width, kept_heads * head, biased)?,
            value: linear("self_attn.v_proj", width, kept_heads * head, biased)?,
            norms,
            out: linear("self_attn.o_proj", heads * head, width, biased_out)?,
            before_mlp: norm("post_attention_layernorm", width)?,
            gate: linear("mlp.gate_proj", width, inner, config.mlp_bias)?,
            up: linear("mlp.up_proj", width, inner, config.mlp_bias)?,
            down: linear("mlp.down_proj", inner, width, config.mlp_bias)?,
            heads,
            kept_heads,
            head,
            window: config.window(family, index),
        })
    }

    /// (tokens, width), of all pieces.
    fn forward(&self, x: &Tensor, index: usize, pieces: &mut [Piece], ends: &[usize], turns: &Turns) -> Result<Tensor> {
        let attended = self.attend(&self.before_attention.forward(x)?, index, pieces, ends, turns)?;
        let x = self.out.forward_add(&attended, x)?;
        let normed = self.before_mlp.forward(&x)?;
        let inner = (silu(&self.gate.forward(&normed)?)? * self.up.forward(&normed)?)?;
        self.down.forward_add(&inner, &x)
    }

    fn attend(&self, x: &Tensor, index: usize, pieces: &mut [Piece], ends: &[usize], turns: &Turns) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let query = self.query.forward(x)?.reshape((tokens, self.heads, self.head))?;
        let key = self.key.forward(x)?.reshape((tokens, self.kept_heads, self.head))?;
        let value = self.value.forward(x)?.reshape((tokens, self.kept_heads, self.head))?;
        let (query, key) = match &self.norms {
            Some((of_query, of_key)) => (of_query.forward(&query)?, of_key.forward(&key)?),
            None => (query, key),
        };
        let (query, key) = (turns.turn(&query)?, turns.turn(&key)?);
        each(pieces, ends, x.device(), |piece, own| {
            let kept = |x: &Tensor| x.i(own.clone())?.transpose(0, 1)?.contiguous();
            let (keys, values) = piece.cache.put(index, &kept(&key)?, &kept(&value)?)?;
            attend(&query.i(own)?, &keys, &values, Sees::Before(self.window))
        })
    }
}
