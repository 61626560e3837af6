//! Task TextToImage: an SDXL-family pipeline, loaded from a folder in the layout of diffusers.

mod attention;
mod box_muller;
mod device;
mod folder;
mod load;
mod make_model;
mod noise;
mod pipeline;
mod png;
mod request;
mod scheduler;
#[cfg(test)]
mod tests;
mod text_encoder;
mod tokenizer;
mod unet;
mod unet_blocks;
mod unet_config;
mod vae;
mod vocabulary;
mod weights;

pub use self::load::load;
pub use self::make_model::{MakeModelError, make_model};
pub use self::request::{TextToImageRequest, validate_defaults};

use self::noise::Noise;
use self::pipeline::{Group, Picture, Pipeline, Shape, Text};
use self::png::Parameters;
use self::tokenizer::{TokenizeError, Tokenizer};
use super::{Cancel, Engine, InvalidInput, Item, Output, Product, RunError};

/// A loaded model.
#[derive(Debug)]
pub struct TextToImage {
    tokenizers: [Tokenizer; 2],
    pipeline: Pipeline,
    /// Side of a picture that names no size, in pixels.
    default_side: usize,
    /// Whether no negative prompt means zeros rather than the encoding of an empty text.
    blank_is_zero: bool,
}

impl Engine for TextToImage {
    type Request = TextToImageRequest;

    fn warm_up(&mut self) -> Result<(), RunError> {
        let request = TextToImageRequest {
            prompt: "warm up".into(),
            negative_prompt: None,
            width: Some(64),
            height: Some(64),
            steps: 1,
            guidance_scale: 1.0,
            seed: 0,
            num_images: 1,
        };
        let item = Item { request: request.into(), cancel: Cancel::default() };
        self.run(&[item]).into_iter().try_for_each(|result| result.map(|_| ()))
    }

    fn run(&mut self, batch: &[Item<TextToImageRequest>]) -> Vec<Result<Product, RunError>> {
        let Some(first) = batch.first() else { return Vec::new() };
        let shape = self.shape(&first.request);
        // The pictures of all requests that can run, in order; and of each request how many, or why none.
        let (mut pictures, mut groups) = (Vec::new(), Vec::new());
        let planned: Vec<Result<usize, RunError>> = batch
            .iter()
            .map(|item| {
                let wanted = self.pictures(item, shape)?;
                let count = wanted.len();
                pictures.extend(wanted);
                groups.push(Group { noise: Noise::new(item.request.seed), pictures: count });
                Ok(count)
            })
            .collect();
        let mut made = match self.pipeline.generate(shape, &pictures, &mut groups) {
            Ok(made) => made.into_iter(),
            Err(error) => {
                let error = run_error(&error);
                return planned.into_iter().map(|plan| Err(plan.err().unwrap_or_else(|| error.clone()))).collect();
            }
        };
        let finish = |(plan, item): (Result<usize, RunError>, &Item<TextToImageRequest>)| {
            let pixels: Option<Vec<_>> = made.by_ref().take(plan?).collect();
            self.product(&item.request, shape, &pixels.ok_or(RunError::Cancelled)?)
        };
        planned.into_iter().zip(batch).map(finish).collect()
    }
}

impl TextToImage {
    /// What the requests of a batch have in common; their equal `batch_key`s say that any of them will do.
    fn shape(&self, request: &TextToImageRequest) -> Shape {
        let side = |side: Option<u32>| side.map_or(self.default_side, |side| side as usize);
        Shape {
            width: side(request.width),
            height: side(request.height),
            steps: request.steps as usize,
            guided: request.is_guided(),
        }
    }

    /// The pictures that a request asks for.
    fn pictures(&self, item: &Item<TextToImageRequest>, shape: Shape) -> Result<Vec<Picture>, RunError> {
        if item.cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let request = &item.request;
        for (field, side) in [("width", shape.width), ("height", shape.height)] {
            if !side.is_multiple_of(self.pipeline.scale) {
                let message = format!("must be a multiple of {} for this model, not {side}", self.pipeline.scale);
                return Err(InvalidInput::field(field, message).into());
            }
        }
        let prompt = self.tokenize("prompt", &request.prompt)?;
        let negative = match &request.negative_prompt {
            Some(negative) => Some(self.tokenize("negative_prompt", negative)?),
            None if self.blank_is_zero => None,
            None => Some(self.tokenize("negative_prompt", "")?),
        };
        let picture = |_| Picture {
            prompt: prompt.clone(),
            negative: negative.clone(),
            guidance: request.guidance_scale,
            cancel: item.cancel.clone(),
        };
        Ok((0..request.num_images).map(picture).collect())
    }

    fn tokenize(&self, field: &str, text: &str) -> Result<Text, RunError> {
        let invalid = |error: TokenizeError| InvalidInput::field(field, error.to_string());
        let [first, second] = &self.tokenizers;
        Ok([first.encode(text).map_err(invalid)?, second.encode(text).map_err(invalid)?])
    }

    fn product(&self, request: &TextToImageRequest, shape: Shape, made: &[Vec<f32>]) -> Result<Product, RunError> {
        let output = |(index, pixels): (u32, &Vec<f32>)| {
            if pixels.iter().any(|value| !value.is_finite()) {
                let message = "the picture came out as NaN; model.precision: F32 or BF16 has the range that F16 lacks";
                return Err(RunError::Model(message.into()));
            }
            let parameters = Parameters {
                prompt: &request.prompt,
                negative_prompt: request.negative_prompt.as_deref(),
                width: shape.width,
                height: shape.height,
                steps: request.steps,
                guidance_scale: request.guidance_scale,
                seed: request.seed,
                index,
                scheduler: self.pipeline.scheduler.name(),
            };
            let body = png::encode(pixels, &parameters).map_err(|error| RunError::Model(error.to_string()))?;
            Ok(Output { extension: "png", content_type: "image/png", body })
        };
        let outputs = (0..).zip(made).map(output).collect::<Result<_, _>>()?;
        Ok(Product { outputs, value: None, seed: Some(request.seed) })
    }
}

fn run_error(error: &candle_core::Error) -> RunError {
    let error = weights::cause(error);
    if weights::is_out_of_memory(error) {
        return RunError::OutOfMemory(error.to_string());
    }
    RunError::Model(error.to_string())
}
