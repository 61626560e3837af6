//! Whole pictures are those of diffusers, with the same seed as there: the goldens of bench/parity/pictures.py.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{decode, edit, golden, item, load_cpu};
use crate::model::{Engine, Output};

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
    fn run(&self) -> Vec<Output> {
        let (_dir, model) = golden::model(&self.model, self.weights);
        edit(&model, "scheduler/scheduler_config.json", |config| {
            config.as_object_mut().unwrap().extend(self.scheduler_config.clone());
        });
        if let Some(class) = self.scheduler_config.get("_class_name") {
            edit(&model, "model_index.json", |index| index["scheduler"] = json!(["diffusers", class]));
        }
        let mut engine = load_cpu(&model).unwrap();
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

#[test]
fn pictures_are_those_of_diffusers() {
    let cases: Vec<Case> = serde_json::from_str(&golden::text("pictures.json")).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for case in &cases {
        let made = case.run();
        assert_eq!(made.len(), case.files.len(), "{}", case.name);
        for (output, file) in made.iter().zip(&case.files) {
            let known = Output { body: golden::bytes(&format!("pictures/{file}")).into(), ..output.clone() };
            let (found, known) = (decode(output), decode(&known));
            assert_eq!((found.0, found.1), (known.0, known.1), "{file}");
            let apart = apart(&found.2, &known.2);
            if apart > LEVELS {
                wrong.push(format!("{file}: {apart} levels apart"));
            }
            compared += 1;
        }
    }
    assert!(compared >= 69, "only {compared} pictures");
    assert!(wrong.is_empty(), "{} of {compared} pictures:\n{}", wrong.len(), wrong.join("\n"));
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
