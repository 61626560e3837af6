//! diffusers' `UNet2DConditionModel`, for rows that are each at a timestep of their own. SDXL's `text_time` conditioning
//! (pooled text and the picture's sizes, added to the timestep's embedding) is what candle's own UNet leaves out.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use millrace_nn::conv::Conv;
use millrace_nn::norm::Norm;

use super::embeddings::{Sinusoids, TimeEmbedding};
use super::resnet::Resnet;
use super::unet_blocks::{Shared, Transformer, Unit, conv3};
use super::unet_config::{Config, Mid, TextTime};

/// A UNet with its weights.
#[derive(Debug)]
pub(super) struct UNet {
    sinusoids: Sinusoids,
    time_embedding: TimeEmbedding,
    /// Width of the guidance's embedding, in models that take it as an input.
    guidance_channels: Option<usize>,
    added: Option<Added>,
    conv_in: Conv,
    down: Vec<DownBlock>,
    mid: Option<MidBlock>,
    up: Vec<UpBlock>,
    norm_out: Norm,
    conv_out: Conv,
}

/// The embedding of pooled text and sizes.
#[derive(Debug)]
struct Added {
    sinusoids: Sinusoids,
    embedding: TimeEmbedding,
}

/// What each row of a pass is to be, besides its latents.
#[derive(Debug)]
pub(super) struct Conditioning {
    /// The training timestep that each row is at.
    pub(super) timesteps: Vec<f32>,
    /// Each row's guidance; read by models that take it as an input.
    pub(super) guidance: Vec<f32>,
    /// Hidden states of the text encoders: (rows, tokens, channels).
    pub(super) context: Tensor,
    /// Of SDXL.
    pub(super) added: Option<TextAndSizes>,
}

/// What SDXL's UNet is told beside the text.
#[derive(Debug, Clone)]
pub(super) struct TextAndSizes {
    /// Pooled text: (rows, channels).
    pub(super) pooled: Tensor,
    /// Original height and width, top and left of the crop, and target height and width or an aesthetic score; the same
    /// number of them for each row.
    pub(super) sizes: Vec<f32>,
}

#[derive(Debug)]
struct DownBlock {
    units: Vec<Unit>,
    downsample: Option<Conv>,
}

#[derive(Debug)]
struct MidBlock {
    first: Resnet,
    rest: Option<(Transformer, Resnet)>,
}

#[derive(Debug)]
struct UpBlock {
    units: Vec<Unit>,
    upsample: Option<Conv>,
}

impl UNet {
    /// Builds a UNet; `text_time` is the config's own.
    pub(super) fn new(vb: &VarBuilder, config: &Config, text_time: Option<TextTime>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let (narrow, wide) = (channels[0], channels[last]);
        let time_channels = narrow * 4;
        let shared =
            Shared { time_channels: Some(time_channels), groups: config.norm_num_groups, epsilon: config.norm_eps };
        let sinusoids =
            |channels| Sinusoids { channels, cosines_first: config.flip_sin_to_cos, shift: config.freq_shift };
        let added = |text_time: TextTime| -> Result<Added> {
            Ok(Added {
                sinusoids: sinusoids(text_time.size_channels),
                embedding: TimeEmbedding::new(&vb.pp("add_embedding"), text_time.input, time_channels, None)?,
            })
        };
        let down = (0..=last).map(|i| down_block(&vb.pp("down_blocks").pp(i), config, i, shared));
        let up = (0..=last).map(|i| up_block(&vb.pp("up_blocks").pp(i), config, i, shared));
        let guidance_channels = config.time_cond_proj_dim;
        Ok(Self {
            sinusoids: sinusoids(narrow),
            time_embedding: TimeEmbedding::new(&vb.pp("time_embedding"), narrow, time_channels, guidance_channels)?,
            guidance_channels,
            added: text_time.map(added).transpose()?,
            conv_in: conv3(&vb.pp("conv_in"), config.in_channels, narrow, 1)?,
            down: down.collect::<Result<_>>()?,
            mid: mid_block(&vb.pp("mid_block"), wide, config.mid(), shared)?,
            up: up.collect::<Result<_>>()?,
            norm_out: Norm::new(&vb.pp("conv_norm_out"), shared.groups, narrow, shared.epsilon)?,
            conv_out: conv3(&vb.pp("conv_out"), narrow, config.out_channels, 1)?,
        })
    }

    /// Whether the model takes guidance as an input, so that one row does for a picture.
    pub(super) fn takes_guidance(&self) -> bool {
        self.guidance_channels.is_some()
    }

