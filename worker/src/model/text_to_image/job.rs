//! One request on its way: its latents, where its sampler stands, its noise, its texts.

use std::sync::Arc;

use candle_core::{DType, Result as CandleResult, Tensor};
use serde_json::{Map, Value};

use super::finish::{Made, Told};
use super::noise::Noise;
use super::passes::Block;
use super::pipeline::{Pipeline, Texts};
use super::request::TextToImageRequest;
use super::scheduler::{Sampler, Scheduler, SchedulerError};
use super::start::{Kept, Start};
use super::unet::TextAndSizes;
use crate::model::stepwise::Finish;
use crate::model::weights::run_error;
use crate::model::{InvalidInput, Item, Output, Progress, RunError};

/// Longest side of a preview, in latents.
const PREVIEW: usize = 32;
const PREVIEW_QUALITY: u8 = 80;

/// A request that the engine works on.
#[derive(Debug)]
pub(super) struct Job {
    item: Item<TextToImageRequest>,
    told: Arc<Told>,
    guidance: f64,
    texts: Texts,
    /// What SDXL is told of the size: without the prompt, and with it.
    sizes: Option<[Vec<f32>; 2]>,
    sampler: Sampler,
    noise: Noise,
    /// (pictures, channels, height, width), f32: rounding them to f16 at each step would add up.
    latents: Tensor,
    kept: Kept,
    progress: Progress,
}

impl Job {
    /// Reads a request's texts, and the picture that it begins with.
    pub(super) fn begin(pipeline: &Pipeline, item: Item<TextToImageRequest>) -> Result<Self, RunError> {
        if item.cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let request = &item.request;
        pipeline.check_lora(request)?;
        let (width, height) = size(pipeline, request)?;
        let masked = request.source.as_ref().is_some_and(|source| source.mask.is_some());
        if pipeline.inpaints() && !masked {
            let message = "is required, with an image: this model only makes parts of pictures anew";
            return Err(InvalidInput::field("mask", message).into());
        }
        let guidance = request.guidance_scale.unwrap_or_else(|| pipeline.family.guidance(masked));
        let guided = guidance > 1.0 && !pipeline.unet.takes_guidance();
        let scheduler = pipeline.scheduler_of(request)?;
        let negative = request.negative_prompt.as_deref();
        let texts = pipeline.encode(&request.prompt, negative, guided, request.prompt_weights)?;
        let strength =
            request.source.as_ref().map(|source| source.strength.unwrap_or_else(|| pipeline.family.strength(masked)));
        let mut sampler = sampler(&scheduler, request)?;
        let mut noise = Noise::new(request.seed);
        let start = Start { pipeline, request, width, height };
        let (latents, kept) = match strength {
            None => (start.with_noise(&sampler, &mut noise).map_err(|error| run_error(&error))?, Kept::default()),
            Some(strength) => start.with_picture(strength, &mut sampler, &mut noise)?,
        };
        let told = Told {
            request: Arc::clone(request),
            width,
            height,
            guidance_scale: guidance,
            strength,
            scheduler: scheduler.name(),
            loras: pipeline.loras.clone(),
        };
        let progress = Progress { step: 0, steps: sampler.left() as u32 };
        item.tell(progress);
        let sizes = pipeline.family.sizes(width, height);
        Ok(Self { told: Arc::new(told), guidance, texts, sizes, sampler, noise, latents, kept, progress, item })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.item.cancel.is_cancelled()
    }

