//! The CLIP text encoders of SDXL, after transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.
//!
//! candle's own gives the last layer; SDXL was trained on the one before it, and on the second encoder's projected
//! embedding of the end token.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use candle_nn::{
    Embedding, LayerNorm, Linear, Module, VarBuilder, embedding, layer_norm, linear, linear_no_bias, ops::sigmoid,
};
use serde::Deserialize;

use super::attention::attention;
use super::folder::{Folder, corrupt};
use super::tokenizer::Tokens;
use crate::model::LoadError;

/// `text_encoder/config.json`, in its own words.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default)]
    hidden_act: Activation,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "default_projection")]
    projection_dim: usize,
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_projection() -> usize {
    512
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    /// `x · sigmoid(1.702 x)`: the first encoder of SDXL.
    #[default]
    QuickGelu,
    /// The exact one, by the error function: the second encoder.
    Gelu,
}

impl Config {
    pub(super) fn read(folder: &Folder, component: &str) -> std::result::Result<Self, LoadError> {
        let file = format!("{component}/config.json");
        let config: Self = folder.config(&file, &[])?;
        if config.num_hidden_layers == 0 {
            return Err(corrupt(&file, "num_hidden_layers is 0"));
        }
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(corrupt(&file, "num_attention_heads does not divide hidden_size"));
        }
        Ok(config)
    }

    /// Width of the hidden states.
    pub(super) fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Width of the pooled embedding.
    pub(super) fn projection_dim(&self) -> usize {
        self.projection_dim
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// One text encoder.
#[derive(Debug)]
pub(super) struct TextEncoder {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    device: Device,
}

/// What an encoder makes of a batch of texts.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Hidden states before the last layer: (batch, tokens, `hidden_size`).
    pub(super) hidden: Tensor,
    /// The projected state of the end token: (batch, `projection_dim`); of the encoder that has a projection.
    pub(super) pooled: Option<Tensor>,
}

impl TextEncoder {
    /// Builds an encoder; `projected` for the second one.
    pub(super) fn new(vb: &VarBuilder, config: &Config, projected: bool) -> Result<Self> {
        // transformers leaves the prefix out since version 5; whoever published before that has it.
        let bare = !vb.contains_tensor("text_model.embeddings.token_embedding.weight")
            && vb.contains_tensor("embeddings.token_embedding.weight");
        let model = if bare { vb.clone() } else { vb.pp("text_model") };
        let embeddings = model.pp("embeddings");
        let width = config.hidden_size;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(&model.pp("encoder").pp("layers").pp(i), config))
            .collect::<Result<_>>()?;
        let project = || linear_no_bias(width, config.projection_dim, vb.pp("text_projection"));
        Ok(Self {
            token_embedding: embedding(config.vocab_size, width, embeddings.pp("token_embedding"))?,
            position_embedding: embedding(config.max_position_embeddings, width, embeddings.pp("position_embedding"))?,
            layers,
            final_norm: layer_norm(width, config.layer_norm_eps, model.pp("final_layer_norm"))?,
            projection: projected.then(project).transpose()?,
            device: vb.device().clone(),
        })
    }

    /// Encodes texts of one length.
    pub(super) fn encode(&self, texts: &[&Tokens]) -> Result<Encoded> {
        let length = texts.first().map_or(0, |text| text.ids.len());
        let ids: Vec<u32> = texts.iter().flat_map(|text| text.ids.iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (texts.len(), length), &self.device)?;
        let positions = Tensor::arange(0, length as u32, &self.device)?.unsqueeze(0)?;
        let embedded = self.token_embedding.forward(&ids)?;
        let mut states = embedded.broadcast_add(&self.position_embedding.forward(&positions)?)?;
        let mask = causal_mask(length, &self.device)?;

        let mut hidden = states.clone();
        for layer in &self.layers {
            hidden = states;
            states = layer.forward(&hidden, &mask)?;
        }
        let pooled = match &self.projection {
            None => None,
            Some(projection) => {
                let ends = texts.iter().enumerate().map(|(row, text)| states.i((row, text.end)));
                let ends = Tensor::stack(&ends.collect::<Result<Vec<_>>>()?, 0)?;
                Some(projection.forward(&self.final_norm.forward(&ends)?)?)
            }
        };
        Ok(Encoded { hidden, pooled })
    }
}

/// Lets each token see itself and those before it.
fn causal_mask(length: usize, device: &Device) -> Result<Tensor> {
    let hidden = |i: usize, j: usize| if j > i { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..length).flat_map(|i| (0..length).map(move |j| hidden(i, j))).collect();
    Tensor::from_vec(mask, (1, 1, length, length), device)?.to_dtype(DType::F32)
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Layer {
    fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let width = config.hidden_size;
        let attn = vb.pp("self_attn");
        let mlp = vb.pp("mlp");
        Ok(Self {
            norm1: layer_norm(width, config.layer_norm_eps, vb.pp("layer_norm1"))?,
            query: linear(width, width, attn.pp("q_proj"))?,
            key: linear(width, width, attn.pp("k_proj"))?,
            value: linear(width, width, attn.pp("v_proj"))?,
            out: linear(width, width, attn.pp("out_proj"))?,
            heads: config.num_attention_heads,
            norm2: layer_norm(width, config.layer_norm_eps, vb.pp("layer_norm2"))?,
            up: linear(width, config.intermediate_size, mlp.pp("fc1"))?,
            down: linear(config.intermediate_size, width, mlp.pp("fc2"))?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let (query, key, value) =
            (self.query.forward(&normed)?, self.key.forward(&normed)?, self.value.forward(&normed)?);
        let attended = attention(&query, &key, &value, self.heads, Some(mask))?;
        let x = (x + self.out.forward(&attended)?)?;
        let inner = self.up.forward(&self.norm2.forward(&x)?)?;
        let inner = match self.activation {
            Activation::QuickGelu => (&inner * sigmoid(&(&inner * 1.702)?)?)?,
            Activation::Gelu => inner.gelu_erf()?,
        };
        x + self.down.forward(&inner)?
    }
}

/// Joins the hidden states of the two encoders, as SDXL's UNet takes them.
pub(super) fn join(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[first, second], D::Minus1)
}
