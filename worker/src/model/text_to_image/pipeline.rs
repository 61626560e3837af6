//! From prompts to pixels: text encoders, denoising, decoder, after diffusers' `StableDiffusionXLPipeline`.

use candle_core::{DType, Device, IndexOp, Result, Tensor};

use super::noise::Noise;
use super::scheduler::{Sampler, Scheduler};
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
    pub(super) cancel: Cancel,
}

/// Pictures of one request: they share its random numbers, as in diffusers.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) noise: Noise,
    /// How many.
    pub(super) pictures: usize,
}

impl Pipeline {
    /// Makes all pictures in one batch, each as red, green, blue from 0 to 1, row by row; none for those that were
    /// cancelled meanwhile. `groups` say which of them belong together, in their order.
    pub(super) fn generate(
        &self,
        shape: Shape,
        pictures: &[Picture],
        groups: &mut [Group],
    ) -> Result<Vec<Option<Vec<f32>>>> {
        let conditioning = self.conditioning(shape, pictures)?;
        let Some(latents) = self.denoise(shape, &conditioning, pictures, groups)? else {
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

    /// Takes all steps; none when nobody wants the pictures any more.
    fn denoise(
        &self,
        shape: Shape,
        conditioning: &Conditioning,
        pictures: &[Picture],
        groups: &mut [Group],
    ) -> Result<Option<Tensor>> {
        let guidance: Vec<f32> = pictures.iter().map(|picture| picture.guidance as f32).collect();
        let guidance = Tensor::from_vec(guidance, (pictures.len(), 1, 1, 1), &self.device)?;
        let sampler = || self.scheduler.begin(shape.steps).map_err(|error| candle_core::Error::Msg(error.to_string()));
        let mut samplers = groups.iter().map(|_| sampler()).collect::<Result<Vec<_>>>()?;
        let mut latents = Tensor::cat(&self.noise(shape, groups, &samplers)?, 0)?;
        while let Some(first) = samplers.first().filter(|sampler| !sampler.is_done()) {
            if pictures.iter().all(|picture| picture.cancel.is_cancelled()) {
                return Ok(None);
            }
            // All requests of a batch have the same steps, so one of them stands for all.
            let timestep = first.timestep();
            let input = first.scale_input(&latents)?.to_dtype(self.dtype)?;
            let input = if shape.guided { Tensor::cat(&[&input, &input], 0)? } else { input };
            let output = self.unet.forward(&input, timestep, conditioning)?.to_dtype(DType::F32)?;
            let output = if shape.guided {
                let count = pictures.len();
                let (without, with) = (output.narrow(0, 0, count)?, output.narrow(0, count, count)?);
                (&without + (with - &without)?.broadcast_mul(&guidance)?)?
            } else {
                output
            };
            let mut start = 0;
            let mut next = Vec::new();
            for (group, sampler) in groups.iter_mut().zip(&mut samplers) {
                let own = |tensor: &Tensor| tensor.narrow(0, start, group.pictures);
                next.push(sampler.step(&own(&output)?, &own(&latents)?, &mut group.noise)?);
                start += group.pictures;
            }
            latents = Tensor::cat(&next, 0)?;
        }
        Ok(Some(latents))
    }

    /// The first latents of every group, drawn on the CPU so that they are the same on every device.
    fn noise(&self, shape: Shape, groups: &mut [Group], samplers: &[Sampler]) -> Result<Vec<Tensor>> {
        let (height, width) = (shape.height / self.scale, shape.width / self.scale);
        let draw = |(group, sampler): (&mut Group, &Sampler)| {
            let size = (group.pictures, self.latent_channels, height, width);
            let count = group.pictures * self.latent_channels * height * width;
            Tensor::from_vec(group.noise.normal(count), size, &self.device)? * sampler.init_noise_sigma()
        };
        groups.iter_mut().zip(samplers).map(draw).collect()
    }
}
