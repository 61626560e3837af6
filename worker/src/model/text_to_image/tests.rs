//! The whole task on a made model: what its pictures are and depend on.

mod batching;
mod components;
mod damaged;
mod load;
mod lora;
mod pictures;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::altered::{self, edit};
use crate::model::testing::on_cpu;
use crate::model::{About, Hook, Input, InvalidInput, LoadError, Loading, Output, Progress, Request};

/// A made model to do anything with: a copy of one that all tests share, because making it takes a second.
pub(super) fn made() -> (TempDir, PathBuf) {
    static ONE: OnceLock<HashMap<PathBuf, Vec<u8>>> = OnceLock::new();
    let files = ONE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        make_model(dir.path(), 7).unwrap();
        let folders = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = folders.flat_map(|path| match std::fs::read_dir(&path) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![path],
        });
        files.map(|file| (file.strip_prefix(&dir).unwrap().to_owned(), std::fs::read(&file).unwrap())).collect()
    });
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    for (file, content) in files {
        let file = model.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    (dir, model)
}

pub(super) fn load_cpu(model: &Path) -> Result<TextToImage, LoadError> {
    load(&on_cpu(model))
}

pub(super) fn item(input: Value) -> Item<TextToImageRequest> {
    let small = json!({"width": 64, "height": 64, "steps": 2, "seed": 1});
    let (Value::Object(mut fields), Value::Object(input)) = (small, input) else { panic!("an object, please") };
    fields.extend(input);
    let request =
        TextToImageRequest::decode(&Input::Object(fields), &serde_json::Map::new(), &About::default()).unwrap();
    Item::new(request)
}

/// Size and 8-bit pixels of a picture.
fn decode(output: &Output) -> (u32, u32, Vec<u8>) {
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(&output.body[..])).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    (frame.width, frame.height, pixels)
}

fn furthest(one: &Output, other: &Output) -> u8 {
    let (one, other) = (decode(one).2, decode(other).2);
    assert_eq!(one.len(), other.len());
    one.iter().zip(&other).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn a_made_model_makes_pictures_of_the_size_asked_for() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.warm_up().unwrap();
    let own_size = json!({"prompt": "a cat", "width": null, "height": null, "steps": 1});
    for (input, size) in [
        (json!({"prompt": "a cat", "width": 72, "height": 104}), (72, 104)),
        (own_size, (128, 128)),
        (json!({"prompt": "a cat", "guidance_scale": 0}), (64, 64)),
    ] {
        let product = engine.run(&[item(input)]).remove(0).unwrap();
        let (width, height, pixels) = decode(&product.outputs[0]);
        assert_eq!((width, height), size);
        assert!(pixels.iter().any(|value| *value != pixels[0]), "a flat picture");
        assert_eq!((&*product.outputs[0].extension, &*product.outputs[0].content_type), ("png", "image/png"));
        assert_eq!(product.seed, Some(1));
        let (told, seed) = (&product.parameters, product.seed.unwrap());
        assert_eq!((&told["width"], &told["height"], &told["seed"]), (&size.0.into(), &size.1.into(), &seed.into()));
        assert_eq!(told["scheduler"], "EulerDiscreteScheduler");
    }
}