    /// The UNet's guess for `latents` (rows, channels, height, width), in their number format.
    pub(super) fn forward(&self, latents: &Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        let context = &conditioning.context;
        let time = self.embed(latents, conditioning)?;
        let mut x = self.conv_in.forward(latents)?;
        let mut skips = vec![x.clone()];
        for block in &self.down {
            for unit in &block.units {
                x = unit.forward(&x, &time, context)?;
                skips.push(x.clone());
            }
            if let Some(conv) = &block.downsample {
                x = conv.forward(&x)?;
                skips.push(x.clone());
            }
        }
        if let Some(mid) = &self.mid {
            x = mid.first.forward(&x, Some(&time))?;
            if let Some((transformer, last)) = &mid.rest {
                x = last.forward(&transformer.forward(&x, context)?, Some(&time))?;
            }
        }
        for block in &self.up {
            for unit in &block.units {
                let skip = skips.pop().ok_or_else(|| candle_core::Error::Msg("the UNet is out of balance".into()))?;
                x = unit.forward(&Tensor::cat(&[&x, &skip], 1)?, &time, context)?;
            }
            // Sides that do not halve evenly on the way down come back by the size that was there.
            if let (Some(conv), Some(skip)) = (&block.upsample, skips.last()) {
                let (_, _, height, width) = skip.dims4()?;
                x = conv.forward(&x.upsample_nearest2d(height, width)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }

    /// The embedding of each row's timestep, guidance, pooled text and sizes: (rows, channels).
    fn embed(&self, latents: &Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        let (rows, dtype, device) = (latents.dim(0)?, latents.dtype(), latents.device());
        let timesteps = self.sinusoids.of(&conditioning.timesteps, device)?;
        let guidance = self
            .guidance_channels
            .map(|channels| Sinusoids::of_guidance(channels, &conditioning.guidance, device))
            .transpose()?;
        let time = self.time_embedding.forward(&timesteps, guidance.as_ref(), dtype)?;
        let (Some(added), Some(given)) = (&self.added, &conditioning.added) else { return Ok(time) };
        let sizes = added.sinusoids.of(&given.sizes, device)?.reshape((rows, ()))?.to_dtype(dtype)?;
        let given = Tensor::cat(&[&given.pooled, &sizes], 1)?;
        time + added.embedding.forward(&given, None, dtype)?
    }
}

fn down_block(vb: &VarBuilder, config: &Config, index: usize, shared: Shared) -> Result<DownBlock> {
    let channels = &config.block_out_channels;
    let output = channels[index];
    let input = channels[index.saturating_sub(1)];
    let attends = config.down_attends(index);
    let unit = |i| Unit::new(vb, i, (if i == 0 { input } else { output }, output), attends, shared);
    let downsample = || conv3(&vb.pp("downsamplers").pp(0).pp("conv"), output, output, 2);
    Ok(DownBlock {
        units: (0..config.layers(index)).map(unit).collect::<Result<_>>()?,
        downsample: (index + 1 < channels.len()).then(downsample).transpose()?,
    })
}

fn mid_block(vb: &VarBuilder, channels: usize, mid: Mid, shared: Shared) -> Result<Option<MidBlock>> {
    let resnets = vb.pp("resnets");
    let rest = match mid {
        Mid::None => return Ok(None),
        Mid::Resnet => None,
        Mid::Attends(attends) => Some((
            Transformer::new(&vb.pp("attentions").pp(0), channels, attends, shared)?,
            Resnet::new(&resnets.pp(1), channels, channels, shared)?,
        )),
    };
    Ok(Some(MidBlock { first: Resnet::new(&resnets.pp(0), channels, channels, shared)?, rest }))
}

/// Block `index` on the way up mirrors one on the way down; each of its units takes a skip from there.
fn up_block(vb: &VarBuilder, config: &Config, index: usize, shared: Shared) -> Result<UpBlock> {
    let channels = &config.block_out_channels;
    let mirror = channels.len() - 1 - index;
    let output = channels[mirror];
    let before = channels[(mirror + 1).min(channels.len() - 1)];
    let skip_last = channels[mirror.saturating_sub(1)];
    let (attends, layers) = (config.up_attends(index), config.layers(mirror));
    let unit = |i| {
        let from = if i == 0 { before } else { output };
        let skip = if i == layers { skip_last } else { output };
        Unit::new(vb, i, (from + skip, output), attends, shared)
    };
    let upsample = || conv3(&vb.pp("upsamplers").pp(0).pp("conv"), output, output, 1);
    Ok(UpBlock {
        units: (0..=layers).map(unit).collect::<Result<_>>()?,
        upsample: (mirror > 0).then(upsample).transpose()?,
    })
}
