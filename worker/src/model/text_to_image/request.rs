//! What a job may ask of task TextToImage, in diffusers' words.

use std::sync::Arc;

use millrace_api::task::text_to_image::{
    DECLARATION, DEFAULT_STEPS, FORMAT, GUIDANCE_RESCALE, GUIDANCE_SCALE, HEIGHT, IMAGE, LORA_SCALE, MASK,
    NEGATIVE_PROMPT, NUM_IMAGES, PREVIEW_EVERY_STEPS, PROMPT, PROMPT_WEIGHTS, QUALITY, SCHEDULER, SEED, STEPS,
    STRENGTH, WIDTH,
};
use serde_json::{Map, Value};

use super::lora;
use super::picture::{Format, Picture};
use crate::model::fields::Fields;
use crate::model::{About, Input, InvalidInput, Request};

/// Quality of a JPEG that names none.
const DEFAULT_QUALITY: u64 = 90;

/// What a picture is made from, besides its prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    /// The picture to begin with.
    pub(super) image: Arc<Picture>,
    /// What of it is to be made anew; all of it where there is none.
    pub(super) mask: Option<Arc<Picture>>,
    /// How much of the way from noise is gone; none for the pipeline's own.
    pub(super) strength: Option<f64>,
}

/// A checked request for pictures of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct TextToImageRequest {
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    /// Whether brackets in prompts are weights.
    pub(super) prompt_weights: bool,
    /// In pixels; none for the size that the model was trained on, or of the picture to begin with.
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
    pub(super) steps: u32,
    /// None for the pipeline's own.
    pub(super) guidance_scale: Option<f64>,
    pub(super) guidance_rescale: f64,
    pub(super) seed: u64,
    pub(super) num_images: u32,
    /// Another scheduler than the model's.
    pub(super) scheduler: Option<String>,
    pub(super) source: Option<Source>,
    pub(super) format: Format,
    /// After every so many steps a small preview is made.
    pub(super) preview_every_steps: Option<u32>,
    /// Must be what is merged into the weights, where a job names it.
    pub(super) lora_scale: Option<f64>,
}

impl TextToImageRequest {
    /// A picture of a prompt in a size, in one step.
    pub(super) fn smallest(prompt: &str, width: usize, height: usize) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_weights: false,
            width: Some(width as u32),
            height: Some(height as u32),
            steps: 1,
            guidance_scale: None,
            guidance_rescale: 0.0,
            seed: 0,
            num_images: 1,
            scheduler: None,
            source: None,
            format: Format::Png,
            preview_every_steps: None,
            lora_scale: None,
        }
    }

    /// What a job gets that says nothing but its prompt.
    pub(super) fn of_defaults(defaults: &Map<String, Value>) -> Result<Self, InvalidInput> {
        Self::of_fields(&Fields::of_parameters(&DECLARATION, defaults)?, 0)
    }

    fn of_fields(fields: &Fields, seed: u64) -> Result<Self, InvalidInput> {
        let integer = |field| fields.integer(field).map(|number| number as u32);
        let text = |field| fields.text(field).map(str::to_owned);
        Ok(Self {
            prompt: text(&PROMPT).unwrap_or_default(),
            negative_prompt: text(&NEGATIVE_PROMPT),
            prompt_weights: fields.flag(&PROMPT_WEIGHTS).unwrap_or(false),
            width: integer(&WIDTH),
            height: integer(&HEIGHT),
            steps: integer(&STEPS).unwrap_or(DEFAULT_STEPS as u32),
            guidance_scale: fields.number(&GUIDANCE_SCALE),
            guidance_rescale: fields.number(&GUIDANCE_RESCALE).unwrap_or(0.0),
            seed: fields.integer(&SEED).unwrap_or(seed),
            num_images: integer(&NUM_IMAGES).unwrap_or(1),
            scheduler: text(&SCHEDULER),
            source: source(fields)?,
            format: format(fields)?,
            preview_every_steps: integer(&PREVIEW_EVERY_STEPS),
            lora_scale: fields.number(&LORA_SCALE),
        })
    }
}

fn source(fields: &Fields) -> Result<Option<Source>, InvalidInput> {
    let image = fields.parsed(&IMAGE, Picture::read)?.map(Arc::new);
    let mask = fields.parsed(&MASK, Picture::read)?.map(Arc::new);
    match (image, mask) {
        (Some(image), mask) => Ok(Some(Source { image, mask, strength: fields.number(&STRENGTH) })),
        (None, Some(_)) => Err(InvalidInput::field(fields.named(&MASK), "needs an image that it is the mask of")),
        // a consumer's own strength is for those of its jobs that have an image
        (None, None) if fields.says(&STRENGTH) => {
            Err(InvalidInput::field(STRENGTH.name(), "needs an image to begin with"))
        }
        (None, None) => Ok(None),
    }
}