#[test]
fn what_a_picture_depends_on() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let mut run = |input: Value| engine.run(&[item(input)]).remove(0).unwrap().outputs.remove(0);
    let base = run(json!({"prompt": "a cat"}));
    assert_eq!(base.body, run(json!({"prompt": "a cat"})).body, "the same request, the same bytes");
    for other in [
        json!({"prompt": "a dog"}),
        json!({"prompt": "a cat", "seed": 2}),
        json!({"prompt": "a cat", "negative_prompt": "a dog"}),
        json!({"prompt": "a cat", "guidance_scale": 9}),
        json!({"prompt": "a cat", "steps": 3}),
    ] {
        assert!(furthest(&base, &run(other.clone())) > 0, "{other} changes nothing");
    }
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let (_dir, model) = made();
    for scheduler in ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"] {
        edit(&model, "scheduler/scheduler_config.json", |config| config["_class_name"] = json!(scheduler));
        let mut engine = load_cpu(&model).unwrap();
        let inputs = [
            json!({"prompt": "a cat", "seed": 1, "guidance_scale": 3}),
            json!({"prompt": "a dog on a horse", "seed": 2, "num_images": 2}),
            json!({"prompt": "a bird", "seed": 3, "negative_prompt": "rain"}),
        ];
        let batch: Vec<_> = inputs.iter().cloned().map(item).collect();
        let together: Vec<_> = engine.run(&batch).into_iter().map(|result| result.unwrap().outputs).collect();
        assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        for (input, outputs) in inputs.into_iter().zip(&together) {
            let alone = engine.run(&[item(input)]).remove(0).unwrap().outputs;
            for (one, other) in alone.iter().zip(outputs) {
                assert!(furthest(one, other) <= 1, "{scheduler}: {} levels apart", furthest(one, other));
            }
        }
        assert!(furthest(&together[1][0], &together[1][1]) > 0, "two pictures of one request are alike");
    }
}

#[test]
fn one_bad_prompt_does_not_spoil_a_batch() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let long = "a cat ".repeat(400);
    let cancelled = item(json!({"prompt": "a cat"}));
    cancelled.cancel.cancel();
    let batch = [
        item(json!({"prompt": "a cat"})),
        item(json!({"prompt": long})),
        item(json!({"prompt": "a cat", "negative_prompt": long})),
        cancelled,
    ];
    let results = engine.run(&batch);
    assert!(results[0].is_ok());
    let message = "has 800 tokens; at most 600 are read, in chunks";
    for (result, field) in results[1..3].iter().zip(["prompt", "negative_prompt"]) {
        assert_eq!(result, &Err(RunError::Invalid(InvalidInput::field(field, message))));
    }
    assert_eq!(results[3], Err(RunError::Cancelled));
}

#[test]
fn a_long_prompt_is_read_to_its_end() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let mut run = |input: Value| engine.run(&[item(input)]).remove(0).unwrap().outputs.remove(0);
    // 75 tokens fill the first chunk
    let long = |end: &str| format!("{}{end}", "a cat ".repeat(37));
    let base = run(json!({"prompt": long("a dog on a horse")}));
    assert!(furthest(&base, &run(json!({"prompt": long("a dog on a tree")}))) > 0);
    assert!(furthest(&base, &run(json!({"prompt": long("a dog on a horse"), "negative_prompt": ""}))) > 0);
}

#[test]
fn brackets_are_weights_only_for_those_who_ask() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let mut run = |input: Value| engine.run(&[item(input)]).remove(0).unwrap().outputs.remove(0);
    let plain = run(json!({"prompt": "a red cat"}));
    let weighted = |prompt: &str| json!({"prompt": prompt, "prompt_weights": true});
    assert_eq!(decode(&plain), decode(&run(weighted("a red cat"))));
    let louder = run(weighted("a (red:1.6) cat"));
    assert!(furthest(&plain, &louder) > 0);
    assert!(furthest(&louder, &run(weighted("a (red:0.4) cat"))) > 0);
    assert!(furthest(&louder, &run(json!({"prompt": "a (red:1.6) cat"}))) > 0);
}

#[test]
fn a_run_stops_when_nobody_wants_it() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    // As large as it gets: were a single step run, the test would be the slowest of all by far.
    let large = item(json!({"prompt": "a cat", "steps": 150, "width": 2048, "height": 2048}));
    let small = item(json!({"prompt": "a cat", "steps": 2}));
    let tickets = [engine.begin(large.clone()).unwrap(), engine.begin(small).unwrap()];
    large.cancel.cancel();
    let stepped = engine.step(&tickets);
    assert!(matches!(stepped[0], Stepped::Ended(Err(RunError::Cancelled))), "{stepped:?}");
    assert!(matches!(stepped[1], Stepped::Running(Progress { step: 1, steps: 2 })), "{stepped:?}");
    assert_eq!(engine.jobs.len(), 1);
}

