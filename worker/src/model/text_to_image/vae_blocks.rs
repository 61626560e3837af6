//! The parts of diffusers' `AutoencoderKL`: an encoder from pixels to latents, a decoder back. Its residual blocks know no
//! timestep, its one attention is in the middle.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::VarBuilder;
use millrace_nn::attention::{Scores, attention};
use millrace_nn::conv::{Conv, Kernel};
use millrace_nn::linear::Linear;
use millrace_nn::norm::Norm;

use super::resnet::Resnet;
use super::unet_blocks::{Shared, conv3};

const EPSILON: f64 = 1e-6;

/// Widths and depths of one half.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    /// Channels of each block, from the pixels inwards.
    pub(super) channels: &'a [usize],
    /// Residual blocks of each.
    pub(super) layers: usize,
    pub(super) groups: usize,
    /// Whether there is attention in the middle.
    pub(super) attends: bool,
}

impl Shape<'_> {
    fn shared(&self) -> Shared {
        Shared { time_channels: None, groups: self.groups, epsilon: EPSILON }
    }

    fn ends(&self) -> (usize, usize) {
        (self.channels.first().copied().unwrap_or(1), self.channels.last().copied().unwrap_or(1))
    }
}

/// Pixels to the parameters of their latents.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv,
    blocks: Vec<Block>,
    mid: Mid,
    norm_out: Norm,
    conv_out: Conv,
}

/// Latents to pixels.
#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Conv,
    mid: Mid,
    blocks: Vec<Block>,
    norm_out: Norm,
    conv_out: Conv,
}

/// Residual blocks, and the convolution that changes the size after them.
#[derive(Debug)]
struct Block {
    resnets: Vec<Resnet>,
    resize: Option<Conv>,
}

impl Block {
    fn new(
        vb: &VarBuilder,
        (input, output): (usize, usize),
        layers: usize,
        shared: Shared,
        resize: Option<Conv>,
    ) -> Result<Self> {
        let one = |i| Resnet::new(&vb.pp("resnets").pp(i), if i == 0 { input } else { output }, output, shared);
        Ok(Self { resnets: (0..layers).map(one).collect::<Result<_>>()?, resize })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.resnets.iter().try_fold(x.clone(), |x, resnet| resnet.forward(&x, None))
    }
}

#[derive(Debug)]
struct Mid {
    first: Resnet,
    attention: Option<Attention>,
    last: Resnet,
}

