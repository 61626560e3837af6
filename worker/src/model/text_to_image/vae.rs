//! diffusers' `AutoencoderKL`: latents to pixels, and pixels to latents for pictures that jobs bring along.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use millrace_nn::conv::{Conv, Kernel};
use serde::Deserialize;
use serde_json::{Value, json};

use super::vae_blocks::{Decoder, Encoder, Shape};
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported};

pub(super) const CONFIG: &str = "vae/config.json";

/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_CHANNELS: usize = 1 << 16;
const MAX_LAYERS: usize = 64;

/// `vae/config.json`, in its own words and with diffusers' defaults.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default = "four")]
    latent_channels: usize,
    #[serde(default = "default_channels")]
    block_out_channels: Vec<usize>,
    #[serde(default = "one")]
    layers_per_block: usize,
    #[serde(default = "default_groups")]
    norm_num_groups: usize,
    #[serde(default)]
    down_block_types: Vec<String>,
    #[serde(default)]
    up_block_types: Vec<String>,
    #[serde(default = "default_scaling")]
    scaling_factor: f64,
    #[serde(default)]
    shift_factor: Option<f64>,
    #[serde(default)]
    latents_mean: Option<Vec<f32>>,
    #[serde(default)]
    latents_std: Option<Vec<f32>>,
    #[serde(default = "yes")]
    force_upcast: bool,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn default_channels() -> Vec<usize> {
    vec![64]
}

fn default_groups() -> usize {
    32
}

fn default_scaling() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

impl Config {
    pub(super) fn read(folder: &Folder) -> std::result::Result<Self, LoadError> {
        let fixed: &[(&str, &[Value])] = &[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("in_channels", &[json!(3)]),
            ("out_channels", &[json!(3)]),
        ];
        let config: Self = folder.config(CONFIG, fixed)?;
        let odd = |types: &[String], known: &str| types.iter().find(|name| *name != known).cloned();
        let odd = odd(&config.down_block_types, "DownEncoderBlock2D")
            .or_else(|| odd(&config.up_block_types, "UpDecoderBlock2D"));
        if let Some(block) = odd {
            return Err(unsupported(CONFIG, &format!("blocks of type {block} are not supported")));
        }
        config.check()?;
        if config.shift_factor.is_some_and(|shift| shift != 0.0) {
            tracing::warn!("{CONFIG}: shift_factor is ignored, as diffusers' pipelines of this family do");
        }
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), LoadError> {
        if self.block_out_channels.is_empty() || self.block_out_channels.len() > 8 {
            return Err(corrupt(CONFIG, "block_out_channels must have 1 to 8 entries"));
        }
        let groups = self.norm_num_groups;
        let good = |channels: &usize| (1..=MAX_CHANNELS).contains(channels) && channels.is_multiple_of(groups);
        if groups == 0 || !self.block_out_channels.iter().all(good) {
            return Err(corrupt(CONFIG, "norm_num_groups does not divide every one of block_out_channels"));
        }
        if !(1..=MAX_LAYERS).contains(&self.layers_per_block) || !(1..=256).contains(&self.latent_channels) {
            return Err(corrupt(CONFIG, "layers_per_block must be from 1 to 64 and latent_channels from 1 to 256"));
        }
        if !self.scaling_factor.is_normal() {
            return Err(corrupt(CONFIG, "scaling_factor is not a number other than 0"));
        }
        for (name, values) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if values.as_ref().is_some_and(|values| values.len() != self.latent_channels) {
                let wanted = self.latent_channels;
                return Err(corrupt(CONFIG, &format!("{name} must have {wanted} entries, one a latent channel")));
            }
        }
        Ok(())
    }

    pub(super) fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Pixels per latent, along each side.
    pub(super) fn scale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The number format that the decoder is safe in: SDXL's own overflows f16, which gives black pictures.
    pub(super) fn dtype(&self, wanted: DType) -> DType {
        if self.force_upcast && wanted == DType::F16 { DType::F32 } else { wanted }
    }
}