#[test]
fn files_are_of_the_kind_that_was_asked_for() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let cases = [("png", "png", "image/png"), ("jpeg", "jpg", "image/jpeg"), ("webp", "webp", "image/webp")];
    let planes = |file: &[u8]| picture::Picture::new(file.to_vec()).unwrap().planes(64, 64).unwrap();
    let exact = planes(&engine.run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap().outputs[0].body);
    for (format, extension, content_type) in cases {
        let output =
            engine.run(&[item(json!({"prompt": "a cat", "format": format}))]).remove(0).unwrap().outputs.remove(0);
        assert_eq!((&*output.extension, &*output.content_type), (extension, content_type));
        assert_eq!(picture::Picture::new(output.body.to_vec()).unwrap().size(), (64, 64));
        if format != "jpeg" {
            assert!(planes(&output.body) == exact, "{format} is without loss");
        }
    }
}

#[test]
fn a_png_says_how_it_was_made() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let input = json!({
        "prompt": "a (red:1.2) cat", "negative_prompt": "一只狗", "prompt_weights": true, "steps": 1, "num_images": 2,
        "scheduler": "dpm++_2m_sde_karras",
    });
    let product = engine.run(&[item(input)]).remove(0).unwrap();
    let reader = ::png::Decoder::new(std::io::Cursor::new(&product.outputs[1].body[..])).read_info().unwrap();
    let text = reader.info().utf8_text[0].get_text().unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    let own = json!({
        "prompt": "a (red:1.2) cat", "negative_prompt": "一只狗", "prompt_weights": true, "width": 64, "height": 64,
        "steps": 1, "seed": 1, "num_images": 2, "index": 1, "guidance_scale": 5.0,
        "scheduler": "DPMSolverMultistepScheduler, SDE, Karras sigmas",
    });
    assert_eq!(told, own);
    let record = Value::Object(product.parameters);
    assert_eq!((record.get("prompt"), &record["scheduler"]), (None, &own["scheduler"]), "the input has the texts");
}

/// What a hook was told.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<(Vec<Progress>, Vec<Output>)>);

impl Hook for Told {
    fn stepped(&self, at: Progress) {
        self.0.lock().unwrap().0.push(at);
    }

    fn preview(&self, preview: Output) {
        self.0.lock().unwrap().1.push(preview);
    }
}

#[test]
fn a_hook_is_told_of_every_step_and_shown_what_was_asked_for() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let told = Arc::new(Told::default());
    let input = json!({"prompt": "a cat", "steps": 5, "width": 272, "height": 64, "preview_every_steps": 2});
    let item = Item { hook: Some(told.clone()), ..item(input) };
    engine.run(&[item]).remove(0).unwrap();
    let (steps, previews) = &*told.0.lock().unwrap();
    let told: Vec<_> = steps.iter().map(|at| (at.step, at.steps)).collect();
    assert_eq!(told, [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
    assert_eq!(previews.len(), 2, "after steps 2 and 4");
    for preview in previews {
        assert_eq!(preview.content_type, "image/jpeg");
        assert_eq!(picture::Picture::new(preview.body.to_vec()).unwrap().size(), (136, 32), "half of what it will be");
    }
}

#[test]
fn other_number_formats_make_much_the_same_picture() {
    let (_dir, model) = made();
    let run = |precision| {
        let mut engine = load(&Loading { precision, ..on_cpu(&model) }).unwrap();
        engine.run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap().outputs.remove(0)
    };
    let exact = run(millrace_api::Precision::F32);
    let half = run(millrace_api::Precision::F16);
    assert!(furthest(&exact, &half) <= 12, "{} levels apart", furthest(&exact, &half));
}

#[test]
fn the_same_seed_makes_the_same_model() {
    altered::seeds_count("unet/diffusion_pytorch_model.safetensors", make_model);
}
