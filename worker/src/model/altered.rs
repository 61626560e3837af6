//! Model folders that tests change, and what a loader must say then. For the tests of each task.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::LoadError;
use super::made::MakeModelError;

/// The weights of a task that has one file of them.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// A made model to do anything with.
pub(crate) fn made(make: impl Fn(&Path, u64) -> Result<(), MakeModelError>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    make(&model, 7).unwrap();
    (dir, model)
}

/// Changes a file of JSON.
pub(crate) fn edit(model: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = model.join(file);
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// What a model's file of weights holds.
pub(crate) fn weights(model: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(model.join(WEIGHTS), &Device::Cpu).unwrap()
}

/// Makes two shards of half precision of a model's weights, with their index.
pub(crate) fn shard(model: &Path) {
    let mut map = Map::new();
    let mut shards = [HashMap::new(), HashMap::new()];
    for (number, (name, tensor)) in weights(model).into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-{}.safetensors", number % 2)));
        shards[number % 2].insert(name, tensor.to_dtype(DType::F16).unwrap());
    }
    for (number, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, model.join(format!("model-{number}.safetensors"))).unwrap();
    }
    std::fs::remove_file(model.join(WEIGHTS)).unwrap();
    std::fs::write(model.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

/// The same seed makes the same model, another another, and none is made over something else.
pub(crate) fn seeds_count(weights: &str, make: impl Fn(&Path, u64) -> Result<(), MakeModelError>) {
    let dir = tempfile::tempdir().unwrap();
    let content = |name: &str, seed| {
        let model = dir.path().join(name);
        make(&model, seed).unwrap();
        std::fs::read(model.join(weights)).unwrap()
    };
    let first = content("a", 1);
    assert!(first == content("b", 1) && first != content("c", 2));
    let error = make(&dir.path().join("a"), 1).unwrap_err();
    assert!(matches!(error, MakeModelError::NotEmpty(_)), "{error}");
}

/// What is done to a folder.
pub(crate) type Damage = Box<dyn Fn(&Path)>;

/// What is done, the reason that a loader must give then, and words of its message.
pub(crate) type Case = (Damage, &'static str, &'static [&'static str]);

/// The whole folder is gone.
pub(crate) fn gone() -> Damage {
    Box::new(|model| std::fs::remove_dir_all(model).unwrap())
}

/// A file is gone.
pub(crate) fn remove(file: &'static str) -> Damage {
    Box::new(move |model| std::fs::remove_file(model.join(file)).unwrap())
}

/// A file holds something else.
pub(crate) fn write(file: &'static str, content: &'static str) -> Damage {
    Box::new(move |model| std::fs::write(model.join(file), content).unwrap())
}

/// A setting is another: the one at `pointer`, or the field of that name of the whole.
pub(crate) fn set(file: &'static str, pointer: &'static str, value: Value) -> Damage {
    Box::new(move |model| {
        edit(model, file, |config| match config.pointer_mut(pointer).filter(|_| pointer.starts_with('/')) {
            Some(there) => *there = value.clone(),
            None => config[pointer] = value.clone(),
        });
    })
}

/// Each damage of a made model is told.
pub(crate) fn are_told<E>(
    cases: Vec<Case>,
    made: impl Fn() -> (TempDir, PathBuf),
    load: impl Fn(&Path) -> Result<E, LoadError>,
) {
    for (damage, reason, words) in cases {
        let (_dir, model) = made();
        damage(&model);
        let error = load(&model).map(|_| ()).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{words:?}: {error}");
    }
}
