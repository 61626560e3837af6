//! LoRA adapters: merged ones compute what added weights compute, and what does not fit is told.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::{decode, item, load_cpu, made};
use crate::model::testing::on_cpu;
use crate::model::text_to_image::{TextToImage, TextToImageRequest, load};
use crate::model::{Engine, LoadError, Loading, Request, RunError};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const ENCODER: &str = "text_encoder_2/model.safetensors";
const TO_Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const CONV: &str = "down_blocks.0.resnets.0.conv1";
const K_PROJ: &str = "text_model.encoder.layers.0.self_attn.k_proj";
const RANK: usize = 2;

/// A file's keys and tensors.
type Content<'a> = Vec<(&'a str, Tensor)>;

fn values(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let start = name.len() as f32;
    let values: Vec<f32> = (0..count).map(|i| (start + i as f32 * 0.7).sin() * 0.3).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Down and up of the three layers.
fn adapters() -> [(&'static str, Tensor, Tensor); 3] {
    let pair = |layer, down: &[usize], up: &[usize]| (layer, values("down", down), values("up", up));
    [
        pair(TO_Q, &[RANK, 64], &[64, RANK]),
        pair(CONV, &[RANK, 32, 3, 3], &[32, RANK, 1, 1]),
        pair(K_PROJ, &[RANK, 32], &[32, RANK]),
    ]
}

/// Writes the adapters in diffusers' words, or in kohya's.
fn write(file: &Path, kohya: bool, alpha: Option<f32>) {
    let mut tensors = HashMap::new();
    for (layer, down, up) in adapters() {
        let encoder = layer == K_PROJ;
        let name = match (kohya, encoder) {
            (true, true) => format!("lora_te2_{}", layer.replace('.', "_")),
            (true, false) => format!("lora_unet_{}", layer.replace('.', "_")),
            (false, true) => format!("text_encoder_2.{layer}"),
            (false, false) => format!("unet.{layer}"),
        };
        let (ends, alpha) = if kohya { (["lora_down", "lora_up"], alpha) } else { (["lora_A", "lora_B"], None) };
        tensors.insert(format!("{name}.{}.weight", ends[0]), down);
        tensors.insert(format!("{name}.{}.weight", ends[1]), up);
        if let Some(alpha) = alpha {
            tensors.insert(format!("{name}.alpha"), Tensor::new(alpha, &Device::Cpu).unwrap());
        }
    }
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    candle_core::safetensors::save(&tensors, file).unwrap();
}

/// Writes again what `write` wrote, with a header that says more.
fn note(file: &Path, note: &Value) {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let notes = HashMap::from([("lora_adapter_metadata".to_owned(), note.to_string())]);
    safetensors::serialize_to_file(&tensors, Some(notes), file).unwrap();
}

/// Adds the adapters to the model's own weights, `factor` times.
fn add(model: &Path, factor: f64) {
    for (file, layers) in [(UNET, vec![TO_Q, CONV]), (ENCODER, vec![K_PROJ])] {
        let file = model.join(file);
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        for (layer, down, up) in adapters().into_iter().filter(|(layer, ..)| layers.contains(layer)) {
            let weight = tensors.get_mut(&format!("{layer}.weight")).unwrap();
            let delta = up.flatten_from(1).unwrap().matmul(&down.flatten_from(1).unwrap()).unwrap();
            *weight = (&*weight + (delta.reshape(weight.dims()).unwrap() * factor).unwrap()).unwrap();
        }
        candle_core::safetensors::save(&tensors, file).unwrap();
    }
}

fn load_with(model: &Path, parameters: Value) -> Result<TextToImage, LoadError> {
    let Value::Object(parameters): Value = parameters else { panic!("an object, please") };
    load(&Loading { parameters, ..on_cpu(model) })
}

fn picture(engine: &mut TextToImage) -> Vec<u8> {
    decode(&engine.run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap().outputs[0]).2
}

/// Sums of floats depend on their order.
fn alike(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.abs_diff(*b) <= 1)
}

#[test]
fn merged_adapters_are_added_weights() {
    let (_dir, model) = made();
    let plain = picture(&mut load_cpu(&model).unwrap());
    add(&model, 0.5);
    let added = picture(&mut load_cpu(&model).unwrap());
    assert!(!alike(&plain, &added));

    let (_dir, model) = made();
    // alpha 1 of rank 2 is half of it
    write(&model.join("lora/a.safetensors"), true, Some(1.0));
    assert!(alike(&picture(&mut load_cpu(&model).unwrap()), &added), "all of lora/ is merged as it is");
    write(&model.join("lora/b.safetensors"), false, None);
    let half = json!({"lora": [{"file": "b.safetensors", "scale": 0.5}]});
    assert!(alike(&picture(&mut load_with(&model, half).unwrap()), &added));
    let twice =
        json!({"lora": [{"file": "lora/a.safetensors", "scale": 2}, {"file": "lora/b.safetensors", "scale": -0.5}]});
    assert!(alike(&picture(&mut load_with(&model, twice).unwrap()), &added));
    assert_eq!(picture(&mut load_with(&model, json!({"lora": []})).unwrap()), plain, "an empty list is none");
}

#[test]
fn a_job_cannot_have_another_scale_than_what_is_merged() {
    let (_dir, model) = made();
    let scaled = || item(json!({"prompt": "a cat", "lora_scale": 0.8, "steps": 1}));
    let refused = |result: Result<_, RunError>| match result {
        Err(RunError::Invalid(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let error = refused(load_cpu(&model).unwrap().run(&[scaled()]).remove(0));
    assert!(error.starts_with("lora_scale: is given, but no LoRA is merged"), "{error}");
    write(&model.join("lora/a.safetensors"), true, None);
    let error = refused(load_cpu(&model).unwrap().run(&[scaled()]).remove(0));
    assert!(error.starts_with("lora_scale: must be 1: ") && error.contains("model.parameters.lora"), "{error}");
    let merged = json!({"lora": [{"file": "a.safetensors", "scale": 0.8}]});
    assert!(load_with(&model, merged).unwrap().run(&[scaled()]).remove(0).is_ok());
}

#[test]
fn an_adapter_of_another_model_is_told_by_its_first_key() {
    let (_dir, model) = made();
    let tensor = |shape: &[usize]| values("other", shape);
    let layer = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    let down = format!("{layer}.lora_down.weight");
    let up = format!("{layer}.lora_up.weight");
    let cases: [(Content, &str, &str); 6] = [
        (
            vec![("lora_unet_nowhere.lora_down.weight", tensor(&[2, 4]))],
            "ModelUnsupported",
            "lora_unet_nowhere.lora_down.weight",
        ),
        (vec![("unet.conv_in.hada_w1_a", tensor(&[2, 4]))], "ModelUnsupported", "unet.conv_in.hada_w1_a"),
        (vec![(&down, tensor(&[2, 64]))], "ModelCorrupt", "lacks the other half"),
        (vec![(&down, tensor(&[2, 60])), (&up, tensor(&[64, 2]))], "ModelUnsupported", "[2, 60]"),
        (vec![(&down, tensor(&[2, 64])), (&up, tensor(&[64, 3]))], "ModelUnsupported", "[64, 3]"),
        (vec![(&down, tensor(&[0, 64])), (&up, tensor(&[64, 0]))], "ModelUnsupported", "do not fit"),
    ];
    for (tensors, reason, words) in cases {
        let file = model.join("lora/a.safetensors");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let tensors: HashMap<String, Tensor> = tensors.into_iter().map(|(key, x)| (key.to_owned(), x)).collect();
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let error = load_cpu(&model).map(|_| ()).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(words) && error.message.contains("lora/a.safetensors"), "{error}");
    }
    let missing = load_with(&model, json!({"lora": [{"file": "b.safetensors"}]})).map(|_| ()).unwrap_err();
    assert_eq!(missing.reason, "ModelFileMissing");
}

#[test]
fn wrong_parameters_are_told() {
    let (_dir, model) = made();
    for (lora, words) in [
        (json!("a.safetensors"), "model.parameters.lora: must be a list"),
        (json!(["a.safetensors"]), "model.parameters.lora[0]: must be {file, scale}"),
        (json!([{"file": "../a.safetensors"}]), "model.parameters.lora[0]: file must be"),
        (json!([{"file": "a.bin"}]), "model.parameters.lora[0]: file must be"),
        (json!([{"file": "a.safetensors", "scale": "1"}]), "model.parameters.lora[0]: scale must be"),
        (json!([{"file": "a.safetensors", "weight": 1}]), "model.parameters.lora[0]: unknown field weight"),
    ] {
        let parameters = Map::from_iter([("lora".to_owned(), lora)]);
        let error = TextToImageRequest::check_defaults(&parameters).unwrap_err();
        assert!(error.to_string().starts_with(words), "{error}");
        let error = load_with(&model, Value::Object(parameters)).map(|_| ()).unwrap_err();
        assert_eq!(error.reason, "InvalidParameters");
    }
}

#[test]
fn an_adapters_own_settings_are_its_scale() {
    let (_dir, model) = made();
    add(&model, 0.5);
    let added = picture(&mut load_cpu(&model).unwrap());
    // half of what it is alone: alpha 1 of rank 2, or alpha 1 / √2 by the root of the rank
    let half = [
        json!({"unet.lora_alpha": 1, "unet.r": 2, "text_encoder_2.lora_alpha": 1}),
        json!({"unet.lora_alpha": 0.5_f64.sqrt(), "unet.use_rslora": true, "text_encoder_2.lora_alpha": 1}),
        json!({
            "unet.lora_alpha": 7, "unet.alpha_pattern": {"to_q": 1, "resnets.0.conv1": 1.0},
            "text_encoder_2.lora_alpha": 7, "text_encoder_2.alpha_pattern": {K_PROJ: 1},
        }),
    ];
    for settings in half {
        let (_dir, model) = made();
        let file = model.join("lora/a.safetensors");
        write(&file, false, None);
        note(&file, &settings);
        assert!(alike(&picture(&mut load_cpu(&model).unwrap()), &added), "{settings}");
    }
    let (_dir, model) = made();
    let folder = model.join("lora/style");
    write(&folder.join("adapter_model.safetensors"), false, None);
    std::fs::write(folder.join("adapter_config.json"), json!({"r": 2, "lora_alpha": 1}).to_string()).unwrap();
    let chosen = json!({"lora": [{"file": "style/adapter_model.safetensors"}]});
    assert!(alike(&picture(&mut load_with(&model, chosen.clone()).unwrap()), &added), "PEFT's own pair of files");
    std::fs::write(folder.join("adapter_config.json"), r#"{"lora_alpha": 1e999}"#).unwrap();
    let error = load_with(&model, chosen).map(|_| ()).unwrap_err();
    assert!(error.reason == "ModelCorrupt" && error.message.contains("adapter_config.json"), "{error}");
}

#[test]
fn settings_that_are_not_built_here_are_told() {
    let (_dir, model) = made();
    let file = model.join("lora/a.safetensors");
    for (settings, reason, words) in [
        (json!({"unet.use_dora": true}), "ModelUnsupported", "use_dora"),
        (json!({"unet.alpha_pattern": {"to_(q|k)": 1}}), "ModelUnsupported", "to_(q|k)"),
        (json!({"unet.lora_alpha": "1"}), "ModelCorrupt", "lora_adapter_metadata"),
        (json!([1]), "ModelCorrupt", "lora_adapter_metadata"),
    ] {
        write(&file, false, None);
        note(&file, &settings);
        let error = load_cpu(&model).map(|_| ()).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.message.contains(words) && error.message.contains("lora/a.safetensors"), "{error}");
    }
}

#[test]
fn one_adapter_in_two_formats_is_not_merged_twice() {
    let (_dir, model) = made();
    write(&model.join("lora/a.safetensors"), true, None);
    write(&model.join("lora/a.fp16.safetensors"), true, None);
    let error = load_cpu(&model).map(|_| ()).unwrap_err();
    assert_eq!(error.reason, "ModelUnsupported");
    assert!(error.message.contains("a.fp16.safetensors") && error.message.contains("model.parameters.lora"), "{error}");
    assert!(load_with(&model, json!({"lora": [{"file": "a.safetensors"}]})).is_ok());
}
