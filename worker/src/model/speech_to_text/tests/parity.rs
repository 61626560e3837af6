//! Features, logits and segments against those of transformers (bench/parity), and files of other encoders.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Deserialize;

use super::super::audio::samples;
use super::super::mel::Mel;
use super::super::segments::Segment;
use super::*;
use crate::model::Cancel;

/// The largest difference of a feature, and of a logit.
const CLOSE: f32 = 2e-4;

#[derive(Debug, Deserialize)]
struct Goldens {
    seed: u64,
    lengths: BTreeMap<String, usize>,
    cases: Vec<Known>,
}

#[derive(Debug, Deserialize)]
struct Known {
    audio: String,
    timestamps: bool,
    language: Option<String>,
    task: Option<String>,
    prompt: Option<String>,
    segments: Vec<KnownSegment>,
}

#[derive(Debug, Deserialize)]
struct KnownSegment {
    start: usize,
    end: usize,
    tokens: Vec<u32>,
}

fn goldens() -> Goldens {
    serde_json::from_str(&golden::text("speech/cases.json")).unwrap()
}

/// Noise in steps of a tenth of a second, as speech.py makes it.
fn audio(goldens: &Goldens, name: &str) -> Vec<f32> {
    let noise = golden::weights(&format!("0/audio/{name}"), name, &[goldens.lengths[name]]);
    noise.into_iter().enumerate().map(|(n, sample)| sample * (n / 1600 * 5 % 8) as f32).collect()
}

fn far(found: &[f32], known: &[f32]) -> f32 {
    assert_eq!(found.len(), known.len());
    found.iter().zip(known).fold(0.0_f32, |far, (a, b)| far.max((a - b).abs()))
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn features_are_those_of_transformers() {
    let (goldens, known) = (goldens(), golden::tensors("speech/speech.safetensors"));
    for (name, each) in [("short", 4), ("long", 10)] {
        let features = Mel::new(80).features(audio(&goldens, name), 200);
        let found: Vec<f32> = features.values.chunks(80).step_by(each).flatten().copied().collect();
        let far = far(&found, &flat(&known[&format!("{name}.features")]));
        assert!(far <= CLOSE, "{name}: {far}");
    }
}

#[test]
fn what_is_heard_and_written_is_that_of_transformers() {
    let (goldens, known) = (goldens(), golden::tensors("speech/speech.safetensors"));
    let (_dir, folder) = golden::speech_model(goldens.seed);
    let engine = load_cpu(&folder).unwrap();
    let model = &engine.model;
    let features = model.mel.features(audio(&goldens, "short"), model.window);
    let shape = (1, model.window, 80);
    let encoded =
        model.encoder.forward(&Tensor::from_vec(features.values.clone(), shape, &model.device).unwrap()).unwrap();
    let far_encoded = far(&flat(&encoded), &flat(&known["encoded"]));
    assert!(far_encoded <= CLOSE, "{far_encoded}");
    let ids: Vec<u32> = known["ids"].to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect();
    let heard = std::sync::Arc::new(model.decoder.hear(&encoded.get(0).unwrap()).unwrap());
    let wanted: Vec<Vec<f32>> = known["logits"].to_vec2().unwrap();
    // token by token, and all at once
    for at_once in [1, ids.len()] {
        let mut cache = model.decoder.cache(ids.len());
        let mut read = 0;
        for tokens in ids.chunks(at_once) {
            let mut pieces = [Piece { tokens: tokens.to_vec(), cache, heard: heard.clone() }];
            let found = model.decoder.forward(&mut pieces).unwrap().remove(0);
            let [piece] = pieces;
            cache = piece.cache;
            cache.advance(tokens.len());
            read += tokens.len();
            let far = far(&found, &wanted[read - 1]);
            assert!(far <= CLOSE, "after {read} tokens by {at_once}: {far}");
        }
    }
}

#[test]
fn segments_are_those_of_transformers() {
    let goldens = goldens();
    let (_dir, folder) = golden::speech_model(goldens.seed);
    let mut engine = load_cpu(&folder).unwrap();
    for known in &goldens.cases {
        let samples: Vec<i16> =
            audio(&goldens, &known.audio).into_iter().map(|sample| (sample * 32_768.0) as i16).collect();
        let job = item(wav(16_000, 1, &samples), |settings| {
            settings.language.clone_from(&known.language);
            settings.translate = known.task.as_deref() == Some("translate");
            settings.timestamps = known.timestamps;
            settings.prompt.clone_from(&known.prompt);
        });
        let ticket = engine.begin(job).unwrap();
        while !engine.jobs[&ticket].is_done() {
            engine.look(&[ticket], &mut BTreeMap::new());
            engine.hear(&[ticket], &mut BTreeMap::new());
            engine.write(&[ticket], &mut BTreeMap::new());
        }
        let text = |tokens: &[u32]| tokens.iter().copied().filter(|token| *token < engine.model.marks.end).collect();
        let content = goldens.lengths[&known.audio].div_ceil(160);
        let wanted: Vec<Segment> = known
            .segments
            .iter()
            .map(|one| Segment { start: one.start, end: one.end, tokens: text(&one.tokens) })
            .collect();
        let found = engine.jobs[&ticket].said();
        assert_eq!(found.len(), wanted.len(), "{known:?}");
        for (found, wanted) in found.iter().zip(&wanted) {
            // transformers takes the silence behind short audio for audio
            let end = if known.timestamps { wanted.end } else { wanted.end.min(content) };
            assert_eq!((found.start, found.end, &found.tokens), (wanted.start, end, &wanted.tokens), "{known:?}");
        }
        engine.forget(ticket);
    }
}

#[test]
fn files_of_other_encoders_are_the_same_tone() {
    for kind in ["wav", "flac", "ogg", "mp3"] {
        let found = samples(golden::bytes(&format!("speech/tone.{kind}")).into(), &Cancel::default()).unwrap();
        assert!((7_990..=8_500).contains(&found.len()), "{kind}: {} samples", found.len());
        // whatever an encoder puts before it, half a wave of 440 Hz is between two crossings
        let middle = &found[2_000..6_000];
        let crossings = middle.windows(2).filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0)).count();
        assert!((218..=222).contains(&crossings), "{kind}: {crossings}");
        let loudest = middle.iter().fold(0.0_f32, |most, sample| most.max(sample.abs()));
        assert!((0.31..0.36).contains(&loudest), "{kind}: {loudest}");
    }
}
