//! What task TextToImage accepts, in diffusers' words.

use super::{Declaration, Field, Kind};

/// Steps of a job that names none: diffusers' default. Few-step models set theirs in `model.parameters`.
pub const DEFAULT_STEPS: u64 = 50;
/// Longest side of a picture in pixels.
pub const MOST_SIDE: u64 = 2048;
/// What sides are a multiple of: pixels per latent in nearly every model.
const SIDE_STEP: u64 = 8;
/// Longest prompt in bytes: many times what the encoders read.
const MOST_PROMPT: usize = 16 << 10;
/// Longest name of a scheduler.
const MOST_NAME: usize = 256;
const MOST_STEPS: u64 = 150;
const SIDE: Kind = Kind::Integer { least: SIDE_STEP, most: MOST_SIDE, step: SIDE_STEP };

pub const PROMPT: Field = Field::text(
    &["prompt"],
    MOST_PROMPT,
    "what to make a picture of: up to 600 tokens (8 times what the encoders read at once, less its begin and end marks)",
);
pub const NEGATIVE_PROMPT: Field =
    Field::text(&["negative_prompt"], MOST_PROMPT, "what to keep away from, of as many tokens")
        .default("the model's blank");
pub const PROMPT_WEIGHTS: Field =
    Field::flag(&["prompt_weights"], "whether `(words:1.3)` in prompts are [weights](models.md#prompts)")
        .default("false");
pub const WIDTH: Field =
    Field::new(&["width"], SIDE, "in pixels").default("what the model was trained on; of a job with an image, its own");
pub const HEIGHT: Field = Field::new(&["height"], SIDE, "in pixels")
    .default("what the model was trained on; of a job with an image, its own");
pub const STEPS: Field =
    Field::integer(&["steps", "num_inference_steps"], 1, MOST_STEPS, "denoising steps").default("50");
pub const GUIDANCE_SCALE: Field =
    Field::number(&["guidance_scale"], 0.0, 50.0, "how closely the prompt is followed; up to 1 is without guidance")
        .default("as diffusers: 7.5, of SDXL 5, and 7.5 with a mask");
pub const GUIDANCE_RESCALE: Field =
    Field::number(&["guidance_rescale"], 0.0, 1.0, "how much of what guidance overexposes is taken back").default("0");
pub const SCHEDULER: Field =
    Field::text(&["scheduler"], MOST_NAME, "a class of diffusers or a short name: [schedulers](models.md#schedulers)")
        .default("the model's own");
pub const SEED: Field = Field::integer(&["seed"], 0, u64::MAX, "the same seed gives the same picture")
    .default("from the job id, so that a repeat gives the same picture");
pub const NUM_IMAGES: Field =
    Field::integer(&["num_images", "num_images_per_prompt"], 1, 8, "pictures of this prompt").default("1");
pub const IMAGE: Field = Field::file(
    &["image", "init_image"],
    "a picture to begin with, PNG, JPEG or WebP: [pictures from pictures](models.md#pictures-from-pictures)",
);
pub const MASK: Field =
    Field::file(&["mask", "mask_image"], "of the image: what is bright is made anew").default("all of it");
pub const STRENGTH: Field =
    Field::number(&["strength"], 0.0, 1.0, "of a job with an image: how much of the way from noise is gone")
        .default("as diffusers");
pub const FORMAT: Field =
    Field::word(&["format", "output_format"], &["png", "jpeg", "jpg", "webp"], "of the file; webp without loss")
        .default("`png`");
pub const QUALITY: Field = Field::integer(&["quality"], 1, 100, "of jpeg").default("90");
pub const PREVIEW_EVERY_STEPS: Field = Field::integer(
    &["preview_every_steps"],
    1,
    MOST_STEPS,
    "a small picture at `{prefix}{job_id}~{index}.preview.jpg` after every so many steps, `{index}` from 0 among the job's `inputs`",
)
.default("none");
pub const LORA_SCALE: Field =
    Field::number(&["lora_scale"], -10.0, 10.0, "must be what is [merged](models.md#lora), and is refused otherwise");
pub const LORA: Field =
    Field::new(&["lora"], Kind::Other("a list of `{file, scale}`"), "the [adapters](models.md#lora) to merge")
        .of_the_consumer("is merged when the model is loaded: set model.parameters.lora")
        .default("all that lie in the model's folder `lora/`");

pub const DECLARATION: Declaration = Declaration {
    task: "TextToImage",
    about: "A prompt gives pictures, by a diffusers pipeline. How one was made, with what its job left open, is in the \
            record's `parameters`, and with the prompts in a PNG's text chunk `parameters`, as JSON. Jobs share the \
            model's passes whatever they ask for, and join and leave between steps. [models.md](models.md) says which \
            models load and what each field does.",
    needs: &[PROMPT],
    needed: "the text to make a picture of",
    fields: &[
        NEGATIVE_PROMPT,
        PROMPT_WEIGHTS,
        WIDTH,
        HEIGHT,
        STEPS,
        GUIDANCE_SCALE,
        GUIDANCE_RESCALE,
        SCHEDULER,
        SEED,
        NUM_IMAGES,
        IMAGE,
        MASK,
        STRENGTH,
        FORMAT,
        QUALITY,
        PREVIEW_EVERY_STEPS,
        LORA_SCALE,
        LORA,
    ],
    open: false,
};
