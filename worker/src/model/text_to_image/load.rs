//! Loads a model folder: reads every component's own config, so one code serves all sizes of all families.

use candle_core::{DType, Device};
use serde::Deserialize;
use serde_json::Value;

use super::job::check_defaults;
use super::pipeline::{Family, Pipeline, Sdxl};
use super::room::Room;
use super::scheduler::Scheduler;
use super::text::Reader;
use super::text_encoder::{self, Layer, TextEncoder};
use super::tokenizer::Tokenizer;
use super::unet::UNet;
use super::vae::Vae;
use super::{TextToImage, lora, unet_config, vae};
use crate::model::folder::{Folder, corrupt, unsupported};
use crate::model::{LoadError, Loading, device};

const INDEX: &str = "model_index.json";

/// The pipelines of diffusers that this task runs. What a job brings along decides what is done, not which of a family's
/// names the folder has.
const SD: [&str; 3] = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];
const SDXL: [&str; 3] =
    ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"];

/// Where a component's weights are: folder and file name without its endings.
pub(super) const UNET_STEM: &str = "diffusion_pytorch_model";
pub(super) const ENCODER_STEM: &str = "model";

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
    #[serde(default)]
    requires_aesthetics_score: bool,
    /// Null, or a list of nulls, where a folder has no such component.
    #[serde(default)]
    text_encoder: Value,
}

impl Index {
    fn family(&self) -> Result<Family, LoadError> {
        let class = self.class_name.as_str();
        if SD.contains(&class) {
            return Ok(Family::Sd);
        }
        if SDXL.contains(&class) {
            return Ok(Family::Sdxl(Sdxl {
                blank_is_zero: self.force_zeros_for_empty_prompt,
                aesthetic: self.requires_aesthetics_score,
            }));
        }
        let known: Vec<_> = SD.into_iter().chain(SDXL).collect();
        let what = format!("pipelines of class {class} are not supported; this task runs {}", known.join(", "));
        Err(unsupported(INDEX, &what))
    }

    /// The text encoders of a folder: component, tokenizer, whether it has a projection.
    fn encoders(&self, family: Family) -> Vec<(&'static str, &'static str, bool)> {
        let first = ("text_encoder", "tokenizer", false);
        let second = ("text_encoder_2", "tokenizer_2", true);
        let has_first = self.text_encoder.as_array().is_none_or(|pair| pair.iter().any(|value| !value.is_null()));
        match family {
            Family::Sd => vec![first],
            // a refiner reads with the second alone
            Family::Sdxl(_) if !has_first => vec![second],
            Family::Sdxl(_) => vec![first, second],
        }
    }
}

fn yes() -> bool {
    true
}

