//! SDXL's UNet, after diffusers' `UNet2DConditionModel` with `text_time` conditioning: the pooled text and the
//! picture's sizes are added to the timestep's embedding, which candle's own UNet leaves out.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Conv2d, GroupNorm, VarBuilder, group_norm, ops::silu};
use candle_transformers::models::stable_diffusion::embeddings::{TimestepEmbedding, Timesteps};
use candle_transformers::models::stable_diffusion::resnet::ResnetBlock2D;

use super::unet_blocks::{Attends, Shared, Transformer, Unit, conv3, resnet};
use super::unet_config::Config;

/// A UNet with its weights.
#[derive(Debug)]
pub(super) struct UNet {
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    add_time_proj: Timesteps,
    add_embedding: TimestepEmbedding,
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// What a picture is to be, besides its latents.
#[derive(Debug)]
pub(super) struct Conditioning {
    /// Hidden states of both text encoders: (batch, tokens, channels).
    pub(super) context: Tensor,
    /// Pooled text: (batch, channels).
    pub(super) pooled: Tensor,
    /// Original height and width, top and left of the crop, target height and width: (batch, 6), f32.
    pub(super) sizes: Tensor,
}

#[derive(Debug)]
struct DownBlock {
    units: Vec<Unit>,
    downsample: Option<Conv2d>,
}

#[derive(Debug)]
struct MidBlock {
    first: ResnetBlock2D,
    transformer: Transformer,
    last: ResnetBlock2D,
}

#[derive(Debug)]
struct UpBlock {
    units: Vec<Unit>,
    upsample: Option<Conv2d>,
}

impl UNet {
    pub(super) fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let (narrow, wide) = (channels[0], channels[last]);
        let time_channels = narrow * 4;
        let shared = Shared {
            time_channels,
            context_channels: config.cross_attention_dim,
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
        };
        let timesteps = |width| Timesteps::new(width, config.flip_sin_to_cos, config.freq_shift);
        let down = (0..=last).map(|i| down_block(&vb.pp("down_blocks").pp(i), config, i, shared));
        let up = (0..=last).map(|i| up_block(&vb.pp("up_blocks").pp(i), config, i, shared));
        Ok(Self {
            time_proj: timesteps(narrow),
            time_embedding: TimestepEmbedding::new(vb.pp("time_embedding"), narrow, time_channels)?,
            add_time_proj: timesteps(config.addition_time_embed_dim),
            add_embedding: TimestepEmbedding::new(
                vb.pp("add_embedding"),
                config.projection_class_embeddings_input_dim,
                time_channels,
            )?,
            conv_in: conv3(vb.pp("conv_in"), config.in_channels, narrow, 1)?,
            down: down.collect::<Result<_>>()?,
            mid: mid_block(&vb.pp("mid_block"), wide, config.attends(last), shared)?,
            up: up.collect::<Result<_>>()?,
            norm_out: group_norm(shared.groups, narrow, shared.epsilon, vb.pp("conv_norm_out"))?,
            conv_out: conv3(vb.pp("conv_out"), narrow, config.out_channels, 1)?,
        })
    }

    /// The UNet's guess for `latents` (batch, channels, height, width) at `timestep`.
    pub(super) fn forward(&self, latents: &Tensor, timestep: f64, conditioning: &Conditioning) -> Result<Tensor> {
        let context = &conditioning.context;
        let time = self.embed(latents, timestep, conditioning)?;
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
        x = self.mid.first.forward(&x, Some(&time))?;
        x = self.mid.transformer.forward(&x, context)?;
        x = self.mid.last.forward(&x, Some(&time))?;
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
        self.conv_out.forward(&silu(&self.norm_out.forward(&x)?)?)
    }

    /// The embedding of timestep, pooled text and sizes. Sinusoids are computed in f32: f16 cannot tell timestep 999
    /// from 999.5.
    fn embed(&self, latents: &Tensor, timestep: f64, conditioning: &Conditioning) -> Result<Tensor> {
        let (batch, dtype) = (latents.dim(0)?, latents.dtype());
        let timesteps = Tensor::full(timestep as f32, batch, latents.device())?;
        let time = self.time_embedding.forward(&self.time_proj.forward(&timesteps)?.to_dtype(dtype)?)?;
        let sizes = self.add_time_proj.forward(&conditioning.sizes.to_dtype(DType::F32)?.flatten_all()?)?;
        let sizes = sizes.reshape((batch, ()))?.to_dtype(dtype)?;
        let added = Tensor::cat(&[&conditioning.pooled, &sizes], 1)?;
        time + self.add_embedding.forward(&added)?
    }
}

fn down_block(vb: &VarBuilder, config: &Config, index: usize, shared: Shared) -> Result<DownBlock> {
    let channels = &config.block_out_channels;
    let output = channels[index];
    let input = channels[index.saturating_sub(1)];
    let attends = config.down_attends(index);
    let unit = |i| Unit::new(vb, i, (if i == 0 { input } else { output }, output), attends, shared);
    let downsample = || conv3(vb.pp("downsamplers").pp(0).pp("conv"), output, output, 2);
    Ok(DownBlock {
        units: (0..config.layers_per_block).map(unit).collect::<Result<_>>()?,
        downsample: (index + 1 < channels.len()).then(downsample).transpose()?,
    })
}

fn mid_block(vb: &VarBuilder, channels: usize, attends: Attends, shared: Shared) -> Result<MidBlock> {
    let resnets = vb.pp("resnets");
    Ok(MidBlock {
        first: resnet(resnets.pp(0), channels, channels, shared)?,
        transformer: Transformer::new(&vb.pp("attentions").pp(0), channels, attends, shared)?,
        last: resnet(resnets.pp(1), channels, channels, shared)?,
    })
}

/// Block `index` on the way up mirrors one on the way down; each of its units takes a skip from there.
fn up_block(vb: &VarBuilder, config: &Config, index: usize, shared: Shared) -> Result<UpBlock> {
    let channels = &config.block_out_channels;
    let mirror = channels.len() - 1 - index;
    let output = channels[mirror];
    let before = channels[(mirror + 1).min(channels.len() - 1)];
    let skip_last = channels[mirror.saturating_sub(1)];
    let attends = config.up_attends(index);
    let unit = |i| {
        let from = if i == 0 { before } else { output };
        let skip = if i == config.layers_per_block { skip_last } else { output };
        Unit::new(vb, i, (from + skip, output), attends, shared)
    };
    let upsample = || conv3(vb.pp("upsamplers").pp(0).pp("conv"), output, output, 1);
    Ok(UpBlock {
        units: (0..=config.layers_per_block).map(unit).collect::<Result<_>>()?,
        upsample: (mirror > 0).then(upsample).transpose()?,
    })
}
