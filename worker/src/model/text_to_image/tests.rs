//! The whole task on a made model: what its pictures are and depend on.

pub(super) mod golden;
mod load;
mod pictures;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::{Input, LoadError, Request};

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
    load(model, millrace_api::Device::Cpu, millrace_api::Precision::Auto, None, 0)
}

pub(super) fn item(input: Value) -> Item<TextToImageRequest> {
    let small = json!({"width": 64, "height": 64, "steps": 2, "seed": 1});
    let (Value::Object(mut fields), Value::Object(input)) = (small, input) else { panic!("an object, please") };
    fields.extend(input);
    let request = TextToImageRequest::decode(&Input::Object(fields), &serde_json::Map::new(), 0).unwrap();
    Item { request: request.into(), cancel: Cancel::default() }
}

/// Size and 8-bit pixels of a picture.
fn decode(output: &Output) -> (u32, u32, Vec<u8>) {
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(&output.body)).read_info().unwrap();
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
        assert_eq!((product.outputs[0].extension, product.outputs[0].content_type), ("png", "image/png"));
        assert_eq!(product.seed, Some(1));
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
    let long = "a cat ".repeat(40);
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
    let message = "has 82 tokens where the model reads at most 77; shorten it";
    for (result, field) in results[1..3].iter().zip(["prompt", "negative_prompt"]) {
        assert_eq!(result, &Err(RunError::Invalid(InvalidInput::field(field, message))));
    }
    assert_eq!(results[3], Err(RunError::Cancelled));
}

fn group() -> Group {
    Group { noise: Noise::new(1), pictures: 1 }
}

#[test]
fn a_run_stops_when_nobody_wants_it() {
    let (_dir, model) = made();
    let engine = load_cpu(&model).unwrap();
    // As large as it gets: were a single step run, the test would be the slowest of all by far.
    let large = item(json!({"prompt": "a cat", "steps": 150, "width": 2048, "height": 2048}));
    let shape = engine.shape(&large.request);
    let pictures = engine.pictures(&large, shape).unwrap();
    large.cancel.cancel();
    assert_eq!(engine.pipeline.generate(shape, &pictures, &mut [group()]).unwrap(), [None]);
}

#[test]
fn a_cancelled_picture_leaves_its_batch_alone() {
    let (_dir, model) = made();
    let engine = load_cpu(&model).unwrap();
    let [one, other] = [item(json!({"prompt": "a cat"})), item(json!({"prompt": "a dog"}))];
    let shape = engine.shape(&one.request);
    let mut pictures = engine.pictures(&one, shape).unwrap();
    pictures.extend(engine.pictures(&other, shape).unwrap());
    one.cancel.cancel();
    let made = engine.pipeline.generate(shape, &pictures, &mut [group(), group()]).unwrap();
    assert_eq!(made[0], None);
    assert_eq!(made[1].as_ref().map(Vec::len), Some(64 * 64 * 3));
}

#[test]
fn other_number_formats_make_much_the_same_picture() {
    let (_dir, model) = made();
    let run = |precision| {
        let mut engine = load(&model, millrace_api::Device::Cpu, precision, None, 0).unwrap();
        engine.run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap().outputs.remove(0)
    };
    let exact = run(millrace_api::Precision::F32);
    let half = run(millrace_api::Precision::F16);
    assert!(furthest(&exact, &half) <= 12, "{} levels apart", furthest(&exact, &half));
}

#[test]
fn the_same_seed_makes_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let content = |name: &str, seed| {
        let model = dir.path().join(name);
        make_model(&model, seed).unwrap();
        std::fs::read(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap()
    };
    let first = content("a", 1);
    assert_eq!(first, content("b", 1));
    assert_ne!(first, content("c", 2));
    let error = make_model(&dir.path().join("a"), 1).unwrap_err();
    assert!(matches!(error, MakeModelError::NotEmpty(_)), "{error}");
}

pub(super) fn edit(model: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = model.join(file);
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}
