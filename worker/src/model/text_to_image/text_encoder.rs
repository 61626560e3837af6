//! CLIP text encoders, after transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.
//!
//! Stable Diffusion reads the last layer's states, normalised. SDXL was trained on those before the last layer, as they
//! are, and on the second encoder's projected embedding of the end token.

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Module, VarBuilder, embedding, layer_norm, ops::sigmoid};
use millrace_nn::attention::{Scores, attention};
use millrace_nn::linear::{Linear, linear, linear_no_bias};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt};

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
    #[serde(default = "default_end")]
    eos_token_id: u32,
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_projection() -> usize {
    512
}

fn default_end() -> u32 {
    49_407
}

/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_LAYERS: usize = 256;
const MAX_WIDTH: usize = 1 << 20;

/// The `eos_token_id` of configs that were published before it was right: the end is where the highest token is.
const OLD_END: u32 = 2;

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Activation {
    /// `x · sigmoid(1.702 x)`: OpenAI's own CLIP.
    #[default]
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// The exact one, by the error function: OpenCLIP.
    #[serde(rename = "gelu")]
    Gelu,
    /// Approximated by a hyperbolic tangent.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    TanhGelu,
}

/// Which states of an encoder the UNet reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// The last, normalised.
    Last,
    /// The one before it, as it is.
    Penultimate,
}

impl Config {
    pub(super) fn read(folder: &Folder, component: &str) -> std::result::Result<Self, LoadError> {
        let file = format!("{component}/config.json");
        let off = [json!(false), Value::Null];
        let clip = [json!("clip_text_model"), Value::Null];
        let config: Self = folder.config(&file, &[("use_attention_mask", &off), ("model_type", &clip)])?;
        let widths = [config.vocab_size, config.hidden_size, config.intermediate_size, config.projection_dim];
        if widths.iter().any(|width| !(1..=MAX_WIDTH).contains(width)) {
            return Err(corrupt(
                &file,
                &format!("vocab_size, hidden_size, intermediate_size and projection_dim must be from 1 to {MAX_WIDTH}"),
            ));
        }
        if !(1..=MAX_LAYERS).contains(&config.num_hidden_layers) || config.max_position_embeddings > MAX_WIDTH {
            return Err(corrupt(&file, &format!("num_hidden_layers must be from 1 to {MAX_LAYERS}")));
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
    layers: Vec<Block>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    layer: Layer,
    /// The end token; none for the highest of a text.
    end: Option<u32>,
    device: Device,
}

/// What an encoder makes of a batch of texts.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Hidden states of the layer that is read: (texts, tokens, `hidden_size`).
    pub(super) hidden: Tensor,
    /// The projected state of the end token: (texts, `projection_dim`); of an encoder that has a projection.
    pub(super) pooled: Option<Tensor>,
}

impl TextEncoder {
    /// Builds an encoder that is read at `layer`; `projected` where it has a projection.
    pub(super) fn new(vb: &VarBuilder, config: &Config, layer: Layer, projected: bool) -> Result<Self> {
        // transformers 5 writes an encoder without a projection without this prefix; a file with neither lacks the old one
        let bare = !vb.contains_tensor("text_model.embeddings.token_embedding.weight")
            && vb.contains_tensor("embeddings.token_embedding.weight");
        let model = if bare { vb.clone() } else { vb.pp("text_model") };
        let embeddings = model.pp("embeddings");
        let width = config.hidden_size;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Block::new(&model.pp("encoder").pp("layers").pp(i), config))
            .collect::<Result<_>>()?;
        let project = || linear_no_bias(width, config.projection_dim, &vb.pp("text_projection"));
        Ok(Self {
            token_embedding: embedding(config.vocab_size, width, embeddings.pp("token_embedding"))?,
            position_embedding: embedding(config.max_position_embeddings, width, embeddings.pp("position_embedding"))?,
            layers,
            final_norm: layer_norm(width, config.layer_norm_eps, model.pp("final_layer_norm"))?,
            projection: projected.then(project).transpose()?,
            layer,
            end: Some(config.eos_token_id).filter(|end| *end != OLD_END),
            device: vb.device().clone(),
        })
    }

    /// Encodes texts of one length, each as its tokens.
    pub(super) fn encode(&self, texts: &[&[u32]]) -> Result<Encoded> {
        let length = texts.first().map_or(0, |text| text.len());
        let ids: Vec<u32> = texts.iter().flat_map(|text| text.iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (texts.len(), length), &self.device)?;
        let positions = Tensor::arange(0, length as u32, &self.device)?.unsqueeze(0)?;
        let embedded = self.token_embedding.forward(&ids)?;
        let mut states = embedded.broadcast_add(&self.position_embedding.forward(&positions)?)?;
        let mask = causal_mask(length, &self.device)?;

        let mut before = states.clone();
        for layer in &self.layers {
            before = states;
            states = layer.forward(&before, &mask)?;
        }
        let pooled = match &self.projection {
            None => None,
            Some(projection) => {
                let ends = texts.iter().enumerate().map(|(row, text)| states.i((row, self.end_of(text))));
                let ends = Tensor::stack(&ends.collect::<Result<Vec<_>>>()?, 0)?;
                Some(projection.forward(&self.final_norm.forward(&ends)?)?)
            }
        };
        let hidden = match self.layer {
            Layer::Last => self.final_norm.forward(&states)?,
            Layer::Penultimate => before,
        };
        Ok(Encoded { hidden, pooled })
    }

    /// Where a text ends, as transformers tells it; its first token where it has no end.
    fn end_of(&self, text: &[u32]) -> usize {
        let end = self.end.or_else(|| text.iter().max().copied());
        text.iter().position(|token| Some(*token) == end).unwrap_or(0)
    }
}

/// Lets each token see itself and those before it.
fn causal_mask(length: usize, device: &Device) -> Result<Tensor> {
    let hidden = |i: usize, j: usize| if j > i { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..length).flat_map(|i| (0..length).map(move |j| hidden(i, j))).collect();
    Tensor::from_vec(mask, (1, 1, length, length), device)?.to_dtype(DType::F32)
}

#[derive(Debug)]
struct Block {
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

impl Block {
    fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let width = config.hidden_size;
        let attn = vb.pp("self_attn");
        let mlp = vb.pp("mlp");
        Ok(Self {
            norm1: layer_norm(width, config.layer_norm_eps, vb.pp("layer_norm1"))?,
            query: linear(width, width, &attn.pp("q_proj"))?,
            key: linear(width, width, &attn.pp("k_proj"))?,
            value: linear(width, width, &attn.pp("v_proj"))?,
            out: linear(width, width, &attn.pp("out_proj"))?,
            heads: config.num_attention_heads,
            norm2: layer_norm(width, config.layer_norm_eps, vb.pp("layer_norm2"))?,
            up: linear(width, config.intermediate_size, &mlp.pp("fc1"))?,
            down: linear(config.intermediate_size, width, &mlp.pp("fc2"))?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let (query, key, value) =
            (self.query.forward(&normed)?, self.key.forward(&normed)?, self.value.forward(&normed)?);
        let attended = attention(&query, &key, &value, self.heads, Scores::Masked(mask))?;
        let x = (x + self.out.forward(&attended)?)?;
        let inner = self.up.forward(&self.norm2.forward(&x)?)?;
        let inner = match self.activation {
            Activation::QuickGelu => (&inner * sigmoid(&(&inner * 1.702)?)?)?,
            Activation::Gelu => inner.gelu_erf()?,
            Activation::TanhGelu => inner.gelu()?,
        };
        x + self.down.forward(&inner)?
    }
}