/// An autoencoder with its weights.
#[derive(Debug)]
pub(super) struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    quant: Option<Conv>,
    post_quant: Option<Conv>,
    latent_channels: usize,
    /// What latents are multiplied with to be of about unit variance.
    scaling_factor: f64,
    /// Mean and spread of each latent channel, where the model has them: (1, channels, 1, 1).
    moments: Option<(Tensor, Tensor)>,
    dtype: DType,
    device: Device,
}

/// The distribution that a picture was encoded to, f32.
#[derive(Debug)]
pub(super) struct Encoded {
    mean: Tensor,
    spread: Tensor,
}

impl Encoded {
    /// How many numbers a sample takes.
    pub(super) fn count(&self) -> usize {
        self.mean.elem_count()
    }

    /// A sample from it, by this noise; unscaled.
    pub(super) fn sample(&self, noise: Vec<f32>) -> Result<Tensor> {
        let noise = Tensor::from_vec(noise, self.mean.shape(), self.mean.device())?;
        &self.mean + (&self.spread * noise)?
    }
}

impl Vae {
    pub(super) fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let shape = Shape {
            channels: &config.block_out_channels,
            layers: config.layers_per_block,
            groups: config.norm_num_groups,
            attends: config.mid_block_add_attention,
        };
        let latent = config.latent_channels;
        let pointwise = |name: &str, channels| Conv::new(&vb.pp(name), channels, channels, Kernel::POINT);
        let column = |values: &[f32]| Tensor::from_slice(values, (1, latent, 1, 1), &device);
        let moments = match (&config.latents_mean, &config.latents_std) {
            (Some(mean), Some(spread)) => Some((column(mean)?, column(spread)?)),
            _ => None,
        };
        Ok(Self {
            encoder: Encoder::new(&vb.pp("encoder"), 3, latent, shape)?,
            decoder: Decoder::new(&vb.pp("decoder"), latent, 3, shape)?,
            quant: config.use_quant_conv.then(|| pointwise("quant_conv", latent * 2)).transpose()?,
            post_quant: config.use_post_quant_conv.then(|| pointwise("post_quant_conv", latent)).transpose()?,
            latent_channels: latent,
            scaling_factor: config.scaling_factor,
            moments,
            dtype,
            device,
        })
    }

    /// Decodes one picture's latents (1, channels, height, width) to (3, height · scale, width · scale), from −1 to 1
    /// more or less, f32. One at a time, because the attention in the middle takes memory with the fourth power of a
    /// picture's side.
    pub(super) fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = latents.to_device(&self.device)?.to_dtype(DType::F32)?;
        let latents = match &self.moments {
            Some((mean, spread)) => (latents.broadcast_mul(spread)? / self.scaling_factor)?.broadcast_add(mean)?,
            None => (latents / self.scaling_factor)?,
        };
        let latents = latents.to_dtype(self.dtype)?;
        let latents = match &self.post_quant {
            Some(conv) => conv.forward(&latents)?,
            None => latents,
        };
        self.decoder.forward(&latents)?.squeeze(0)?.to_dtype(DType::F32)
    }

    /// Encodes one picture (1, 3, height, width), from −1 to 1.
    pub(super) fn encode(&self, pixels: &Tensor) -> Result<Encoded> {
        let parameters = self.encoder.forward(&pixels.to_device(&self.device)?.to_dtype(self.dtype)?)?;
        let parameters = match &self.quant {
            Some(conv) => conv.forward(&parameters)?,
            None => parameters,
        };
        let parameters = parameters.to_dtype(DType::F32)?;
        let latent = self.latent_channels;
        let variance = parameters.narrow(1, latent, latent)?.clamp(-30f32, 20f32)?;
        Ok(Encoded { mean: parameters.narrow(1, 0, latent)?, spread: (variance * 0.5)?.exp()? })
    }

    /// A sample of `encode` as the UNet knows latents.
    pub(super) fn scaled(&self, sample: &Tensor) -> Result<Tensor> {
        match &self.moments {
            Some((mean, spread)) => (sample.broadcast_sub(mean)? * self.scaling_factor)?.broadcast_div(spread),
            None => self.scaled_to_inpaint(sample),
        }
    }

    /// The same for inpainting, where diffusers leaves the channels' means and spreads out.
    pub(super) fn scaled_to_inpaint(&self, sample: &Tensor) -> Result<Tensor> {
        sample * self.scaling_factor
    }
}
