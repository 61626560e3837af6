//! Whatever is done to a folder's files, loading it gives a model or an error: no panic, no memory without end.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::{load_cpu, made};
use crate::model::Engine;

const CONFIGS: [&str; 8] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json",
];
const OTHERS: [&str; 5] = [
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_2/tokenizer.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors.index.json",
];

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

/// Values that a setting should not have, and some that it may.
fn odd() -> impl Strategy<Value = Value> {
    let numbers = [0_i64, 1, -1, 2, 3, 7, 1 << 16, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
    prop_oneof![
        proptest::sample::select(numbers.to_vec()).prop_map(Value::from),
        proptest::sample::select(vec![0.5, -0.5, 1e-300, 1e300, 0.001]).prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[a-zA-Z_ ]{0,12}".prop_map(Value::from),
        proptest::collection::vec(0_i64..100, 0..5).prop_map(Value::from),
        Just(json!({"a": [1, {"b": null}]})),
    ]
}

/// Loads, and infers once where that worked; what comes of it is of no interest, only that something does.
fn load_and_infer(model: &std::path::Path) {
    if let Ok(mut engine) = load_cpu(model) {
        drop(engine.warm_up());
    }
}

#[test]
fn any_setting_may_be_anything() {
    let (_dir, model) = made();
    let model = RefCell::new(model);
    let change = (proptest::sample::select(CONFIGS.to_vec()), any::<prop::sample::Index>(), odd());
    let check = |(file, which, value): (&str, prop::sample::Index, Value)| {
        let path = model.borrow().join(file);
        let content = std::fs::read(&path).unwrap();
        let mut config: serde_json::Map<String, Value> = serde_json::from_slice(&content).unwrap();
        let keys: Vec<String> = config.keys().cloned().collect();
        config.insert(which.get(&keys).clone(), value);
        std::fs::write(&path, Value::Object(config).to_string()).unwrap();
        load_and_infer(&model.borrow());
        std::fs::write(&path, content).unwrap();
        Ok(())
    };
    runner(96).run(&change, check).unwrap();
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> = CONFIGS.into_iter().chain(OTHERS).collect();
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\":,0-9a-z ]{0,200}".prop_map(String::into_bytes),
        // the length of a header, and what may be one
        (any::<u64>(), "[{]\"[a-z]{1,3}\":[{]\"dtype\":\"F32\",\"shape\":\\[[0-9]{1,19},[0-9]{1,19}\\],\"data_offsets\":\\[0,[0-9]{1,19}\\][}][}]")
            .prop_map(|(length, header)| {
                let length = if length % 2 == 0 { header.len() as u64 } else { length >> (length % 64) };
                [&length.to_le_bytes()[..], header.as_bytes()].concat()
            }),
    ];
    let check = |(file, bytes): (&str, Vec<u8>)| {
        let path = model.join(file);
        let kept = std::fs::read(&path).ok();
        std::fs::write(&path, bytes).unwrap();
        load_and_infer(&model);
        match kept {
            Some(kept) => std::fs::write(&path, kept).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        Ok(())
    };
    runner(96).run(&(proptest::sample::select(files), bytes), check).unwrap();
}

#[test]
fn any_byte_of_a_tokenizer_may_be_another() {
    let (_dir, model) = made();
    let files = vec!["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"];
    let change = (proptest::sample::select(files), any::<prop::sample::Index>(), any::<u8>());
    let check = |(file, at, byte): (&str, prop::sample::Index, u8)| {
        let path = model.join(file);
        let kept = std::fs::read(&path).unwrap();
        let mut bytes = kept.clone();
        bytes[at.index(kept.len())] = byte;
        std::fs::write(&path, bytes).unwrap();
        load_and_infer(&model);
        std::fs::write(&path, kept).unwrap();
        Ok(())
    };
    runner(24).run(&change, check).unwrap();
}
