//! The decoder half of `AutoencoderKL`: latents to pixels. candle's own building blocks are those of diffusers here.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};
use serde::Deserialize;
use serde_json::{Value, json};

use super::folder::{Folder, corrupt, unsupported};
use crate::model::LoadError;

pub(super) const CONFIG: &str = "vae/config.json";

/// `vae/config.json`, in its own words.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    #[serde(default = "default_scaling")]
    scaling_factor: f64,
    #[serde(default = "yes")]
    force_upcast: bool,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
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
            ("act_fn", &[json!("silu")]),
            ("out_channels", &[json!(3)]),
            ("latents_mean", &[Value::Null]),
            ("latents_std", &[Value::Null]),
            ("shift_factor", &[Value::Null]),
            ("mid_block_add_attention", &[json!(true)]),
        ];
        let config: Self = folder.config(CONFIG, fixed)?;
        let odd = |types: &[String], known: &str| types.iter().find(|name| *name != known).cloned();
        let odd = odd(&config.down_block_types, "DownEncoderBlock2D")
            .or_else(|| odd(&config.up_block_types, "UpDecoderBlock2D"));
        if let Some(block) = odd {
            return Err(unsupported(CONFIG, &format!("blocks of type {block} are not supported")));
        }
        if config.block_out_channels.is_empty() || config.block_out_channels.len() > 8 {
            return Err(corrupt(CONFIG, "block_out_channels must have 1 to 8 entries"));
        }
        if !config.scaling_factor.is_normal() {
            return Err(corrupt(CONFIG, "scaling_factor is not a number other than 0"));
        }
        Ok(config)
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

/// A decoder with its weights.
#[derive(Debug)]
pub(super) struct Vae {
    inner: AutoEncoderKL,
    scaling_factor: f64,
    dtype: DType,
    device: Device,
}

impl Vae {
    pub(super) fn new(vb: VarBuilder, config: &Config) -> Result<Self> {
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let inner = AutoEncoderKLConfig {
            block_out_channels: config.block_out_channels.clone(),
            layers_per_block: config.layers_per_block,
            latent_channels: config.latent_channels,
            norm_num_groups: config.norm_num_groups,
            use_quant_conv: config.use_quant_conv,
            use_post_quant_conv: config.use_post_quant_conv,
        };
        let inner = AutoEncoderKL::new(vb, config.in_channels, config.out_channels, inner)?;
        Ok(Self { inner, scaling_factor: config.scaling_factor, dtype, device })
    }

    /// Decodes one picture's latents (1, channels, height, width) to red, green, blue from 0 to 1, row by row. One at
    /// a time, because the attention in the middle takes memory with the fourth power of a picture's side.
    pub(super) fn decode(&self, latents: &Tensor) -> Result<Vec<f32>> {
        let latents = (latents.to_device(&self.device)? / self.scaling_factor)?.to_dtype(self.dtype)?;
        let pixels = self.inner.decode(&latents)?.squeeze(0)?.to_dtype(DType::F32)?;
        ((pixels / 2.0)? + 0.5)?.permute((1, 2, 0))?.flatten_all()?.to_vec1()
    }
}