impl Mid {
    fn new(vb: &VarBuilder, channels: usize, shape: Shape) -> Result<Self> {
        let one = |i: usize| Resnet::new(&vb.pp("resnets").pp(i), channels, channels, shape.shared());
        let attention = || Attention::new(&vb.pp("attentions").pp(0), channels, shape.groups);
        Ok(Self { first: one(0)?, attention: shape.attends.then(attention).transpose()?, last: one(1)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.first.forward(x, None)?;
        let x = match &self.attention {
            Some(attention) => attention.forward(&x)?,
            None => x,
        };
        self.last.forward(&x, None)
    }
}

/// Attention of all pixels among themselves, in one head.
#[derive(Debug)]
struct Attention {
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl Attention {
    /// Under today's names, else under those of models that were published before 2023, as convolutions of 1 × 1.
    fn new(vb: &VarBuilder, channels: usize, groups: usize) -> Result<Self> {
        let today = ["to_q", "to_k", "to_v", "to_out.0"];
        let names = if vb.contains_tensor("to_q.weight") { today } else { ["query", "key", "value", "proj_attn"] };
        // a file with neither is missing today's
        let names = if vb.contains_tensor(&format!("{}.weight", names[0])) { names } else { today };
        let layer = |name: &str| {
            let vb = vb.pp(name);
            let weight = match vb.get((channels, channels), "weight") {
                Ok(weight) => weight,
                Err(error) => match vb.get((channels, channels, 1, 1), "weight") {
                    Ok(weight) => weight.reshape((channels, channels))?,
                    Err(_) => return Err(error),
                },
            };
            Linear::new(weight, Some(vb.get(channels, "bias")?))
        };
        Ok(Self {
            norm: Norm::new(&vb.pp("group_norm"), groups, channels, EPSILON)?,
            query: layer(names[0])?,
            key: layer(names[1])?,
            value: layer(names[2])?,
            out: layer(names[3])?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, channels, height, width) = x.dims4()?;
        let tokens = self.norm.forward(x)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let (query, key, value) =
            (self.query.forward(&tokens)?, self.key.forward(&tokens)?, self.value.forward(&tokens)?);
        let out = self.out.forward(&attention(&query, &key, &value, 1, Scores::Upcast)?)?;
        out.transpose(1, 2)?.reshape((rows, channels, height, width))? + x
    }
}

impl Encoder {
    /// From `input` channels to the mean and log-variance of `latent` ones.
    pub(super) fn new(vb: &VarBuilder, input: usize, latent: usize, shape: Shape) -> Result<Self> {
        let (narrow, wide) = shape.ends();
        let halve = Kernel { side: 3, stride: 2, padding: 0 };
        let block = |(i, output): (usize, &usize)| {
            let vb = vb.pp("down_blocks").pp(i);
            let before = shape.channels[i.saturating_sub(1)];
            let resize = || Conv::new(&vb.pp("downsamplers").pp(0).pp("conv"), *output, *output, halve);
            let resize = (i + 1 < shape.channels.len()).then(resize).transpose()?;
            Block::new(&vb, (before, *output), shape.layers, shape.shared(), resize)
        };
        Ok(Self {
            conv_in: conv3(&vb.pp("conv_in"), input, narrow, 1)?,
            blocks: shape.channels.iter().enumerate().map(block).collect::<Result<_>>()?,
            mid: Mid::new(&vb.pp("mid_block"), wide, shape)?,
            norm_out: Norm::new(&vb.pp("conv_norm_out"), shape.groups, wide, EPSILON)?,
            conv_out: conv3(&vb.pp("conv_out"), wide, latent * 2, 1)?,
        })
    }

    /// (rows, colours, height, width) to (rows, mean and log-variance, height / scale, width / scale).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
            if let Some(conv) = &block.resize {
                // the published weights were trained with the missing pixels at the right and at the bottom only
                x = conv.forward(&x.pad_with_zeros(D::Minus1, 0, 1)?.pad_with_zeros(D::Minus2, 0, 1)?)?;
            }
        }
        let x = self.mid.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

impl Decoder {
    /// From `latent` channels to `output` ones.
    pub(super) fn new(vb: &VarBuilder, latent: usize, output: usize, shape: Shape) -> Result<Self> {
        let (narrow, wide) = shape.ends();
        let outwards: Vec<usize> = shape.channels.iter().rev().copied().collect();
        let block = |(i, output): (usize, &usize)| {
            let vb = vb.pp("up_blocks").pp(i);
            let before = outwards[i.saturating_sub(1)];
            let resize = || conv3(&vb.pp("upsamplers").pp(0).pp("conv"), *output, *output, 1);
            let resize = (i + 1 < outwards.len()).then(resize).transpose()?;
            Block::new(&vb, (before, *output), shape.layers + 1, shape.shared(), resize)
        };
        Ok(Self {
            conv_in: conv3(&vb.pp("conv_in"), latent, wide, 1)?,
            mid: Mid::new(&vb.pp("mid_block"), wide, shape)?,
            blocks: outwards.iter().enumerate().map(block).collect::<Result<_>>()?,
            norm_out: Norm::new(&vb.pp("conv_norm_out"), shape.groups, narrow, EPSILON)?,
            conv_out: conv3(&vb.pp("conv_out"), narrow, output, 1)?,
        })
    }

    /// (rows, latents, height, width) to (rows, colours, height · scale, width · scale).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.mid.forward(&self.conv_in.forward(x)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
            if let Some(conv) = &block.resize {
                let (_, _, height, width) = x.dims4()?;
                x = conv.forward(&x.upsample_nearest2d(height * 2, width * 2)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}
