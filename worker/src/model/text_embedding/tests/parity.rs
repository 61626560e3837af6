//! Vectors against those of sentence-transformers, of every architecture and every pooling (bench/parity).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{apart, item, length, lines, load_cpu};
use crate::model::Engine;
use crate::model::golden;

/// The largest difference of any number of a vector, relative to the vector's length.
const CLOSE: f64 = 1e-5;

#[derive(Debug, Deserialize)]
struct Goldens {
    texts: Vec<String>,
    /// Each model's seed.
    models: BTreeMap<String, u64>,
    /// Settings in the words of jobs.
    cases: Vec<Map<String, Value>>,
}

/// Holds the vectors of all texts against those that are known.
fn check(name: &str, model: &Path, texts: &[String], settings: &Map<String, Value>, known: &Tensor) {
    let mut job = settings.clone();
    job.insert("texts".into(), texts.into());
    let product = load_cpu(model).unwrap().run(&[item(Value::Object(job))]).remove(0);
    let found = lines(&product.unwrap_or_else(|error| panic!("{name} {settings:?}: {error}")));
    let known: Vec<Vec<f32>> = known.to_vec2().unwrap();
    assert_eq!(found.len(), known.len());
    for ((text, found), known) in texts.iter().zip(&found).zip(known) {
        let known: Vec<f64> = known.into_iter().map(f64::from).collect();
        let far = apart(found, &known) / length(&known);
        assert!(far <= CLOSE, "{name} {settings:?} {text:?}: {far}");
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let goldens: Goldens = serde_json::from_str(&golden::text("embeddings/cases.json")).unwrap();
    let known = golden::tensors("embeddings/embeddings.safetensors");
    assert_eq!(known.len(), goldens.models.len() * goldens.cases.len());
    for (name, seed) in &goldens.models {
        let (_dir, model) = golden::embedding_model(name, *seed);
        for (index, case) in goldens.cases.iter().enumerate() {
            check(name, &model, &goldens.texts, case, &known[&format!("{name}.{index}")]);
        }
    }
}

/// all-MiniLM-L6-v2 with its real weights: `MILLRACE_MINILM=$(bench/parity/minilm)` says where it lies.
#[test]
#[ignore = "needs MILLRACE_MINILM, the folder that bench/parity/minilm downloads"]
fn real_weights_give_real_vectors() {
    let model = std::env::var("MILLRACE_MINILM").unwrap();
    let texts: Vec<String> = serde_json::from_str(&golden::text("embeddings/minilm.json")).unwrap();
    let known = golden::tensors("embeddings/minilm.safetensors");
    check("MiniLM", Path::new(&model), &texts, &Map::new(), &known["vectors"]);
}
