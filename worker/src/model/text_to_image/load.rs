//! Loads a model folder: reads every component's own config, so one code serves all sizes of the family.

use std::path::Path;

use candle_core::{DType, Device};
use millrace_api::{Device as DeviceChoice, Precision};
use serde::Deserialize;

use super::folder::{Folder, corrupt, unsupported};
use super::pipeline::Pipeline;
use super::scheduler::Scheduler;
use super::text_encoder::{self, TextEncoder};
use super::tokenizer::Tokenizer;
use super::unet::UNet;
use super::vae::Vae;
use super::{TextToImage, device, unet_config, vae};
use crate::model::LoadError;

const INDEX: &str = "model_index.json";
const PIPELINE: &str = "StableDiffusionXLPipeline";

/// Where a component's weights are: folder and file name without its endings.
pub(super) const UNET_STEM: &str = "diffusion_pytorch_model";
pub(super) const ENCODER_STEM: &str = "model";

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
}

fn yes() -> bool {
    true
}

/// Loads the model in `dir`. `variant` names the weight files to prefer (`fp16`); `gpus` is how many GPUs the worker
/// was given, which makes [`DeviceChoice::Auto`] insist on one.
pub fn load(
    dir: &Path,
    device: DeviceChoice,
    precision: Precision,
    variant: Option<&str>,
    gpus: u32,
) -> Result<TextToImage, LoadError> {
    let device = device::open(device, gpus)?;
    let dtype = device::dtype(precision, &device);
    let folder = Folder::open(dir, variant)?;
    let index: Index = folder.json(INDEX)?;
    if index.class_name != PIPELINE {
        let what = format!("pipelines of class {} are not supported; this task runs {PIPELINE}", index.class_name);
        return Err(unsupported(INDEX, &what));
    }

    // What is small comes first, so that a folder that cannot work fails before gigabytes are read.
    let scheduler = Scheduler::load(&folder)?;
    let unet = unet_config::Config::read(&folder)?;
    let vae = vae::Config::read(&folder)?;
    let texts =
        [text_encoder::Config::read(&folder, "text_encoder")?, text_encoder::Config::read(&folder, "text_encoder_2")?];
    check_widths(&unet, &vae, &texts)?;
    let tokenizer = |component: &str, text: &text_encoder::Config| {
        Tokenizer::load(&folder, component, text.max_position_embeddings, text.vocab_size())
    };
    let tokenizers = [tokenizer("tokenizer", &texts[0])?, tokenizer("tokenizer_2", &texts[1])?];
    if tokenizers[0].length() != tokenizers[1].length() {
        return Err(corrupt(
            "tokenizer_2/tokenizer_config.json",
            "model_max_length differs from the first tokenizer's",
        ));
    }

    let encoder = |component: &str, config: &text_encoder::Config, projected: bool| {
        let weights = folder.weights(component, ENCODER_STEM)?;
        weights.build(dtype, &device, |vb| TextEncoder::new(&vb, config, projected))
    };
    let encoders = [encoder("text_encoder", &texts[0], false)?, encoder("text_encoder_2", &texts[1], true)?];
    let default_side = unet.sample_size * vae.scale();
    let pipeline = Pipeline {
        encoders,
        scheduler,
        latent_channels: unet.in_channels,
        scale: vae.scale(),
        unet: folder.weights("unet", UNET_STEM)?.build(dtype, &device, |vb| UNet::new(&vb, &unet))?,
        vae: load_vae(&folder, &vae, dtype, &device)?,
        device,
        dtype,
    };
    Ok(TextToImage { tokenizers, pipeline, default_side, blank_is_zero: index.force_zeros_for_empty_prompt })
}

fn load_vae(folder: &Folder, config: &vae::Config, dtype: DType, device: &Device) -> Result<Vae, LoadError> {
    folder.weights("vae", UNET_STEM)?.build(config.dtype(dtype), device, |vb| Vae::new(vb, config))
}

/// Components of different models can each be right and still not fit together.
fn check_widths(
    unet: &unet_config::Config,
    vae: &vae::Config,
    texts: &[text_encoder::Config; 2],
) -> Result<(), LoadError> {
    let latents = vae.latent_channels();
    if unet.in_channels != latents || unet.out_channels != latents {
        let what = format!("in_channels and out_channels must both be {latents}, the latent_channels of the vae");
        return Err(corrupt(unet_config::CONFIG, &what));
    }
    let hidden = texts[0].hidden_size() + texts[1].hidden_size();
    if hidden != unet.cross_attention_dim {
        let what = format!("cross_attention_dim is {}, but the text encoders give {hidden}", unet.cross_attention_dim);
        return Err(corrupt(unet_config::CONFIG, &what));
    }
    let added = texts[1].projection_dim() + 6 * unet.addition_time_embed_dim;
    if added != unet.projection_class_embeddings_input_dim {
        let what = format!(
            "projection_class_embeddings_input_dim is {}, but pooled text and sizes give {added}",
            unet.projection_class_embeddings_input_dim
        );
        return Err(corrupt(unet_config::CONFIG, &what));
    }
    Ok(())
}
