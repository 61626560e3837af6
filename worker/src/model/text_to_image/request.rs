//! What a job may ask of task TextToImage, in diffusers' words.

use serde_json::{Map, Value};

use crate::model::fields::Fields;
use crate::model::{Input, InvalidInput, Request};

/// Steps of a job that names none. SDXL's own default of 50 gives hardly more for much longer; few-step models set
/// theirs in `model.parameters`.
const DEFAULT_STEPS: u64 = 30;

/// diffusers' default for SDXL.
const DEFAULT_GUIDANCE: f64 = 5.0;

/// Pictures have sides of a multiple of this: pixels per latent in every SDXL model.
const SIDE_STEP: u64 = 8;

/// A checked request for pictures of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct TextToImageRequest {
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    /// In pixels; none for the size that the model was trained on.
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
    pub(super) steps: u32,
    pub(super) guidance_scale: f64,
    pub(super) seed: u64,
    pub(super) num_images: u32,
}

impl TextToImageRequest {
    fn read(mut fields: Fields, seed: u64) -> Result<Option<Self>, InvalidInput> {
        let side = 64..=2048;
        let narrow = |number: Option<u64>| number.map(|number| number as u32);
        let prompt = fields.text(&["prompt"])?;
        let request = Self {
            prompt: String::new(),
            negative_prompt: fields.text(&["negative_prompt"])?,
            width: narrow(fields.multiple(&["width"], side.clone(), SIDE_STEP)?),
            height: narrow(fields.multiple(&["height"], side, SIDE_STEP)?),
            steps: fields.integer(&["steps", "num_inference_steps"], 1..=150)?.unwrap_or(DEFAULT_STEPS) as u32,
            guidance_scale: fields.number(&["guidance_scale"], 0.0..=50.0)?.unwrap_or(DEFAULT_GUIDANCE),
            seed: fields.integer(&["seed"], 0..=u64::MAX)?.unwrap_or(seed),
            num_images: fields.integer(&["num_images", "num_images_per_prompt"], 1..=8)?.unwrap_or(1) as u32,
        };
        fields.finish()?;
        Ok(prompt.map(|prompt| Self { prompt, ..request }))
    }

    /// Whether the model is also run without the prompt, to move away from that.
    pub(super) fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }
}

/// Whether a consumer's `model.parameters` are right for this task.
pub fn validate_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
    TextToImageRequest::read(Fields::of_defaults(defaults), 0).map(|_| ())
}

impl Request for TextToImageRequest {
    fn decode(input: &Input, defaults: &Map<String, Value>, seed: u64) -> Result<Self, InvalidInput> {
        let request = Self::read(Fields::new(input, "prompt", defaults), seed)?;
        request.ok_or_else(|| InvalidInput::field("prompt", "is required: the text to make a picture of"))
    }

    /// Size, steps and whether guidance is on, side by side: what one pass of the model must have in common.
    fn batch_key(&self) -> u64 {
        let side = |side: Option<u32>| u64::from(side.unwrap_or(0));
        side(self.width) << 32 | side(self.height) << 16 | u64::from(self.steps) << 1 | u64::from(self.is_guided())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;

    fn decode(input: Value, defaults: Value) -> Result<TextToImageRequest, InvalidInput> {
        let input = match input {
            Value::String(text) => Input::Text(text),
            other => Input::Object(object(other)),
        };
        TextToImageRequest::decode(&input, &object(defaults), 11)
    }

    #[test]
    fn a_text_is_a_prompt_with_the_consumers_settings() {
        let request = decode(json!("a cat"), json!({"num_inference_steps": 4, "guidance_scale": 0})).unwrap();
        assert_eq!(
            request,
            TextToImageRequest {
                prompt: "a cat".into(),
                negative_prompt: None,
                width: None,
                height: None,
                steps: 4,
                guidance_scale: 0.0,
                seed: 11,
                num_images: 1,
            }
        );
    }

    #[test]
    fn a_job_says_what_it_wants() {
        let request = decode(
            json!({"prompt": "a cat", "seed": 7, "width": 512, "height": 768, "num_images": 2, "negative_prompt": "dog"}),
            json!({"steps": 4, "seed": 1}),
        )
        .unwrap();
        assert_eq!((request.seed, request.width, request.height), (7, Some(512), Some(768)));
        assert_eq!((request.num_images, request.negative_prompt.as_deref()), (2, Some("dog")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (json!({"steps": 4}), "prompt"),
            (json!({"prompt": "x", "width": 100}), "width"),
            (json!({"prompt": "x", "height": 4096}), "height"),
            (json!({"prompt": "x", "num_images": 9}), "num_images"),
            (json!({"prompt": "x", "seed": -1}), "seed"),
            (json!({"prompt": "x", "sampler": "euler"}), "sampler"),
        ];
        for (input, field) in cases {
            assert_eq!(decode(input, json!({})).unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn defaults_are_checked_without_a_prompt() {
        let check = |defaults: Value| validate_defaults(&object(defaults));
        assert_eq!(check(json!({"steps": 4, "guidance_scale": 0.0})), Ok(()));
        assert_eq!(check(json!({"steps": 0})).unwrap_err().field.as_deref(), Some("model.parameters.steps"));
        assert_eq!(check(json!({"step": 4})).unwrap_err().field.as_deref(), Some("model.parameters.step"));
    }

    #[test]
    fn requests_share_a_batch_only_when_one_pass_serves_both() {
        let key = |more: Value| {
            let mut input = object(json!({"prompt": "x", "steps": 4, "width": 512, "height": 512, "seed": 1}));
            input.extend(object(more));
            decode(Value::Object(input), json!({})).unwrap().batch_key()
        };
        let base = key(json!({}));
        for same in [json!({"seed": 2}), json!({"guidance_scale": 7}), json!({"prompt": "y"}), json!({"num_images": 3})]
        {
            assert_eq!(key(same.clone()), base, "{same}");
        }
        for other in [json!({"steps": 5}), json!({"width": 520}), json!({"height": 504}), json!({"guidance_scale": 1})]
        {
            assert_ne!(key(other.clone()), base, "{other}");
        }
    }
}