    /// Whether only its pictures are left to decode.
    pub(super) fn is_done(&self) -> bool {
        self.sampler.is_done()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// The rows of its next step: without the prompt where there is guidance, and with it.
    pub(super) fn blocks(&self, dtype: DType) -> CandleResult<Vec<Block>> {
        let input = self.sampler.scale_input(&self.latents)?;
        let input = self.kept.beside(&input)?.to_dtype(dtype)?;
        let sides = [self.texts.without.as_ref(), Some(&self.texts.with)];
        let blocks = sides.into_iter().enumerate().filter_map(|(side, text)| text.map(|text| (side, text)));
        let block = |(side, text): (usize, &super::text::Encoded)| {
            let added = match (&text.pooled, &self.sizes) {
                (Some(pooled), Some(sizes)) => {
                    Some(TextAndSizes { pooled: pooled.clone(), sizes: sizes[side].clone() })
                }
                _ => None,
            };
            Block {
                cancel: self.item.cancel.clone(),
                latents: input.clone(),
                timestep: self.sampler.timestep() as f32,
                guidance: self.guidance as f32,
                context: text.context.clone(),
                added,
            }
        };
        Ok(blocks.map(block).collect())
    }

    /// Takes the UNet's guesses for `blocks`, in their order, a step further.
    pub(super) fn advance(&mut self, pipeline: &Pipeline, guesses: &[Tensor]) -> Result<(), RunError> {
        self.follow(guesses).map_err(|error| run_error(&error))?;
        self.progress.step += 1;
        if let Some(hook) = &self.item.hook {
            hook.stepped(self.progress);
            let every = self.item.request.preview_every_steps;
            if every.is_some_and(|every| self.progress.step.is_multiple_of(every)) && !self.is_done() {
                match self.preview(pipeline) {
                    Ok(preview) => hook.preview(preview),
                    Err(error) => tracing::warn!(%error, "a preview was not made"),
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, guesses: &[Tensor]) -> CandleResult<()> {
        let guess = match guesses {
            [without, with] => {
                let guess = (without + ((with - without)? * self.guidance)?)?;
                match self.item.request.guidance_rescale {
                    0.0 => guess,
                    rescale => rescaled(&guess, with, rescale)?,
                }
            }
            [with] => with.clone(),
            _ => return Err(candle_core::Error::Msg("a step has no guess".into())),
        };
        let latents = self.sampler.step(&guess, &self.latents, &mut self.noise)?;
        self.latents = self.kept.over(&latents, &self.sampler)?;
        Ok(())
    }

    /// Where its pictures are now: (pictures, channels, height, width).
    #[cfg(test)]
    pub(super) fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// Its first picture as it looks now, small.
    fn preview(&self, pipeline: &Pipeline) -> Result<Output, RunError> {
        let small = || {
            let latents = self.sampler.scale_input(&self.latents.narrow(0, 0, 1)?)?;
            let (_, _, height, width) = latents.dims4()?;
            let by = height.max(width).div_ceil(PREVIEW);
            // the noise that is left is evened out with the rest
            let latents = if by > 1 && height >= by && width >= by { latents.avg_pool2d(by)? } else { latents };
            Made::decode(pipeline, &latents)
        };
        small().map_err(|error| run_error(&error))?.preview(PREVIEW_QUALITY)
    }

    /// Decodes its pictures, one at a time; the files are made of them elsewhere.
    pub(super) fn finish(self, pipeline: &Pipeline) -> Result<Finish, RunError> {
        let mut made = Vec::new();
        for index in 0..self.latents.dim(0).map_err(|error| run_error(&error))? {
            if self.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            let latents = self.latents.narrow(0, index, 1).map_err(|error| run_error(&error))?;
            made.push(Made::decode(pipeline, &latents).map_err(|error| run_error(&error))?);
        }
        let told = self.told;
        Ok(Box::new(move || told.product(made)))
    }
}

/// Brings guidance back to the spread that the guess with the prompt has, by as much as `rescale` (Lin et al. 2023,
/// section 3.4).
fn rescaled(guess: &Tensor, with: &Tensor, rescale: f64) -> CandleResult<Tensor> {
    let spread = |x: &Tensor| {
        let x = x.flatten_from(1)?;
        x.broadcast_sub(&x.mean_keepdim(1)?)?.sqr()?.mean_keepdim(1)?.sqrt()?.reshape((x.dim(0)?, 1, 1, 1))
    };
    let even = guess.broadcast_mul(&(spread(with)? / spread(guess)?)?)?;
    (even * rescale)? + (guess * (1.0 - rescale))?
}

fn sampler(scheduler: &Scheduler, request: &TextToImageRequest) -> Result<Sampler, InvalidInput> {
    scheduler.begin(request.steps as usize).map_err(|error| {
        let field = if matches!(error, SchedulerError::Steps { .. }) { "steps" } else { "scheduler" };
        InvalidInput::field(field, error.to_string())
    })
}

/// Whether this model can do what a consumer's `model.parameters` say. What they leave open is a job's own to say.
pub(super) fn check_defaults(pipeline: &Pipeline, defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
    let request = TextToImageRequest::of_defaults(defaults)?;
    let says = |names: &[&str]| names.iter().any(|name| defaults.contains_key(*name));
    pipeline.check_lora(&request)?;
    let scheduler = pipeline.scheduler_of(&request)?;
    if says(&["steps", "num_inference_steps", "scheduler"]) {
        sampler(&scheduler, &request)?;
    }
    if says(&["width", "height"]) {
        size(pipeline, &request)?;
    }
    Ok(())
}

/// Width and height in pixels of what is to be made.
fn size(pipeline: &Pipeline, request: &TextToImageRequest) -> Result<(usize, usize), InvalidInput> {
    const MOST: usize = millrace_api::task::text_to_image::MOST_SIDE as usize;
    let whole = |side: u32| (side as usize / pipeline.scale) * pipeline.scale;
    // what a mask belongs to is brought to the model's size, another picture keeps its own, as diffusers has it
    let of_picture = request.source.as_ref().filter(|source| source.mask.is_none()).map(|source| source.image.size());
    let (height, width) = of_picture.map_or(pipeline.default_size, |(width, height)| (whole(height), whole(width)));
    let side = |named: Option<u32>, own: usize| named.map_or(own, |side| side as usize);
    let size = (side(request.width, width), side(request.height, height));
    for (field, side) in [("width", size.0), ("height", size.1)] {
        if !side.is_multiple_of(pipeline.scale) {
            let message = format!("must be a multiple of {} for this model, not {side}", pipeline.scale);
            return Err(InvalidInput::field(field, message));
        }
    }
    if size.0.max(size.1) > MOST || size.0.min(size.1) == 0 {
        let name_it = format!("name a width and a height of at most {MOST}");
        return Err(match of_picture {
            Some((width, height)) => InvalidInput::field("image", format!("has {width} × {height} pixels; {name_it}")),
            None => InvalidInput::field("width", format!("is {} by the model's own config; {name_it}", size.0)),
        });
    }
    Ok(size)
}
