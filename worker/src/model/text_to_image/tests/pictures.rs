//! Whole pictures are those of diffusers, with the same seed as there: the goldens of bench/parity/pictures.py.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{decode, item, load_cpu};
use crate::model::altered::edit;
use crate::model::golden;
use crate::model::text_to_image::TextToImage;
use crate::model::{Engine, LoadError, Output};

/// Furthest that a channel of a pixel may be from diffusers', of 255.
const LEVELS: u8 = 2;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    model: String,
    weights: u64,
    input: Map<String, Value>,
    scheduler_config: Map<String, Value>,
    files: Vec<String>,
}

impl Case {
    /// The pictures that the worker makes of this job.
    fn run(&self, load: impl FnOnce(&Path) -> Result<TextToImage, LoadError>) -> Vec<Output> {
        let (_dir, model) = golden::model(&self.model, self.weights);
        edit(&model, "scheduler/scheduler_config.json", |config| {
            config.as_object_mut().unwrap().extend(self.scheduler_config.clone());
        });
        if let Some(class) = self.scheduler_config.get("_class_name") {
            edit(&model, "model_index.json", |index| index["scheduler"] = json!(["diffusers", class]));
        }
        let mut engine = load(&model).unwrap();
        let mut input = self.input.clone();
        for field in ["image", "mask"] {
            if let Some(Value::String(file)) = input.get_mut(field) {
                *file = STANDARD.encode(golden::bytes(&format!("pictures/{file}")));
            }
        }
        engine.run(&[item(Value::Object(input))]).remove(0).unwrap().outputs
    }
}

fn apart(found: &[u8], known: &[u8]) -> u8 {
    found.iter().zip(known).map(|(found, known)| found.abs_diff(*known)).max().unwrap()
}

/// Makes the pictures of all cases, none of which may be further from diffusers' than so many levels.
fn compare(load: impl Fn(&Path) -> Result<TextToImage, LoadError>, levels: u8) {
    let cases: Vec<Case> = serde_json::from_str(&golden::text("pictures.json")).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for case in &cases {
        let made = case.run(&load);
        assert_eq!(made.len(), case.files.len(), "{}", case.name);
        for (output, file) in made.iter().zip(&case.files) {
            let known = Output { body: golden::bytes(&format!("pictures/{file}")).into(), ..output.clone() };
            let (found, known) = (decode(output), decode(&known));
            assert_eq!((found.0, found.1), (known.0, known.1), "{file}");
            let apart = apart(&found.2, &known.2);
            if apart > levels {
                wrong.push(format!("{file}: {apart} levels apart"));
            }
            compared += 1;
        }
    }
    assert!(compared >= 69, "only {compared} pictures");
    assert!(wrong.is_empty(), "{} of {compared} pictures:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn pictures_are_those_of_diffusers() {
    compare(load_cpu, LEVELS);
}

/// Sums in another order, by kernels of its own.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_makes_nearly_the_same_pictures() {
    if std::env::var("MILLRACE_TEST_GPU").as_deref() != Ok("1") {
        println!("skipped: MILLRACE_TEST_GPU=1 says that there is a GPU");
        return;
    }
    let (device, precision) = (millrace_api::Device::Cuda, millrace_api::Precision::F32);
    let on_gpu =
        |model: &Path| crate::model::Loading { device, precision, gpus: 1, ..crate::model::testing::on_cpu(model) };
    compare(|model| crate::model::text_to_image::load(&on_gpu(model)), LEVELS * 2);
}

#[derive(Debug, Deserialize)]
struct Adapter {
    name: String,
    model: String,
    input: Map<String, Value>,
}

#[test]
fn adapters_change_pictures_as_in_diffusers() {
    let cases: Vec<Adapter> = serde_json::from_str(&golden::text("lora.json")).unwrap();
    assert_eq!(cases.len(), 8);
    for Adapter { name, model, input } in cases {
        let (_dir, folder) = golden::model(&model, 1);
        std::fs::create_dir(folder.join("lora")).unwrap();
        std::fs::write(folder.join("lora/a.safetensors"), golden::bytes(&format!("lora/{name}.safetensors"))).unwrap();
        let mut engine = load_cpu(&folder).unwrap();
        let output = engine.run(&[item(Value::Object(input))]).remove(0).unwrap().outputs.remove(0);
        let known = Output { body: golden::bytes(&format!("lora/{name}.png")).into(), ..output.clone() };
        let apart = apart(&decode(&output).2, &decode(&known).2);
        assert!(apart <= LEVELS, "{name}: {apart} levels apart");
    }
}
