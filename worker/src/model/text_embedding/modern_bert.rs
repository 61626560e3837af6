//! ModernBERT, after transformers' `ModernBertModel`: norms come first, places are told by turning queries and keys, and in
//! most layers a token sees only its neighbours.

use candle_core::{D, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, embedding};

use super::attention::{Attention, Rope, Sight};
use super::bert::bare;
use super::config::Config;
use super::layers::{Activation, LayerNorm, Linear};
use super::pack::{Pack, Run};

/// One encoder.
#[derive(Debug)]
pub(super) struct ModernBert {
    words: Embedding,
    norm: LayerNorm,
    blocks: Vec<Block>,
    heads: usize,
    all: Rope,
    near: Rope,
    reach: usize,
    final_norm: LayerNorm,
}

impl ModernBert {
    /// One that reads texts of up to `longest` tokens.
    pub(super) fn new(vb: &VarBuilder, config: &Config, longest: usize) -> Result<Self> {
        let vb = bare(vb, "model", "embeddings.tok_embeddings.weight");
        let (width, modern) = (config.hidden_size, &config.modern);
        let norm = |vb: VarBuilder| LayerNorm::with_bias_if(&vb, width, modern.norm_eps, modern.norm_bias);
        let rope = |theta: f64| Rope::new(longest, config.head(), theta, vb.dtype(), vb.device());
        let (all, near) = modern.thetas();
        let blocks = (0..config.num_hidden_layers).map(|layer| Block::new(&vb.pp("layers").pp(layer), config, layer));
        Ok(Self {
            words: embedding(config.vocab_size, width, vb.pp("embeddings.tok_embeddings"))?,
            norm: norm(vb.pp("embeddings.norm"))?,
            blocks: blocks.collect::<Result<_>>()?,
            heads: config.num_attention_heads,
            all: rope(all)?,
            near: rope(near)?,
            reach: modern.reach(),
            final_norm: norm(vb.pp("final_norm"))?,
        })
    }

    /// The last layer's states, normalised: (tokens, width).
    pub(super) fn forward(&self, pack: &Pack) -> Result<Tensor> {
        let device = self.words.embeddings().device();
        let mut states = self.norm.forward(&self.words.forward(&pack.ids(device)?)?)?;
        let all = Attention { heads: self.heads, sight: Sight::All, rope: Some(&self.all) };
        let near = Attention { heads: self.heads, sight: Sight::Near(self.reach), rope: Some(&self.near) };
        let runs = pack.runs();
        for block in &self.blocks {
            states = block.forward(&states, if block.sees_all { all } else { near }, &runs)?;
        }
        self.final_norm.forward(&states)
    }
}

#[derive(Debug)]
struct Block {
    /// None of the first layer, which reads what was normalised already.
    attention_norm: Option<LayerNorm>,
    query_key_value: Linear,
    out: Linear,
    norm: LayerNorm,
    /// What passes, and how far it is let through.
    up: Linear,
    activation: Activation,
    down: Linear,
    sees_all: bool,
}

impl Block {
    fn new(vb: &VarBuilder, config: &Config, layer: usize) -> Result<Self> {
        let (width, inner, modern) = (config.hidden_size, config.intermediate_size, &config.modern);
        let norm = |vb: VarBuilder| LayerNorm::with_bias_if(&vb, width, modern.norm_eps, modern.norm_bias);
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        let heads = config.num_attention_heads;
        Ok(Self {
            attention_norm: (layer > 0).then(|| norm(vb.pp("attn_norm"))).transpose()?,
            query_key_value: Linear::stacked_already(&attn.pp("Wqkv"), width, heads, modern.attention_bias)?,
            out: Linear::new(&attn.pp("Wo"), width, width, modern.attention_bias)?,
            norm: norm(vb.pp("mlp_norm"))?,
            up: Linear::new(&mlp.pp("Wi"), width, 2 * inner, modern.mlp_bias)?,
            activation: config.hidden_act,
            down: Linear::new(&mlp.pp("Wo"), inner, width, modern.mlp_bias)?,
            sees_all: modern.sees_all(layer),
        })
    }

    fn forward(&self, x: &Tensor, attention: Attention, runs: &[Run]) -> Result<Tensor> {
        let normed = self.attention_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))?;
        let attended = attention.forward(&self.query_key_value.forward(&normed)?, runs)?;
        let x = (x + self.out.forward(&attended)?)?;
        let inner = self.up.forward(&self.norm.forward(&x)?)?.chunk(2, D::Minus1)?;
        let inner = (self.activation.forward(&inner[0])? * &inner[1])?;
        x + self.down.forward(&inner)?
    }
}
