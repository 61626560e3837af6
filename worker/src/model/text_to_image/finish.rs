//! From decoded pixels to files, away from the engine's thread.

use std::sync::Arc;

use candle_core::{Result as CandleResult, Tensor};
use serde_json::{Map, Value};

use super::lora;
use super::picture::{self, Format};
use super::pipeline::Pipeline;
use super::png;
use super::request::TextToImageRequest;
use crate::model::{Output, Product, RunError};

/// A decoded picture.
#[derive(Debug)]
pub(super) struct Made {
    /// Red, then green, then blue, each row by row; from −1 to 1 more or less.
    planes: Vec<f32>,
    width: usize,
    height: usize,
}

/// What a job's files tell of how they were made.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) request: Arc<TextToImageRequest>,
    /// In pixels.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) guidance_scale: f64,
    /// Of a picture that began with another.
    pub(super) strength: Option<f64>,
    /// diffusers' name of it.
    pub(super) scheduler: String,
    /// Merged into the weights.
    pub(super) loras: Vec<lora::Choice>,
}

impl Made {
    /// Decodes latents (1, channels, height, width).
    pub(super) fn decode(pipeline: &Pipeline, latents: &Tensor) -> CandleResult<Self> {
        let pixels = pipeline.vae.decode(latents)?;
        let (_, height, width) = pixels.dims3()?;
        Ok(Self { planes: pixels.flatten_all()?.to_vec1()?, width, height })
    }

    /// 8-bit red, green, blue, row by row, rounded as diffusers does.
    fn bytes(&self) -> Result<Vec<u8>, RunError> {
        if self.planes.iter().any(|value| !value.is_finite()) {
            let message = "the picture came out as NaN; model.precision: F32 or BF16 has the range that F16 lacks";
            return Err(RunError::Model(message.into()));
        }
        let level = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let count = self.width * self.height;
        let pixel = |at: usize| (0..3).map(move |colour| level(self.planes[colour * count + at]));
        Ok((0..count).flat_map(pixel).collect())
    }

    /// As a JPEG that says nothing.
    pub(super) fn preview(&self, quality: u8) -> Result<Output, RunError> {
        let format = Format::Jpeg(quality);
        let body = picture::jpeg(&self.bytes()?, self.width as u32, self.height as u32, quality);
        let body = body.map_err(|error| RunError::Model(error.to_string()))?;
        Ok(Output {
            extension: format.extension().into(),
            content_type: format.content_type().into(),
            body: body.into(),
        })
    }
}

impl Told {
    /// The files of a job's pictures.
    pub(super) fn product(&self, made: Vec<Made>) -> Result<Product, RunError> {
        let parameters = self.parameters();
        let outputs = (0..).zip(made).map(|(index, made)| self.file(index, &made, &parameters));
        let outputs = outputs.collect::<Result<_, _>>()?;
        Ok(Product { outputs, parameters, seed: Some(self.request.seed), ..Product::default() })
    }

    /// How the pictures were made, in the words of jobs.
    fn parameters(&self) -> Map<String, Value> {
        let request = &self.request;
        let rescale = Some(request.guidance_rescale).filter(|rescale| *rescale > 0.0);
        let loras = Some(&self.loras).filter(|loras| !loras.is_empty());
        let parameters: [(&str, Option<Value>); 11] = [
            ("width", Some(self.width.into())),
            ("height", Some(self.height.into())),
            ("steps", Some(request.steps.into())),
            ("guidance_scale", Some(self.guidance_scale.into())),
            ("guidance_rescale", rescale.map(Value::from)),
            ("strength", self.strength.map(Value::from)),
            ("seed", Some(request.seed.into())),
            ("num_images", Some(request.num_images.into())),
            ("scheduler", Some(self.scheduler.as_str().into())),
            ("prompt_weights", request.prompt_weights.then_some(true.into())),
            ("lora", loras.map(|loras| loras.iter().map(lora::Choice::told).collect())),
        ];
        parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    fn file(&self, index: u32, made: &Made, parameters: &Map<String, Value>) -> Result<Output, RunError> {
        let request = &self.request;
        let pixels = made.bytes()?;
        let (width, height) = (made.width as u32, made.height as u32);
        let body = match request.format {
            Format::Png => {
                let mut parameters = parameters.clone();
                parameters.insert("prompt".into(), request.prompt.as_str().into());
                if let Some(negative) = &request.negative_prompt {
                    parameters.insert("negative_prompt".into(), negative.as_str().into());
                }
                parameters.insert("index".into(), index.into());
                png::encode(&pixels, width, height, &parameters).map_err(|error| error.to_string())
            }
            Format::Jpeg(quality) => picture::jpeg(&pixels, width, height, quality).map_err(|error| error.to_string()),
            Format::WebP => picture::webp(&pixels, width, height).map_err(|error| error.to_string()),
        };
        let body = body.map_err(RunError::Model)?;
        Ok(Output {
            extension: request.format.extension().into(),
            content_type: request.format.content_type().into(),
            body: body.into(),
        })
    }
}
