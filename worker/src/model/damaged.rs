//! Whatever is done to a folder's files, loading it gives a model or an error: no panic, no memory without end. For the
//! tests of each task.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use super::{Engine, LoadError};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

/// Values that a setting should not have, and some that it may.
fn odd() -> impl Strategy<Value = Value> {
    let numbers = [0_i64, 1, -1, 2, 3, 7, 1 << 16, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
    prop_oneof![
        select(numbers.to_vec()).prop_map(Value::from),
        select(vec![0.5, -0.5, 1e-300, 1e300, 0.001]).prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[a-zA-Z_ ]{0,12}".prop_map(Value::from),
        proptest::collection::vec(0_i64..100, 0..5).prop_map(Value::from),
        Just(json!({"a": [1, {"b": null}]})),
    ]
}

/// What a file should not hold, whatever it is.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\":,0-9a-z ]{0,200}".prop_map(String::into_bytes),
        // the length of a safetensors header, and what may be one
        (any::<u64>(), "[{]\"[a-z]{1,3}\":[{]\"dtype\":\"F32\",\"shape\":\\[[0-9]{1,19},[0-9]{1,19}\\],\"data_offsets\":\\[0,[0-9]{1,19}\\][}][}]")
            .prop_map(|(length, header)| {
                let length = if length % 2 == 0 { header.len() as u64 } else { length >> (length % 64) };
                [&length.to_le_bytes()[..], header.as_bytes()].concat()
            }),
    ]
}

/// Loads, and infers once where that worked; what comes of it is of no interest, only that something does.
fn load_and_infer<E: Engine>(model: &Path, load: impl Fn(&Path) -> Result<E, LoadError>) {
    if let Ok(mut engine) = load(model) {
        drop(engine.warm_up());
    }
}

/// Tries the model with `bytes` in one of its files, which then is as it was.
fn try_with<E: Engine>(model: &Path, file: &str, bytes: &[u8], load: impl Fn(&Path) -> Result<E, LoadError>) {
    let path = model.join(file);
    let kept = std::fs::read(&path).ok();
    std::fs::write(&path, bytes).unwrap();
    load_and_infer(model, load);
    match kept {
        Some(kept) => std::fs::write(&path, kept).unwrap(),
        None => std::fs::remove_file(&path).unwrap(),
    }
}

/// Any setting of some configs is given any value.
pub(crate) fn any_setting<E: Engine>(model: &Path, configs: &[&str], load: impl Fn(&Path) -> Result<E, LoadError>) {
    let change = (any::<Index>(), any::<Index>(), odd());
    let check = |(file, which, value): (Index, Index, Value)| {
        let file = file.get(configs);
        let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(model.join(file)).unwrap()).unwrap();
        let keys: Vec<String> = config.keys().cloned().collect();
        config.insert(which.get(&keys).clone(), value);
        try_with(model, file, Value::Object(config).to_string().as_bytes(), &load);
        Ok(())
    };
    runner(96).run(&change, check).unwrap();
}

/// Any of some files, there or not, holds anything.
pub(crate) fn any_content<E: Engine>(model: &Path, files: &[&str], load: impl Fn(&Path) -> Result<E, LoadError>) {
    let check = |(file, bytes): (Index, Vec<u8>)| {
        let file = file.get(files);
        try_with(model, file, &bytes, &load);
        Ok(())
    };
    runner(96).run(&(any::<Index>(), content()), check).unwrap();
}

/// Any byte of some files is another.
pub(crate) fn any_byte<E: Engine>(model: &Path, files: &[&str], load: impl Fn(&Path) -> Result<E, LoadError>) {
    let check = |(file, at, byte): (Index, Index, u8)| {
        let file = file.get(files);
        let mut bytes = std::fs::read(model.join(file)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        try_with(model, file, &bytes, &load);
        Ok(())
    };
    runner(24).run(&(any::<Index>(), any::<Index>(), any::<u8>()), check).unwrap();
}
