//! The whole task: what is written depends on, and how jobs share the model.

mod damaged;
mod load;
mod parity;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::model::altered;
use crate::model::fields::object;
use crate::model::golden;
use crate::model::testing::on_cpu;
use crate::model::{LoadError, Loading, Progress};

/// A made model to do anything with.
fn made() -> (TempDir, PathBuf) {
    altered::made(make_model)
}

fn load_with(model: &Path, parameters: Value) -> Result<SpeechToText, LoadError> {
    load(&Loading { parameters: object(parameters), ..on_cpu(model) })
}

fn load_cpu(model: &Path) -> Result<SpeechToText, LoadError> {
    load(&on_cpu(model))
}

/// So many tenths of a second, each of another loudness.
fn noise(tenths: usize, of: u64) -> Vec<u8> {
    let sample = |n: u64| {
        let mixed = (n + of * 7919).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let loud = (n / 1600 * (5 + of)) % 8;
        ((mixed >> 48) as i16) / 16 * loud as i16
    };
    wav(16_000, 1, &(0..tenths as u64 * 1600).map(sample).collect::<Vec<_>>())
}

fn item(audio: Vec<u8>, change: impl FnOnce(&mut request::Settings)) -> Item<SpeechToTextRequest> {
    let mut request = SpeechToTextRequest::plain(audio);
    change(&mut request.settings);
    Item::new(request)
}

/// What a job asks for.
type Change<'a> = dyn Fn(&mut request::Settings) + 'a;

fn value(product: Result<Product, RunError>) -> Value {
    product.unwrap().value.unwrap()
}

#[test]
fn what_is_written_depends_on_what_is_asked() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.warm_up().unwrap();
    let mut run = |audio: Vec<u8>, change: &Change| value(engine.run(&[item(audio, change)]).remove(0));
    let base = run(noise(20, 0), &|_| {});
    assert_eq!(base["duration"], 2.0);
    assert!(["en", "de", "fr"].contains(&base["language"].as_str().unwrap()), "{base}");
    let segments = base["segments"].as_array().unwrap();
    assert!(!segments.is_empty() && !base["text"].as_str().unwrap().is_empty(), "{base}");
    let times: Vec<f64> =
        segments.iter().flat_map(|one| [one["start"].as_f64(), one["end"].as_f64()]).flatten().collect();
    assert!(times.is_sorted() && times.iter().all(|time| (0.0..=2.0).contains(time)), "{times:?}");
    let said = base["language"].as_str().unwrap().to_owned();
    assert_eq!(run(noise(20, 0), &|settings| settings.language = Some(said.clone())), base);
    let others: [&Change; 4] = [
        &|settings| settings.language = Some(if said == "de" { "fr".into() } else { "de".into() }),
        &|settings| settings.translate = true,
        &|settings| settings.timestamps = false,
        &|settings| settings.prompt = Some("the old king".into()),
    ];
    for (index, other) in others.into_iter().enumerate() {
        assert_ne!(run(noise(20, 0), other)["text"], base["text"], "{index} changes nothing");
    }
}

#[test]
fn company_changes_nothing() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let jobs = [noise(3, 0), noise(75, 1), noise(20, 2), noise(31, 3)].map(|audio| item(audio, |_| {}));
    let alone: Vec<Value> = jobs.iter().map(|job| value(engine.run(std::slice::from_ref(job)).remove(0))).collect();
    let together: Vec<Value> = engine.run(&jobs).into_iter().map(value).collect();
    assert_eq!(together, alone);
    // and so do windows for which there is room one after the other
    engine.windows = 1;
    let in_turn: Vec<Value> = engine.run(&jobs).into_iter().map(value).collect();
    assert_eq!(in_turn, alone);
    assert!(engine.jobs.is_empty());
}

#[test]
fn audio_that_cannot_be_heard_is_named_and_others_go_on() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let cancelled = item(noise(10, 0), |_| {});
    cancelled.cancel.cancel();
    let batch = [
        item(b"this is no audio".to_vec(), |_| {}),
        item(noise(10, 0), |settings| settings.language = Some("cy".into())),
        cancelled,
        item(noise(10, 0), |_| {}),
    ];
    let results = engine.run(&batch);
    for (result, field, wanted) in [
        (&results[0], "audio", "is no audio of a kind that is known"),
        (&results[1], "language", "the model knows de, en, fr"),
    ] {
        let Err(RunError::Invalid(error)) = result else { panic!("{result:?}") };
        assert!(error.field.as_deref() == Some(field) && error.message.contains(wanted), "{error}");
    }
    assert_eq!(results[2], Err(RunError::Cancelled));
    assert!(results[3].is_ok() && engine.jobs.is_empty());
}

#[test]
fn audio_can_be_followed_and_given_up() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let job = item(noise(75, 0), |_| {});
    let ticket = engine.begin(job.clone()).unwrap();
    let mut seen = Vec::new();
    let step = loop {
        match engine.step(&[ticket]).remove(0) {
            Stepped::Running(progress) if progress.step >= 3 => break progress,
            Stepped::Running(progress) => seen.push(progress),
            ended @ Stepped::Ended(_) => panic!("{ended:?} after {seen:?}"),
        }
    };
    assert_eq!(step.steps, 8, "seconds, the last one begun");
    assert!(seen.contains(&Progress { step: 0, steps: 8 }), "{seen:?}");
    job.cancel.cancel();
    assert!(matches!(engine.step(&[ticket])[0], Stepped::Ended(Err(RunError::Cancelled))));
    assert!(engine.jobs.is_empty());
}
