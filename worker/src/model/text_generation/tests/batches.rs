//! Texts that share the model: none depends on the others, whenever they join and however little room there is.

use serde_json::json;

use super::*;
use crate::model::stepwise::Finish;

const PROMPTS: [&str; 5] = ["a cat", "how many jobs wait in the queue, and for how long", "x", "", "the old king 🙂"];

fn job(prompt: &str, tokens: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0})
}

fn alone(engine: &mut TextGeneration, input: Value) -> String {
    text(engine.run(&[item(input)]).remove(0))
}

fn finished(stepped: Stepped) -> Option<String> {
    match stepped {
        Stepped::Ended(Ok(finish)) => Some(text((finish as Finish)())),
        Stepped::Ended(Err(error)) => panic!("{error}"),
        Stepped::Running(_) => None,
    }
}

#[test]
fn a_text_does_not_depend_on_its_batch() {
    for family in ["llama", "qwen2", "qwen3", "mistral"] {
        let (_dir, model) = golden::generation_model(family, 1);
        let mut engine = load_cpu(&model).unwrap();
        let jobs: Vec<Value> = (0..).zip(PROMPTS).map(|(n, prompt)| job(prompt, 5 + 7 * n)).collect();
        let together = engine.run(&jobs.iter().cloned().map(item).collect::<Vec<_>>());
        for (job, found) in jobs.into_iter().zip(together) {
            assert_eq!(text(found), alone(&mut engine, job.clone()), "{family}: {job}");
        }
        let several = engine.run(&[item(json!({"prompts": PROMPTS, "max_tokens": 9, "temperature": 0}))]).remove(0);
        for (one, prompt) in value(several).as_array().unwrap().iter().zip(PROMPTS) {
            assert_eq!(one["text"], alone(&mut engine, job(prompt, 9)), "{family}: {prompt}");
        }
    }
}

#[test]
fn texts_join_and_leave_on_the_way() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let drawn = |prompt: &str, tokens: usize| json!({"prompt": prompt, "max_tokens": tokens, "temperature": 1.2});
    let known: Vec<String> =
        [(0, 30), (1, 4), (2, 11)].map(|(prompt, tokens)| alone(&mut engine, drawn(PROMPTS[prompt], tokens))).into();
    let mut tickets = vec![engine.begin(item(drawn(PROMPTS[0], 30))).unwrap()];
    let mut found = std::collections::BTreeMap::new();
    for step in 0..60 {
        if step == 3 {
            tickets.push(engine.begin(item(drawn(PROMPTS[1], 4))).unwrap());
        }
        if step == 5 {
            tickets.push(engine.begin(item(drawn(PROMPTS[2], 11))).unwrap());
        }
        let stepped = engine.step(&tickets);
        for (ticket, stepped) in tickets.clone().into_iter().zip(stepped) {
            if let Some(text) = finished(stepped) {
                tickets.retain(|other| *other != ticket);
                found.insert(ticket, text);
            }
        }
    }
    // a model of random weights may end its text at any token, so which of them left first is not said
    assert_eq!(found.into_values().collect::<Vec<_>>(), known);
}

#[test]
fn a_long_prompt_is_read_in_parts_while_others_are_written() {
    let (dir, _) = made();
    let model = dir.path().join("model");
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    std::fs::write(
        model.join("config.json"),
        config.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 4096"),
    )
    .unwrap();
    let mut engine = load_cpu(&model).unwrap();
    engine.model.ends.clear();
    let long = job(&" cat".repeat(1000), 3);
    let known = alone(&mut engine, long.clone());
    let short = engine.begin(item(job("a cat", 50))).unwrap();
    let others: Vec<Ticket> = (0..4).map(|_| engine.begin(item(long.clone())).unwrap()).collect();
    let tickets: Vec<Ticket> = [short].into_iter().chain(others).collect();
    let mut ended = Vec::new();
    let mut left = tickets.clone();
    for step in 1..=12 {
        let stepped = engine.step(&left);
        assert!(matches!(stepped[0], Stepped::Running(Progress { step: done, .. }) if done == step), "it never waits");
        let texts: Vec<_> = left.clone().into_iter().zip(stepped.into_iter().map(finished)).collect();
        left = texts.iter().filter(|(_, text)| text.is_none()).map(|(ticket, _)| *ticket).collect();
        ended.extend(texts.into_iter().filter_map(|(_, text)| text));
    }
    assert_eq!(ended, vec![known; 4]);
}

#[test]
fn texts_wait_for_room_and_come_out_the_same() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.model.ends.clear();
    let jobs: Vec<Value> = PROMPTS.iter().map(|prompt| job(prompt, 12)).collect();
    let known: Vec<String> = jobs.iter().map(|job| alone(&mut engine, job.clone())).collect();
    let most = 40;
    engine.room.set(most);
    let tickets: Vec<Ticket> = jobs.iter().map(|job| engine.begin(item(job.clone())).unwrap()).collect();
    let mut left = tickets.clone();
    let (mut found, mut together) = (std::collections::BTreeMap::new(), 0);
    while !left.is_empty() {
        let stepped = engine.step(&left);
        let held: usize = engine.jobs.values().map(Job::held).sum();
        assert!(held <= most, "{held} tokens are held");
        together = together.max(engine.jobs.values().filter(|job| job.held() > 0).count());
        for (ticket, stepped) in left.clone().into_iter().zip(stepped) {
            if let Some(text) = finished(stepped) {
                left.retain(|other| *other != ticket);
                found.insert(ticket, text);
            }
        }
    }
    assert_eq!(found.into_values().collect::<Vec<_>>(), known);
    assert!((2..5).contains(&together), "{together} at a time");

    let Err(RunError::OutOfMemory(error)) = engine.begin(item(job("a cat", 60))) else { panic!("it began") };
    assert!(error.contains("62 tokens") && error.contains("lower max_tokens"), "{error}");
}

#[test]
fn a_text_that_lost_its_keys_and_values_goes_on_as_it_would_have() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.model.ends.clear();
    let known = alone(&mut engine, job("a cat", 20));
    let ticket = engine.begin(item(job("a cat", 20))).unwrap();
    let mut found = None;
    for step in 0..30 {
        if step == 7 {
            engine.jobs.get_mut(&ticket).unwrap().texts[0].cache = None;
        }
        if found.is_none() {
            found = finished(engine.step(&[ticket]).remove(0));
        }
    }
    assert_eq!(found.as_deref(), Some(known.as_str()));
}
