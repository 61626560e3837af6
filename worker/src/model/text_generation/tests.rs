//! The whole task: what its texts are and depend on.

mod batches;
mod damaged;
mod gguf;
mod load;
mod parity;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::altered;
use crate::model::fields::object;
use crate::model::folder::Folder;
use crate::model::golden;
use crate::model::testing::{as_input, on_cpu};
use crate::model::{About, Hook, LoadError, Loading, Output, Progress, Request};

/// The goldens' tokenizer.
pub(super) fn tokenizer() -> tokenizer::Tokenizer {
    tokenizer::Tokenizer::load(&Folder::open(&golden::generation_tokenizer(), None).unwrap(), 340).unwrap()
}

/// A made model to do anything with.
fn made() -> (TempDir, PathBuf) {
    altered::made(make_model)
}

fn load_with(model: &Path, parameters: Value) -> Result<TextGeneration, LoadError> {
    load(&Loading { parameters: object(parameters), ..on_cpu(model) })
}

fn load_cpu(model: &Path) -> Result<TextGeneration, LoadError> {
    load(&on_cpu(model))
}

fn item(input: Value) -> Item<TextGenerationRequest> {
    Item::new(
        TextGenerationRequest::decode(&as_input(input), &Map::new(), &About { seed: 5, ..About::default() }).unwrap(),
    )
}

fn value(product: Result<Product, RunError>) -> Value {
    product.unwrap().value.unwrap()
}

fn text(product: Result<Product, RunError>) -> String {
    value(product)["text"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_text_depends_on() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.warm_up().unwrap();
    let mut run = |input: Value| value(engine.run(&[item(input)]).remove(0));
    let base = run(json!({"prompt": "a cat", "max_tokens": 12}));
    assert_eq!(base["usage"]["prompt_tokens"], 3, "begin, a letter, a word");
    assert_eq!(run(json!({"prompt": "a cat", "max_tokens": 12, "seed": 5})), base);
    for other in [
        json!({"prompt": "a dog", "max_tokens": 12}),
        json!({"prompt": "a cat", "max_tokens": 12, "seed": 6}),
        json!({"prompt": "a cat", "max_tokens": 12, "temperature": 0}),
        json!({"prompt": "a cat", "max_tokens": 12, "system": "be brief"}),
        json!({"prompt": "a cat", "max_tokens": 12, "chat": true}),
    ] {
        assert_ne!(run(other.clone())["text"], base["text"], "{other} changes nothing");
    }
    let greedy = |more: Value| {
        let mut job = object(json!({"prompt": "a cat", "max_tokens": 30}));
        job.extend(object(more));
        Value::Object(job)
    };
    let likeliest = run(greedy(json!({"temperature": 0})));
    assert_eq!(run(greedy(json!({"top_k": 1, "seed": 9})))["text"], likeliest["text"]);
    assert_ne!(run(greedy(json!({"temperature": 0, "repetition_penalty": 5})))["text"], likeliest["text"]);
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "a cat"}]);
    assert_eq!(
        run(json!({"messages": messages, "max_tokens": 12})),
        run(json!({"prompt": "a cat", "system": "be brief", "max_tokens": 12}))
    );
}

#[test]
fn a_text_ends_where_it_is_told_to() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let mut run = |input: Value| value(engine.run(&[item(input)]).remove(0));
    let whole = run(json!({"prompt": "a cat", "max_tokens": 40, "temperature": 0}));
    assert_eq!((&whole["finish_reason"], &whole["usage"]["completion_tokens"]), (&json!("length"), &json!(40)));
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(9).take(3).collect();
    let cut = run(json!({"prompt": "a cat", "max_tokens": 40, "temperature": 0, "stop": ["nowhere", stop]}));
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str(), text.split(&stop).next());
    assert!(cut["usage"]["completion_tokens"].as_u64() < Some(40));

    // a token that ends texts counts, and is not in them
    engine.model.ends = (0..400).collect();
    let ended = value(engine.run(&[item(json!({"prompt": "a cat", "max_tokens": 40, "temperature": 0}))]).remove(0));
    assert_eq!((&ended["finish_reason"], &ended["text"]), (&json!("stop"), &json!("")));
    assert_eq!(ended["usage"]["completion_tokens"], 1);
}

#[test]
fn what_does_not_fit_the_model_is_refused_with_both_numbers() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let long = " cat".repeat(255);
    let cancelled = item(json!("a cat"));
    cancelled.cancel.cancel();
    let batch = [
        item(json!({"prompt": long, "max_tokens": 1})),
        item(json!({"prompt": "a cat", "max_tokens": 254})),
        item(json!({"prompt": "a cat", "max_tokens": 256})),
        item(json!({"prompts": ["a cat", " cat".repeat(250)], "max_tokens": 10})),
        item(json!({"messages": [{"role": "judge", "content": "a"}]})),
        cancelled,
        item(json!({"prompt": "a cat", "max_tokens": 3})),
    ];
    let results = engine.run(&batch);
    let of = "max_position_embeddings of config.json";
    for (result, field, wanted) in [
        (&results[0], "prompt", format!("has 256 tokens, which leaves none for an answer: the model reads 256 ({of})")),
        (
            &results[1],
            "prompt",
            format!("has 3 tokens, and max_tokens is 254: together 257, and the model reads 256 ({of})"),
        ),
        (&results[2], "max_tokens", format!("is 256; the model reads 256 tokens with the prompt ({of})")),
        (&results[3], "prompts[1]", "has 251 tokens, and max_tokens is 10: together 261".into()),
        (&results[4], "messages", "role judge is none of system, user and assistant".into()),
    ] {
        let Err(RunError::Invalid(error)) = result else { panic!("{result:?}") };
        assert!(error.field.as_deref() == Some(field) && error.message.contains(&wanted), "{error}");
    }
    assert_eq!(results[5], Err(RunError::Cancelled));
    assert_eq!(results[6].as_ref().unwrap().value.as_ref().unwrap()["usage"]["completion_tokens"], 3);
    assert!(engine.jobs.is_empty(), "nothing is left behind");
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
fn a_text_can_be_followed_and_given_up() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let told = Arc::new(Told::default());
    let mut followed = item(json!({"prompt": "a cat", "max_tokens": 3, "temperature": 0}));
    followed.hook = Some(told.clone());
    assert!(engine.run(&[followed]).remove(0).is_ok());
    assert_eq!(*told.0.lock().unwrap(), [(0, 3), (1, 3), (2, 3), (3, 3)]);

    let given_up = item(json!({"prompt": "a cat", "max_tokens": 100, "temperature": 0}));
    let ticket = engine.begin(given_up.clone()).unwrap();
    assert!(matches!(engine.step(&[ticket])[0], Stepped::Running(Progress { step: 1, steps: 100 })));
    given_up.cancel.cancel();
    assert!(matches!(engine.step(&[ticket])[0], Stepped::Ended(Err(RunError::Cancelled))));
    assert!(engine.jobs.is_empty());
}
