//! How a job begins: from noise, or from a picture that it brings, all of it or what a mask says.
//!
//! The order in which noise is drawn is that of diffusers' pipelines, or the same seed would give another picture.

use candle_core::{Result as CandleResult, Tensor};

use super::noise::Noise;
use super::pipeline::Pipeline;
use super::request::TextToImageRequest;
use super::scheduler::Sampler;
use crate::model::weights::run_error;
use crate::model::{InvalidInput, RunError};

/// A job that begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) request: &'a TextToImageRequest,
    /// In pixels.
    pub(super) width: usize,
    pub(super) height: usize,
}

/// What of a picture stays, step by step.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Mask and what is kept, which a UNet that was trained to inpaint sees beside the latents: (pictures, 1 + channels,
    /// height, width), f32.
    beside: Option<Tensor>,
    /// For other UNets: what is kept is put back after every step.
    over: Option<Over>,
}

#[derive(Debug)]
struct Over {
    /// The picture's own latents, and the noise that goes over them: (pictures, channels, height, width).
    picture: Tensor,
    noise: Tensor,
    /// 1 where the picture is made anew: (1, 1, height, width).
    mask: Tensor,
}

impl Kept {
    /// The UNet's input with what it sees beside.
    pub(super) fn beside(&self, input: &Tensor) -> CandleResult<Tensor> {
        match &self.beside {
            Some(beside) => Tensor::cat(&[input, beside], 1),
            None => Ok(input.clone()),
        }
    }

    /// The latents after a step, with what is kept put back at the noise level that `sampler` is at now.
    pub(super) fn over(&self, latents: &Tensor, sampler: &Sampler) -> CandleResult<Tensor> {
        let Some(Over { picture, noise, mask }) = &self.over else { return Ok(latents.clone()) };
        let kept = if sampler.is_done() { picture.clone() } else { sampler.add_noise(picture, noise)? };
        kept.broadcast_mul(&(1.0 - mask)?)? + latents.broadcast_mul(mask)?
    }
}

impl Start<'_> {
    fn drawn(&self, noise: &mut Noise, pictures: usize) -> CandleResult<Tensor> {
        let shape = self.pipeline.latent_shape(pictures, self.width, self.height);
        let (pictures, channels, height, width) = shape;
        Tensor::from_vec(noise.normal(pictures * channels * height * width), shape, &self.pipeline.device)
    }

    fn pictures(&self) -> usize {
        self.request.num_images as usize
    }

    /// Latents that are all noise.
    pub(super) fn with_noise(&self, sampler: &Sampler, noise: &mut Noise) -> CandleResult<Tensor> {
        self.drawn(noise, self.pictures())? * sampler.init_noise_sigma()
    }

    /// Latents of the request's picture under as much noise as `strength` says, and what of it stays.
    pub(super) fn with_picture(
        &self,
        strength: f64,
        sampler: &mut Sampler,
        noise: &mut Noise,
    ) -> Result<(Tensor, Kept), RunError> {
        let Some(source) = &self.request.source else {
            return Ok((self.with_noise(sampler, noise).map_err(|error| run_error(&error))?, Kept::default()));
        };
        sampler.begin_at(strength);
        if sampler.is_done() {
            let message = format!("leaves none of {} steps; raise it or steps", self.request.steps);
            return Err(InvalidInput::field("strength", message).into());
        }
        let invalid = |field: &'static str| move |error: String| InvalidInput::field(field, error);
        let planes = source.image.planes(self.width, self.height).map_err(invalid("image"))?;
        let mask = source.mask.as_ref().map(|mask| mask.mask(self.width, self.height)).transpose();
        let made = match mask.map_err(invalid("mask"))? {
            None => self.whole(&planes, sampler, noise),
            Some(mask) => self.part(&planes, &mask, strength, sampler, noise),
        };
        made.map_err(|error| run_error(&error))
    }

    /// Image to image.
    fn whole(&self, planes: &[f32], sampler: &Sampler, noise: &mut Noise) -> CandleResult<(Tensor, Kept)> {
        let picture = self.pipeline.vae.scaled(&self.sampled(planes.to_vec(), noise)?)?;
        let picture = picture.repeat((self.pictures(), 1, 1, 1))?;
        let drawn = self.drawn(noise, self.pictures())?;
        Ok((sampler.add_noise(&picture, &drawn)?, Kept::default()))
    }

    /// Inpainting. `mask` has a value a pixel, 1 where the picture is made anew.
    fn part(
        &self,
        planes: &[f32],
        mask: &[f32],
        strength: f64,
        sampler: &Sampler,
        noise: &mut Noise,
    ) -> CandleResult<(Tensor, Kept)> {
        let sees = self.pipeline.inpaints();
        let all_noise = strength >= 1.0;
        let picture = if sees && all_noise {
            None
        } else {
            Some(self.encoded(planes.to_vec(), noise)?.repeat((self.pictures(), 1, 1, 1))?)
        };
        let drawn = self.drawn(noise, self.pictures())?;
        let latents = match &picture {
            Some(picture) if !all_noise => sampler.add_noise(picture, &drawn)?,
            _ => (&drawn * sampler.init_noise_sigma())?,
        };
        // diffusers encodes what is kept, and draws noise for that, whether the UNet sees it or not
        let outside = planes.iter().zip(mask.iter().cycle()).map(|(value, mask)| value * f32::from(*mask < 0.5));
        let outside = self.encoded(outside.collect(), noise)?;
        let scale = self.pipeline.scale;
        let (rows, columns) = (self.height / scale, self.width / scale);
        let at = |index: usize| mask[index / columns * scale * self.width + index % columns * scale];
        let small: Vec<f32> = (0..rows * columns).map(at).collect();
        let mask = Tensor::from_vec(small, (1, 1, rows, columns), &self.pipeline.device)?;
        let kept = match picture {
            _ if sees => {
                let beside = Tensor::cat(&[&mask, &outside], 1)?.repeat((self.pictures(), 1, 1, 1))?;
                Kept { beside: Some(beside), over: None }
            }
            Some(picture) => Kept { beside: None, over: Some(Over { picture, noise: drawn, mask }) },
            None => Kept::default(),
        };
        Ok((latents, kept))
    }

    /// Latents of a picture that is inpainted.
    fn encoded(&self, planes: Vec<f32>, noise: &mut Noise) -> CandleResult<Tensor> {
        self.pipeline.vae.scaled_to_inpaint(&self.sampled(planes, noise)?)
    }

    /// A picture's latents (1, channels, height, width), sampled as the encoder says; unscaled.
    fn sampled(&self, planes: Vec<f32>, noise: &mut Noise) -> CandleResult<Tensor> {
        let pixels = Tensor::from_vec(planes, (1, 3, self.height, self.width), &self.pipeline.device)?;
        let encoded = self.pipeline.vae.encode(&pixels)?;
        encoded.sample(noise.normal(encoded.count()))
    }
}
