//! A loaded model: its components on their device, and what its pipeline's class says of how they work together.

use std::borrow::Cow;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::lora;
use super::passes::{self, Block};
use super::request::TextToImageRequest;
use super::room::Room;
use super::scheduler::Scheduler;
use super::text::{Encoded, Reader, Text};
use super::unet::UNet;
use super::vae::Vae;
use crate::model::weights::run_error;
use crate::model::{InvalidInput, RunError};

/// Which pipeline of diffusers a model is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Family {
    /// Stable Diffusion 1 and 2.
    Sd,
    Sdxl(Sdxl),
}

/// What SDXL's `model_index.json` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sdxl {
    /// No negative prompt means zeros rather than the encoding of an empty text.
    pub(super) blank_is_zero: bool,
    /// The model is told how beautiful the picture is to be, rather than its size a second time: a refiner.
    pub(super) aesthetic: bool,
}

/// Beauty that diffusers asks of a refiner, and that it moves away from.
const AESTHETIC: [f32; 2] = [6.0, 2.5];

impl Family {
    /// diffusers' default guidance; `inpaints` where part of a picture is made anew.
    pub(super) fn guidance(self, inpaints: bool) -> f64 {
        match self {
            Self::Sdxl(_) if !inpaints => 5.0,
            Self::Sdxl(_) | Self::Sd => 7.5,
        }
    }

    /// diffusers' default strength; `inpaints` where part of a picture is made anew.
    pub(super) fn strength(self, inpaints: bool) -> f64 {
        match (self, inpaints) {
            (Self::Sd, false) => 0.8,
            (Self::Sd, true) => 1.0,
            (Self::Sdxl(_), false) => 0.3,
            (Self::Sdxl(_), true) => 0.9999,
        }
    }

    /// What SDXL is told of a picture's size: without its prompt, and with it.
    pub(super) fn sizes(self, width: usize, height: usize) -> Option<[Vec<f32>; 2]> {
        let Self::Sdxl(sdxl) = self else { return None };
        let (width, height) = (width as f32, height as f32);
        let [good, bad] = AESTHETIC;
        let tell = |score| {
            if sdxl.aesthetic {
                vec![height, width, 0.0, 0.0, score]
            } else {
                vec![height, width, 0.0, 0.0, height, width]
            }
        };
        Some([tell(bad), tell(good)])
    }
}

/// All components of a model, on their device.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) family: Family,
    pub(super) readers: Vec<Reader>,
    pub(super) unet: UNet,
    /// Channels that the UNet takes: those of the latents, or more where it was trained to inpaint.
    pub(super) unet_channels: usize,
    pub(super) vae: Vae,
    pub(super) scheduler: Scheduler,
    pub(super) latent_channels: usize,
    /// Pixels per latent, along each side.
    pub(super) scale: usize,
    /// Height and width of a picture that names no size, in pixels.
    pub(super) default_size: (usize, usize),
    /// The LoRAs that are merged into the weights.
    pub(super) loras: Vec<lora::Choice>,
    pub(super) room: Room,
    pub(super) device: Device,
    pub(super) dtype: DType,
}

/// What a picture is to show, and what it is to move away from where there is guidance.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) with: Encoded,
    pub(super) without: Option<Encoded>,
}

impl Pipeline {
    /// Whether the UNet was trained to inpaint: it sees the mask, and what of the picture is kept.
    pub(super) fn inpaints(&self) -> bool {
        self.unet_channels == self.latent_channels * 2 + 1
    }

    /// The shape of `pictures` latents of a picture of this size in pixels.
    pub(super) fn latent_shape(&self, pictures: usize, width: usize, height: usize) -> (usize, usize, usize, usize) {
        (pictures, self.latent_channels, height / self.scale, width / self.scale)
    }

    /// The scheduler that a request asks for; else the model's own.
    pub(super) fn scheduler_of(&self, request: &TextToImageRequest) -> Result<Cow<'_, Scheduler>, InvalidInput> {
        let Some(name) = &request.scheduler else { return Ok(Cow::Borrowed(&self.scheduler)) };
        let named = self.scheduler.named(name);
        named.map(Cow::Owned).map_err(|error| InvalidInput::field("scheduler", error.to_string()))
    }

    /// Refuses a LoRA's scale that is not what is merged: the weights are those of all jobs.
    pub(super) fn check_lora(&self, request: &TextToImageRequest) -> Result<(), InvalidInput> {
        let Some(scale) = request.lora_scale else { return Ok(()) };
        let wrong = |message: String| Err(InvalidInput::field("lora_scale", message));
        match self.loras.iter().find(|merged| (merged.scale - scale).abs() > 1e-9) {
            _ if self.loras.is_empty() => wrong("is given, but no LoRA is merged into this model".into()),
            Some(merged) => wrong(format!(
                "must be {}: LoRAs are merged into the weights that all jobs share; set model.parameters.lora, or use \
                 another consumer",
                merged.scale
            )),
            None => Ok(()),
        }
    }

    /// Encodes a prompt, and what to move away from where `guided`.
    pub(super) fn encode(
        &self,
        prompt: &str,
        negative: Option<&str>,
        guided: bool,
        weights: bool,
    ) -> Result<Texts, RunError> {
        let readers = &self.readers;
        let with = Text::read(readers, "prompt", prompt, weights)?;
        let zero = negative.is_none() && matches!(self.family, Family::Sdxl(Sdxl { blank_is_zero: true, .. }));
        // read even where it is not needed, so that what is wrong with it is told whatever the guidance
        let without = Text::read(readers, "negative_prompt", negative.unwrap_or(""), weights)?;
        let count = with.chunks(readers).max(if guided && !zero { without.chunks(readers) } else { 1 });
        let with = with.encode(readers, count).map_err(|error| run_error(&error))?;
        let without = match (guided, zero) {
            (false, _) => None,
            (true, true) => Some(with.zeroed().map_err(|error| run_error(&error))?),
            (true, false) => Some(without.encode(readers, count).map_err(|error| run_error(&error))?),
        };
        Ok(Texts { with, without })
    }

    /// The UNet's guesses for blocks of rows: each (pictures, channels, height, width) in f32.
    pub(super) fn guess(&mut self, blocks: &[Block]) -> Vec<CandleResult<Tensor>> {
        passes::run(&self.unet, &mut self.room, blocks)
    }
}
