//! Whatever is done to a folder's files, loading it gives a model or an error: no panic, no memory without end.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use super::{load_cpu, made};
use crate::model::Engine;
use crate::model::golden::embedding_model;

const CONFIGS: [&str; 5] = [
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
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
fn load_and_infer(model: &Path) {
    if let Ok(mut engine) = load_cpu(model) {
        drop(engine.warm_up());
    }
}

fn any_setting_of(model: &Path) {
    let change = (proptest::sample::select(CONFIGS.to_vec()), any::<prop::sample::Index>(), odd());
    let check = |(file, which, value): (&str, prop::sample::Index, Value)| {
        let path = model.join(file);
        let content = std::fs::read(&path).unwrap();
        let mut config: Map<String, Value> = serde_json::from_slice(&content).unwrap();
        let keys: Vec<String> = config.keys().cloned().collect();
        config.insert(which.get(&keys).clone(), value);
        std::fs::write(&path, Value::Object(config).to_string()).unwrap();
        load_and_infer(model);
        std::fs::write(&path, content).unwrap();
        Ok(())
    };
    runner(96).run(&change, check).unwrap();
}

#[test]
fn any_setting_may_be_anything() {
    any_setting_of(&made().1);
    for family in ["mpnet", "modernbert"] {
        any_setting_of(&embedding_model(family, 1).1);
    }
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> = CONFIGS.into_iter().chain(["modules.json", "tokenizer.json", "model.safetensors"]).collect();
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\":,0-9a-z ]{0,200}".prop_map(String::into_bytes),
    ];
    let check = |(file, bytes): (&str, Vec<u8>)| {
        let path = model.join(file);
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        load_and_infer(&model);
        std::fs::write(&path, content).unwrap();
        Ok(())
    };
    runner(64).run(&(proptest::sample::select(files), bytes), check).unwrap();
}