/// Loads the model; of the consumer's parameters `lora` is for the loader.
pub fn load(how: &Loading) -> Result<TextToImage, LoadError> {
    let chosen = lora::Choice::read(&how.parameters).map_err(|error| LoadError::parameters(&error))?;
    let device = device::open(how.device, how.gpus)?;
    let dtype = device::dtype(how.precision, &device);
    let folder = Folder::open(&how.dir, how.variant.as_deref())?;
    let index: Index = folder.json(INDEX)?;
    let family = index.family()?;

    // What is small comes first, so that a folder that cannot work fails before gigabytes are read.
    let scheduler = Scheduler::load(&folder)?;
    let unet = unet_config::Config::read(&folder)?;
    let vae = vae::Config::read(&folder)?;
    let mut texts = Vec::new();
    for (component, tokenizer, projected) in index.encoders(family) {
        let config = text_encoder::Config::read(&folder, component)?;
        let tokens = Tokenizer::load(&folder, tokenizer, config.max_position_embeddings, config.vocab_size())?;
        texts.push((component, projected, config, tokens));
    }
    if let Some(other) = texts.iter().find(|text| text.3.length() != texts[0].3.length()) {
        let what = "model_max_length differs from the first tokenizer's";
        return Err(corrupt(&format!("{}/config.json", other.0), what));
    }
    let configs: Vec<_> = texts.iter().map(|text| &text.2).collect();
    check_widths(family, &unet, &vae, &configs)?;

    let mut weights = Vec::new();
    for (component, ..) in &texts {
        weights.push((*component, folder.weights(component, ENCODER_STEM)?));
    }
    weights.push(("unet", folder.weights("unet", UNET_STEM)?));
    let loras = lora::merge(&folder, chosen, &mut weights)?;
    let mut take = |component: &str| {
        let place = weights.iter().position(|(name, _)| *name == component);
        place.map(|place| weights.swap_remove(place).1).ok_or_else(|| corrupt(component, "it is asked for twice"))
    };

    let layer = match family {
        Family::Sd => Layer::Last,
        Family::Sdxl(_) => Layer::Penultimate,
    };
    let mut readers = Vec::new();
    for (component, projected, config, tokenizer) in texts {
        let encoder = take(component)?.build(dtype, &device, |vb| TextEncoder::new(&vb, &config, layer, projected))?;
        readers.push(Reader { tokenizer, encoder });
    }
    let text_time = unet.text_time()?;
    let (rows, columns) = unet.sides()?;
    let pipeline = Pipeline {
        family,
        readers,
        scheduler,
        latent_channels: vae.latent_channels(),
        unet_channels: unet.in_channels,
        scale: vae.scale(),
        default_size: (rows * vae.scale(), columns * vae.scale()),
        unet: take("unet")?.build(dtype, &device, |vb| UNet::new(&vb, &unet, text_time))?,
        vae: load_vae(&folder, &vae, dtype, &device)?,
        loras,
        room: Room::new(&device),
        device,
        dtype,
    };
    // found now, rather than by every job
    check_defaults(&pipeline, &how.parameters).map_err(|error| LoadError::parameters(&error.of_defaults()))?;
    Ok(TextToImage::new(pipeline))
}

fn load_vae(folder: &Folder, config: &vae::Config, dtype: DType, device: &Device) -> Result<Vae, LoadError> {
    folder.weights("vae", UNET_STEM)?.build(config.dtype(dtype), device, |vb| Vae::new(&vb, config))
}

/// Components of different models can each be right and still not fit together.
fn check_widths(
    family: Family,
    unet: &unet_config::Config,
    vae: &vae::Config,
    texts: &[&text_encoder::Config],
) -> Result<(), LoadError> {
    let wrong = |what: String| Err(corrupt(unet_config::CONFIG, &what));
    let latents = vae.latent_channels();
    let inpaints = latents * 2 + 1;
    if ![latents, inpaints].contains(&unet.in_channels) || unet.out_channels != latents {
        return wrong(format!(
            "out_channels must be {latents}, the latent_channels of the vae, and in_channels that or {inpaints}"
        ));
    }
    let hidden: usize = texts.iter().map(|text| text.hidden_size()).sum();
    let context = unet.context_channels()?;
    if hidden != context {
        return wrong(format!("cross_attention_dim is {context}, but the text encoders give {hidden}"));
    }
    let sizes = family.sizes(0, 0).map_or(0, |[sizes, _]| sizes.len());
    match (family, unet.text_time()?, texts.last()) {
        (Family::Sdxl(_), Some(text_time), Some(text)) => {
            let added = text.projection_dim() + sizes * text_time.size_channels;
            if added != text_time.input {
                return wrong(format!(
                    "projection_class_embeddings_input_dim is {}, but pooled text and sizes give {added}",
                    text_time.input
                ));
            }
            Ok(())
        }
        (Family::Sdxl(_), _, _) => wrong("addition_embed_type is not text_time, as SDXL's is".into()),
        (Family::Sd, Some(_), _) => wrong("addition_embed_type is text_time, which only an SDXL pipeline has".into()),
        (Family::Sd, None, _) => Ok(()),
    }
}
