//! The tiny models of bench/parity, whose weights come from a seed (bench/parity/weights.py says how).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use tempfile::TempDir;

/// Where bench/parity/generate.py has left what diffusers computed.
pub(super) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/parity/goldens")
}

/// Names and shapes of a model's tensors, by component.
type Tensors = BTreeMap<String, BTreeMap<String, Vec<usize>>>;

/// A model's folder, with the weights of `seed`.
pub(super) fn published(name: &str, seed: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let from = goldens().join(name);
    copy(&from, &model);
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        if tokenizer == "tokenizer" || from.join("text_encoder_2").is_dir() {
            copy(&goldens().join(tokenizer), &model.join(tokenizer));
        }
    }
    let tensors: Tensors = serde_json::from_slice(&std::fs::read(from.join("tensors.json")).unwrap()).unwrap();
    for (component, tensors) in tensors {
        let made = tensors.into_iter().map(|(tensor, shape)| {
            let values = values(&format!("{seed}/{component}/{tensor}"), &tensor, &shape);
            let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (tensor, values)
        });
        let stem = if component.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        let file = model.join(&component).join(format!("{stem}.safetensors"));
        candle_core::safetensors::save(&made.collect(), file).unwrap();
    }
    (dir, model)
}

/// What diffusers computed with the parts of a model.
pub(super) fn components(name: &str, seed: u64) -> std::collections::HashMap<String, Tensor> {
    let file = goldens().join(name).join(format!("components-{seed}.safetensors"));
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.path().extension().is_some_and(|extension| extension == "json" || extension == "txt") {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn values(key: &str, name: &str, shape: &[usize]) -> Vec<f32> {
    let fnv1a = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let key = key.bytes().fold(0xCBF2_9CE4_8422_2325, fnv1a);
    let splitmix = |index: u64| {
        let z = key.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(index + 1));
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    };
    let norm = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
    let scale = scale(name, shape);
    let value = |index| (2.0 * (splitmix(index) >> 53) as f32 - 2047.0) / 2048.0 * scale + norm;
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
    let power = (0..).find(|power| 4_usize.pow(*power) * 3 >= inputs).unwrap();
    2_f32.powi(if name.contains("attn2.to_") { 2 } else { 0 } - power as i32)
}

/// The largest difference, relative to the largest value.
pub(super) fn apart(found: &Tensor, known: &Tensor) -> f32 {
    assert_eq!(found.dims(), known.dims());
    let flat = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, known) = (flat(found), flat(known));
    let largest = known.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    found.iter().zip(&known).fold(0_f32, |apart, (a, b)| apart.max((a - b).abs())) / largest
}
