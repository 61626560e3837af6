//! The parts that the UNet is made of: residual blocks, and diffusers' transformer over latents.

use candle_core::{Module, Result, Tensor};
use candle_nn::{LayerNorm, VarBuilder, layer_norm};
use millrace_nn::activation::geglu;
use millrace_nn::attention::{Scores, attention};
use millrace_nn::conv::{Conv, Kernel};
use millrace_nn::linear::{Linear, linear, linear_no_bias};
use millrace_nn::norm::Norm;

use super::resnet::Resnet;

/// What all blocks of one UNet have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    /// Width of the timestep's embedding; none where there is no timestep, as in a VAE.
    pub(super) time_channels: Option<usize>,
    pub(super) groups: usize,
    pub(super) epsilon: f64,
}

/// The transformer of a block that has one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attends {
    pub(super) heads: usize,
    pub(super) layers: usize,
    /// Width of the text.
    pub(super) context: usize,
    /// The first attention is to the text too, not among the latents.
    pub(super) only_text: bool,
    /// Whether the way in and out is a linear layer or a convolution of 1 × 1.
    pub(super) linear: bool,
    /// Scores are computed in f32.
    pub(super) upcast: bool,
}

/// A residual block, and the transformer that follows it where the block type has one.
#[derive(Debug)]
pub(super) struct Unit {
    resnet: Resnet,
    transformer: Option<Transformer>,
}

impl Unit {
    /// Unit `index` of the block at `vb`.
    pub(super) fn new(
        vb: &VarBuilder,
        index: usize,
        (input, output): (usize, usize),
        attends: Option<Attends>,
        shared: Shared,
    ) -> Result<Self> {
        let transformer =
            attends.map(|attends| Transformer::new(&vb.pp("attentions").pp(index), output, attends, shared));
        let resnet = Resnet::new(&vb.pp("resnets").pp(index), input, output, shared)?;
        Ok(Self { resnet, transformer: transformer.transpose()? })
    }

    pub(super) fn forward(&self, x: &Tensor, time: &Tensor, context: &Tensor) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, context),
            None => Ok(x),
        }
    }
}

/// A convolution of 3 × 3 that keeps the size, or halves it with a stride of 2.
pub(super) fn conv3(vb: &VarBuilder, input: usize, output: usize, stride: usize) -> Result<Conv> {
    Conv::new(vb, input, output, Kernel { side: 3, stride, padding: 1 })
}

/// The way into a transformer and out of it.
#[derive(Debug)]
enum Projection {
    Linear(Linear),
    /// Of 1 × 1, as in models before Stable Diffusion 2.
    Conv(Conv),
}

impl Projection {
    fn new(vb: &VarBuilder, channels: usize, linear_projection: bool) -> Result<Self> {
        Ok(if linear_projection {
            Self::Linear(linear(channels, channels, vb)?)
        } else {
            Self::Conv(Conv::new(vb, channels, channels, Kernel::POINT)?)
        })
    }
}

/// diffusers' `Transformer2DModel` over latents.
#[derive(Debug)]
pub(super) struct Transformer {
    norm: Norm,
    project_in: Projection,
    layers: Vec<Layer>,
    project_out: Projection,
}

impl Transformer {
    pub(super) fn new(vb: &VarBuilder, channels: usize, attends: Attends, shared: Shared) -> Result<Self> {
        let blocks = vb.pp("transformer_blocks");
        let layer = |i| Layer::new(&blocks.pp(i), channels, attends);
        Ok(Self {
            norm: Norm::new(&vb.pp("norm"), shared.groups, channels, 1e-6)?,
            project_in: Projection::new(&vb.pp("proj_in"), channels, attends.linear)?,
            layers: (0..attends.layers).map(layer).collect::<Result<_>>()?,
            project_out: Projection::new(&vb.pp("proj_out"), channels, attends.linear)?,
        })
    }

    /// `x` (rows, channels, height, width) with the text `context` (rows, tokens, width) worked in.
    pub(super) fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (rows, channels, height, width) = x.dims4()?;
        let to_tokens = |x: &Tensor| x.flatten_from(2)?.transpose(1, 2);
        let to_latents = |x: &Tensor| x.reshape((rows, height, width, channels))?.permute((0, 3, 1, 2))?.contiguous();
        let normed = self.norm.forward(x)?;
        let mut tokens = match &self.project_in {
            Projection::Linear(project) => project.forward(&to_tokens(&normed)?)?,
            Projection::Conv(project) => to_tokens(&project.forward(&normed)?)?.contiguous()?,
        };
        for layer in &self.layers {
            tokens = layer.forward(&tokens, context)?;
        }
        let out = match &self.project_out {
            Projection::Linear(project) => to_latents(&project.forward(&tokens)?)?,
            Projection::Conv(project) => project.forward(&to_latents(&tokens)?)?,
        };
        out + x
    }
}

/// Attention among the latents, attention to the text, and a gated feed-forward.
#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    first: Attention,
    /// Whether the first attention is to the text.
    only_text: bool,
    norm2: LayerNorm,
    to_text: Attention,
    norm3: LayerNorm,
    gate: Linear,
    out: Linear,
}

impl Layer {
    fn new(vb: &VarBuilder, channels: usize, attends: Attends) -> Result<Self> {
        let norm = |name: &str| layer_norm(channels, 1e-5, vb.pp(name));
        let feed = vb.pp("ff").pp("net");
        let first = if attends.only_text { attends.context } else { channels };
        Ok(Self {
            norm1: norm("norm1")?,
            first: Attention::new(&vb.pp("attn1"), channels, first, attends)?,
            only_text: attends.only_text,
            norm2: norm("norm2")?,
            to_text: Attention::new(&vb.pp("attn2"), channels, attends.context, attends)?,
            norm3: norm("norm3")?,
            gate: linear(channels, channels * 8, &feed.pp("0").pp("proj"))?,
            out: linear(channels * 4, channels, &feed.pp("2"))?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let x = self.first.forward_add(&normed, if self.only_text { context } else { &normed }, x)?;
        let x = self.to_text.forward_add(&self.norm2.forward(&x)?, context, &x)?;
        self.out.forward_add(&geglu(&self.gate.forward(&self.norm3.forward(&x)?)?)?, &x)
    }
}

#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
    upcast: bool,
}

impl Attention {
    fn new(vb: &VarBuilder, channels: usize, context: usize, attends: Attends) -> Result<Self> {
        Ok(Self {
            query: linear_no_bias(channels, channels, &vb.pp("to_q"))?,
            key: linear_no_bias(context, channels, &vb.pp("to_k"))?,
            value: linear_no_bias(context, channels, &vb.pp("to_v"))?,
            out: linear(channels, channels, &vb.pp("to_out").pp("0"))?,
            heads: attends.heads,
            upcast: attends.upcast,
        })
    }

    /// What `x` makes of `context`, added to `to`.
    fn forward_add(&self, x: &Tensor, context: &Tensor, to: &Tensor) -> Result<Tensor> {
        let (query, key, value) = (self.query.forward(x)?, self.key.forward(context)?, self.value.forward(context)?);
        let scores = if self.upcast { Scores::Upcast } else { Scores::Plain };
        self.out.forward_add(&attention(&query, &key, &value, self.heads, scores)?, to)
    }
}
