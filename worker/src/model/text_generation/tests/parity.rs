//! Tokens and logits against those of transformers, of every family (bench/parity).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::decoder::Piece;
use super::*;

/// The largest difference of any logit.
const CLOSE: f32 = 2e-4;

#[derive(Debug, Deserialize)]
struct Goldens {
    seed: u64,
    prompts: Vec<Prompt>,
    /// Of each model, what follows each prompt.
    tokens: BTreeMap<String, Vec<Vec<u32>>>,
}

#[derive(Debug, Deserialize)]
struct Prompt {
    text: String,
    tokens: Vec<u32>,
}

fn goldens() -> Goldens {
    serde_json::from_str(&golden::text("generation/cases.json")).unwrap()
}

/// The logits after some tokens, read in pieces of so many.
fn logits(engine: &TextGeneration, tokens: &[u32], at_once: usize) -> Vec<f32> {
    let mut cache = engine.model.decoder.cache(tokens.len());
    let mut logits = Vec::new();
    for tokens in tokens.chunks(at_once) {
        let mut pieces = [Piece { tokens: tokens.to_vec(), cache }];
        logits = engine.model.decoder.forward(&mut pieces).unwrap().remove(0);
        let [piece] = pieces;
        cache = piece.cache;
        cache.advance(tokens.len());
    }
    logits
}

#[test]
fn tokens_and_logits_are_those_of_transformers() {
    let goldens = goldens();
    let known = golden::tensors("generation/generation.safetensors");
    for (name, tokens) in &goldens.tokens {
        let (_dir, model) = golden::generation_model(name, goldens.seed);
        let mut engine = load_cpu(&model).unwrap();
        engine.model.ends.clear();
        for (index, (prompt, following)) in goldens.prompts.iter().zip(tokens).enumerate() {
            assert_eq!(engine.model.tokenizer.tokens(&prompt.text, true).unwrap(), prompt.tokens);
            let all = [prompt.tokens.as_slice(), following].concat();
            let known: Vec<Vec<f32>> = known[&format!("{name}.{index}")].to_vec2().unwrap();
            let last = all.len() - 1;
            for (read, known) in [(prompt.tokens.len(), &known[0]), (last, &known[1])] {
                for at_once in [1, 7, read] {
                    let found = logits(&engine, &all[..read], at_once);
                    let far = found.iter().zip(known).fold(0.0_f32, |far, (a, b)| far.max((a - b).abs()));
                    assert!(far <= CLOSE && found.len() == known.len(), "{name} {:?} by {at_once}: {far}", prompt.text);
                }
            }
            let job = json!({"prompt": prompt.text, "max_tokens": following.len(), "temperature": 0});
            let found = value(engine.run(&[item(job)]).remove(0));
            assert_eq!(found["text"], engine.model.tokenizer.text(following).unwrap(), "{name} {:?}", prompt.text);
            assert_eq!(found["usage"]["completion_tokens"], following.len());
        }
    }
}
