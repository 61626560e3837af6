//! The whole task: what its vectors are and depend on.

mod damaged;
mod load;
mod parity;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::altered;
use crate::model::fields::object;
use crate::model::testing::{as_input, on_cpu};
use crate::model::{About, Hook, LoadError, Loading, Output, Request};

/// A made model to do anything with.
fn made() -> (TempDir, PathBuf) {
    altered::made(make_model)
}

fn load_with(model: &Path, parameters: Value) -> Result<TextEmbedding, LoadError> {
    load(&Loading { parameters: object(parameters), ..on_cpu(model) })
}

fn load_cpu(model: &Path) -> Result<TextEmbedding, LoadError> {
    load(&on_cpu(model))
}

fn item(input: Value) -> Item<TextEmbeddingRequest> {
    Item::new(TextEmbeddingRequest::decode(&as_input(input), &Map::new(), &About::default()).unwrap())
}

/// The vector of a result that is a value.
fn vector(product: &Product) -> Vec<f64> {
    let value = product.value.as_ref().unwrap();
    value["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The vectors of a result that is a file of lines.
fn lines(product: &Product) -> Vec<Vec<f64>> {
    let body = String::from_utf8(product.outputs[0].body.to_vec()).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    body.lines().map(|text| vector(&Product { value: Some(line(text)), ..Product::default() })).collect()
}

fn apart(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).fold(0.0, |apart, (a, b)| apart.max((a - b).abs()))
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn what_a_vector_depends_on() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.warm_up().unwrap();
    let mut run = |input: Value| vector(&engine.run(&[item(input)]).remove(0).unwrap());
    let base = run(json!("a cat"));
    assert_eq!((base.len(), run(json!({"text": "a cat"}))), (32, base.clone()));
    assert!((length(&base) - 1.0).abs() < 1e-6);
    for other in [json!("a dog"), json!("cat a"), json!({"text": "a cat", "prompt_name": "query"})] {
        assert!(apart(&base, &run(other.clone())) > 1e-3, "{other} changes nothing");
    }
    assert_eq!(run(json!("A CAT")), base, "the tokenizer reads small letters");
    assert_eq!(
        run(json!({"text": "a cat", "prompt": "query: "})),
        run(json!({"text": "a cat", "prompt_name": "query"}))
    );
    assert!((length(&run(json!({"text": "a cat", "normalize": false}))) - 1.0).abs() > 1e-3);
    let cut = run(json!({"text": "a cat", "dimensions": 8}));
    assert!((cut.len(), (length(&cut) - 1.0).abs() < 1e-6) == (8, true));
    let by: f64 = length(&base[..8]);
    assert!(apart(&cut, &base[..8].iter().map(|value| value / by).collect::<Vec<_>>()) < 1e-6);
}

#[test]
fn a_vector_does_not_depend_on_its_batch() {
    for family in ["bert", "mpnet", "modernbert"] {
        let (_dir, model) = crate::model::golden::embedding_model(family, 3);
        let mut engine = load_cpu(&model).unwrap();
        engine.budget = 40;
        let texts: Vec<String> = (0..23).map(|n| "one two cat ".repeat(n * 7 % 11)).collect();
        let batch: Vec<_> = texts.iter().map(|text| item(json!(text))).collect();
        let together = engine.run(&batch);
        let file = engine.run(&[item(json!({"texts": texts}))]).remove(0).unwrap();
        for ((text, one), line) in texts.iter().zip(together).zip(lines(&file)) {
            let alone = vector(&engine.run(&[item(json!(text))]).remove(0).unwrap());
            let far = apart(&alone, &vector(&one.unwrap())).max(apart(&alone, &line));
            assert!(far < 1e-6, "{family}, {text}: {far}");
        }
    }
}

#[test]
fn one_bad_text_does_not_spoil_a_batch() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let long = "cat ".repeat(127);
    let cancelled = item(json!("a cat"));
    cancelled.cancel.cancel();
    let batch = [
        item(json!("a cat")),
        item(json!({"text": long, "truncate": "error"})),
        item(json!({"text": "a cat", "prompt_name": "passage"})),
        item(json!({"text": "a cat", "dimensions": 33})),
        cancelled,
        item(json!({"text": long})),
    ];
    let results = engine.run(&batch);
    assert!(results[0].is_ok() && results[5].is_ok());
    assert_eq!(results[4], Err(RunError::Cancelled));
    let limit = "has 127 tokens, and 2 around them; 128 are read (max_seq_length of sentence_bert_config.json)";
    for (result, field, wanted) in [
        (&results[1], "text", limit),
        (&results[2], "prompt_name", "passage is no prompt of this model; it has document, query"),
        (&results[3], "dimensions", "is 33; vectors of this model have 32"),
    ] {
        let Err(RunError::Invalid(error)) = result else { panic!("{result:?}") };
        assert!(error.field.as_deref() == Some(field) && error.message.contains(wanted), "{error}");
    }
    let tokens =
        |result: &Result<Product, RunError>| result.as_ref().unwrap().value.as_ref().unwrap()["tokens"].clone();
    assert_eq!((tokens(&results[0]), tokens(&results[5])), (json!(4), json!(128)));
}

#[test]
fn of_several_texts_the_bad_one_is_named() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let texts = json!({"texts": ["a cat", "cat ".repeat(127)], "truncate": "error"});
    let Err(RunError::Invalid(error)) = engine.run(&[item(texts)]).remove(0) else { panic!("it was read") };
    assert_eq!(error.field.as_deref(), Some("texts[1]"), "{error}");
}

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(u32, u32)>>);

impl Hook for Told {
    fn stepped(&self, at: Progress) {
        self.0.lock().unwrap().push((at.step, at.steps));
    }

    fn preview(&self, _: Output) {}
}

#[test]
fn many_texts_can_be_followed_and_given_up() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.budget = 10;
    let texts: Vec<String> = (0..5).map(|n| format!("cat {n}")).collect();
    let told = Arc::new(Told::default());
    let mut followed = item(json!({"texts": texts}));
    followed.hook = Some(told.clone());
    assert!(engine.run(&[followed.clone()]).remove(0).is_ok());
    assert_eq!(*told.0.lock().unwrap(), [(2, 5), (4, 5), (5, 5)]);
    followed.cancel.cancel();
    assert_eq!(engine.run(&[followed]).remove(0), Err(RunError::Cancelled));
    assert_eq!(told.0.lock().unwrap().len(), 3, "it was computed all the same");
}