fn format(fields: &Fields) -> Result<Format, InvalidInput> {
    let quality = fields.integer(&QUALITY).unwrap_or(DEFAULT_QUALITY) as u8;
    let format = match fields.text(&FORMAT) {
        Some("webp") => Format::WebP,
        Some("jpeg" | "jpg") => Format::Jpeg(quality),
        _ => Format::Png,
    };
    // a consumer's own quality is for those of its jobs that ask for jpeg
    if fields.says(&QUALITY) && !matches!(format, Format::Jpeg(_)) {
        let message = format!("is of jpeg; {} is written without loss", format.extension());
        return Err(InvalidInput::field(QUALITY.name(), message));
    }
    Ok(format)
}

impl Request for TextToImageRequest {
    const OBJECT_FIELDS: &'static [&'static str] = &["image", "init_image", "mask", "mask_image"];

    fn decode(input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Self, InvalidInput> {
        Self::of_fields(&Fields::read(&DECLARATION, input, defaults)?, about.seed)
    }

    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        lora::Choice::read(defaults)?;
        Self::of_defaults(defaults).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;
    use crate::model::testing::as_input;
    use crate::model::text_to_image::picture::webp;

    fn decode(input: Value, defaults: Value) -> Result<TextToImageRequest, InvalidInput> {
        TextToImageRequest::decode(&as_input(input), &object(defaults), &About { seed: 11, ..About::default() })
    }

    fn white() -> String {
        STANDARD.encode(webp(&[u8::MAX; 12], 2, 2).unwrap())
    }

    #[test]
    fn a_text_is_a_prompt_with_the_consumers_settings() {
        let request = decode(json!("a cat"), json!({"num_inference_steps": 4, "guidance_scale": 0})).unwrap();
        let plain = TextToImageRequest::smallest("a cat", 8, 8);
        let settings =
            TextToImageRequest { width: None, height: None, steps: 4, guidance_scale: Some(0.0), seed: 11, ..plain };
        assert_eq!(request, settings);
    }

    #[test]
    fn a_job_says_what_it_wants() {
        let request = decode(
            json!({
                "prompt": "a cat", "seed": 7, "width": 512, "height": 768, "num_images": 2, "negative_prompt": "dog",
                "scheduler": "ddim", "guidance_rescale": 0.7, "image": white(), "mask_image": white(), "strength": 0.5,
                "format": "jpeg", "quality": 70, "preview_every_steps": 5,
            }),
            json!({"steps": 4, "seed": 1}),
        )
        .unwrap();
        assert_eq!((request.seed, request.width, request.height, request.steps), (7, Some(512), Some(768), 4));
        assert_eq!((request.num_images, request.negative_prompt.as_deref()), (2, Some("dog")));
        assert_eq!((request.scheduler.as_deref(), request.format), (Some("ddim"), Format::Jpeg(70)));
        let source = request.source.unwrap();
        assert_eq!((source.image.size(), source.mask.is_some(), source.strength), ((2, 2), true, Some(0.5)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat((16 << 10) + 1);
        let cases = [
            (json!({"steps": 4}), "prompt"),
            (json!({"prompt": long}), "prompt"),
            (json!({"prompt": "x", "negative_prompt": long}), "negative_prompt"),
            (json!({"prompt": "x", "width": 100}), "width"),
            (json!({"prompt": "x", "height": 4096}), "height"),
            (json!({"prompt": "x", "num_images": 9}), "num_images"),
            (json!({"prompt": "x", "seed": -1}), "seed"),
            (json!({"prompt": "x", "sampler": "euler"}), "sampler"),
            (json!({"prompt": "x", "guidance_rescale": 2}), "guidance_rescale"),
            (json!({"prompt": "x", "strength": 0.5}), "strength"),
            (json!({"prompt": "x", "mask": white()}), "mask"),
            (json!({"prompt": "x", "mask_image": white()}), "mask_image"),
            (json!({"prompt": "x", "image": "no"}), "image"),
            (json!({"prompt": "x", "init_image": "no"}), "init_image"),
            (json!({"prompt": "x", "format": "gif"}), "format"),
            (json!({"prompt": "x", "output_format": "gif"}), "output_format"),
            (json!({"prompt": "x", "quality": 50}), "quality"),
            (json!({"prompt": "x", "format": "jpeg", "quality": 0}), "quality"),
            (json!({"prompt": "x", "lora": []}), "lora"),
        ];
        for (input, field) in cases {
            let error = decode(input.clone(), json!({})).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }

    #[test]
    fn defaults_are_checked_without_a_prompt() {
        let check = |defaults: Value| TextToImageRequest::check_defaults(&object(defaults));
        assert_eq!(check(json!({"steps": 4, "guidance_scale": 0.0})), Ok(()));
        assert_eq!(check(json!({"steps": 0})).unwrap_err().field.as_deref(), Some("model.parameters.steps"));
        assert_eq!(check(json!({"step": 4})).unwrap_err().field.as_deref(), Some("model.parameters.step"));
        let error = check(json!({"init_image": white()})).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model.parameters.init_image"), "{error}");
        let error = decode(json!("x"), json!({"image": white()})).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model.parameters.image"), "{error}");
    }
}
