//! The goldens of bench/parity: what diffusers, sentence-transformers and transformers computed, and the tiny models that they did so with.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/parity/goldens")
}

/// A golden that is text.
pub(crate) fn text(file: &str) -> String {
    let path = folder().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tensors of a golden.
pub(crate) fn tensors(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join(file), &Device::Cpu).unwrap()
}

/// The bytes of a golden.
pub(crate) fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(folder().join(file)).unwrap()
}

/// A tiny model in a folder of its own, with the weights of a seed: made as bench/parity/weights.py says. The model is in
/// the folder `model` of the one that is given; `edit` may change its files before it is loaded.
pub(crate) fn model(name: &str, seed: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let all = folder();
    copy(&all.join(name), &model);
    let index: Value = serde_json::from_slice(&std::fs::read(model.join("model_index.json")).unwrap()).unwrap();
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        if !index[tokenizer].is_null() {
            copy(&all.join(tokenizer), &model.join(tokenizer));
        }
    }
    fill(name, seed, &model);
    (dir, model)
}

/// A tiny model for embeddings, made in the same way.
pub(crate) fn embedding_model(name: &str, seed: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let name = format!("embeddings/{name}");
    copy(&folder().join(&name), &model);
    fill(&name, seed, &model);
    (dir, model)
}

/// A tiny model that writes, made in the same way; all of them have one tokenizer.
pub(crate) fn generation_model(name: &str, seed: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let name = format!("generation/{name}");
    copy(&folder().join(&name), &model);
    copy(&generation_tokenizer(), &model);
    fill(&name, seed, &model);
    (dir, model)
}

/// One of them as a GGUF file, with the tokenizer beside it.
pub(crate) fn generation_gguf(name: &str) -> TempDir {
    let model = tempfile::tempdir().unwrap();
    copy(&generation_tokenizer(), model.path());
    std::fs::write(model.path().join(name), bytes(&format!("generation/{name}"))).unwrap();
    model
}

/// The folder of their tokenizer.
pub(crate) fn generation_tokenizer() -> PathBuf {
    folder().join("generation/tokenizer")
}

/// A tiny model that hears, made in the same way.
pub(crate) fn speech_model(seed: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let name = "speech/whisper";
    copy(&folder().join(name), &model);
    fill(name, seed, &model);
    (dir, model)
}

/// Writes the weights of a model.
fn fill(name: &str, seed: u64, model: &Path) {
    let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(&text(&format!("{name}/tensors.json"))).unwrap();
    for (component, tensors) in shapes {
        let diffuses = ["unet", "vae"].contains(&component.as_str());
        let stem = if diffuses { "diffusion_pytorch_model" } else { "model" };
        let weights: HashMap<String, Tensor> = tensors
            .into_iter()
            .map(|(tensor, shape)| {
                let values = weights(&format!("{seed}/{component}/{tensor}"), &tensor, &shape);
                (tensor, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            })
            .collect();
        candle_core::safetensors::save(&weights, model.join(&component).join(format!("{stem}.safetensors"))).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.path().extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Values as bench/parity/weights.py makes them of a key.
pub(crate) fn weights(key: &str, name: &str, shape: &[usize]) -> Vec<f32> {
    let fnv = |value: u64, byte: &u8| (value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    let key = key.as_bytes().iter().fold(0xCBF2_9CE4_8422_2325, fnv);
    let scale = scale(name, shape);
    let shift = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
    let value = |index: u64| {
        let mut z = key.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(index + 1));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (2.0 * (z >> 53) as f32 - 2047.0) / 2048.0 * scale + shift
    };
    (0..shape.iter().product::<usize>() as u64).map(value).collect()
}

fn scale(name: &str, shape: &[usize]) -> f32 {
    if shape.len() == 1 {
        return 0.125;
    }
    if name.contains("embedding.weight") {
        return 0.5;
    }
    let inputs: usize = shape[1..].iter().product();
    let mut power = if name.contains("attn2.to_") || name.contains("encoder_attn.") { 2 } else { 0 };
    let mut covered = 3;
    while covered < inputs {
        covered *= 4;
        power -= 1;
    }
    2.0_f32.powi(power)
}

#[test]
fn weights_are_those_of_the_goldens() {
    // the inputs of the goldens' components are made the same way, and lie beside their outputs
    let known = &tensors("sdxl/components-1.safetensors")["unet.odd_latents"];
    let found = weights("0/given/odd", "odd", known.dims());
    let unscaled: Vec<f32> = found.iter().map(|value| value / scale("odd", known.dims())).collect();
    assert_eq!(unscaled, known.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}
