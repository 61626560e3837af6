//! From prompts to pixels: text encoders, denoising, decoder, after diffusers' `StableDiffusionXLPipeline`.

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::scheduler::{Schedule, Scheduler};
use super::text_encoder::{TextEncoder, join};
use super::tokenizer::Tokens;
use super::unet::{Conditioning, UNet};
use super::vae::Vae;
use crate::model::Cancel;

/// The two text encoders read a text each in its own tokens.
pub(super) type Text = [Tokens; 2];

/// All components of a model, on their device.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) encoders: [TextEncoder; 2],
    pub(super) unet: UNet,
    pub(super) vae: Vae,
    pub(super) scheduler: Scheduler,
    pub(super) latent_channels: usize,
    /// Pixels per latent, along each side.
    pub(super) scale: usize,
    pub(super) device: Device,
    pub(super) dtype: DType,
}

/// What all pictures of one batch have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// In pixels.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) steps: usize,
    pub(super) guided: bool,
}

/// One picture to make.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) prompt: Text,
    /// What to move away from; none for the model's blank.
    pub(super) negative: Option<Text>,
    pub(super) guidance: f64,
    pub(super) noise: Noise,
    pub(super) cancel: Cancel,
}

/// A picture's own random numbers, so that it does not depend on the others of its batch, nor on the device.
#[derive(Debug)]
pub(super) struct Noise(ChaCha12Rng);

impl Noise {
    /// The noise of picture `index` of a request with this seed.
    pub(super) fn new(seed: u64, index: u32) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(index.into());
        Self(rng)
    }

    fn draw(&mut self, count: usize) -> impl Iterator<Item = f32> {
        StandardNormal.sample_iter(&mut self.0).take(count)
    }
}

impl Pipeline {
    /// Makes all pictures in one batch, each as red, green, blue from 0 to 1, row by row; none for those that were
    /// cancelled meanwhile.
    pub(super) fn generate(&self, shape: Shape, pictures: &mut [Picture]) -> Result<Vec<Option<Vec<f32>>>> {
        let conditioning = self.conditioning(shape, pictures)?;
        let schedule = self.scheduler.schedule(shape.steps);
        let Some(latents) = self.denoise(shape, &schedule, &conditioning, pictures)? else {
            return Ok(vec![None; pictures.len()]);
        };
        let decode = |(index, picture): (usize, &Picture)| {
            if picture.cancel.is_cancelled() {
                return Ok(None);
            }
            self.vae.decode(&latents.i(index..=index)?).map(Some)
        };
        pictures.iter().enumerate().map(decode).collect()
    }

    /// Encodes the texts. With guidance the batch holds every picture twice: without its prompt, then with it.
    fn conditioning(&self, shape: Shape, pictures: &[Picture]) -> Result<Conditioning> {
        let prompts = pictures.iter().map(|picture| &picture.prompt);
        let prompt = self.encode(&prompts.collect::<Vec<_>>())?;
        let (context, pooled) = if shape.guided {
            // A blank is all zeros; its row is computed from the prompt only to be wiped.
            let texts: Vec<_> = pictures.iter().map(|p| p.negative.as_ref().unwrap_or(&p.prompt)).collect();
            let kept: Vec<f32> = pictures.iter().map(|p| if p.negative.is_some() { 1.0 } else { 0.0 }).collect();
            let (context, pooled) = self.encode(&texts)?;
            let kept = Tensor::from_vec(kept, (pictures.len(), 1), &self.device)?.to_dtype(self.dtype)?;
            let (context, pooled) = (context.broadcast_mul(&kept.unsqueeze(2)?)?, pooled.broadcast_mul(&kept)?);
            (Tensor::cat(&[&context, &prompt.0], 0)?, Tensor::cat(&[&pooled, &prompt.1], 0)?)
        } else {
            prompt
        };
        let (height, width) = (shape.height as f32, shape.width as f32);
        let sizes = Tensor::new(&[height, width, 0.0, 0.0, height, width], &self.device)?;
        let sizes = sizes.unsqueeze(0)?.repeat((context.dim(0)?, 1))?;
        Ok(Conditioning { context, pooled, sizes })
    }

    /// The hidden states of both encoders side by side, and the second one's pooled text.
    fn encode(&self, texts: &[&Text]) -> Result<(Tensor, Tensor)> {
        let [first, second] = &self.encoders;
        let column = |encoder: usize| texts.iter().map(|text| &text[encoder]).collect::<Vec<_>>();
        let first = first.encode(&column(0))?;
        let second = second.encode(&column(1))?;
        let pooled = second.pooled.ok_or_else(|| candle_core::Error::Msg("text_encoder_2 has no projection".into()))?;
        Ok((join(&first.hidden, &second.hidden)?, pooled))
    }

    /// Runs the schedule; none when nobody wants the pictures any more.
    fn denoise(
        &self,
        shape: Shape,
        schedule: &Schedule,
        conditioning: &Conditioning,
        pictures: &mut [Picture],
    ) -> Result<Option<Tensor>> {
        let guidance: Vec<f32> = pictures.iter().map(|picture| picture.guidance as f32).collect();
        let guidance = Tensor::from_vec(guidance, (pictures.len(), 1, 1, 1), &self.device)?;
        let mut latents = (self.noise(shape, pictures)? * schedule.initial)?;
        for step in &schedule.steps {
            if pictures.iter().all(|picture| picture.cancel.is_cancelled()) {
                return Ok(None);
            }
            // The latents stay in f32: rounding them to f16 at each step would add up.
            let input = (&latents * step.input)?.to_dtype(self.dtype)?;
            let input = if shape.guided { Tensor::cat(&[&input, &input], 0)? } else { input };
            let output = self.unet.forward(&input, step.timestep, conditioning)?.to_dtype(DType::F32)?;
            let output = if shape.guided {
                let count = pictures.len();
                let (without, with) = (output.narrow(0, 0, count)?, output.narrow(0, count, count)?);
                (&without + (with - &without)?.broadcast_mul(&guidance)?)?
            } else {
                output
            };
            latents = ((latents * step.keep)? + (output * step.model)?)?;
            if step.noise > 0.0 {
                latents = (latents + (self.noise(shape, pictures)? * step.noise)?)?;
            }
        }
        Ok(Some(latents))
    }

    /// Fresh noise for every picture, drawn on the CPU so that it is the same on every device.
    fn noise(&self, shape: Shape, pictures: &mut [Picture]) -> Result<Tensor> {
        let (height, width) = (shape.height / self.scale, shape.width / self.scale);
        let count = self.latent_channels * height * width;
        let noise: Vec<f32> = pictures.iter_mut().flat_map(|picture| picture.noise.draw(count)).collect();
        Tensor::from_vec(noise, (pictures.len(), self.latent_channels, height, width), &self.device)
    }
}
