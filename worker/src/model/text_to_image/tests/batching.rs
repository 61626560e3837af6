//! A picture does not depend on its company: requests join, leave and are cancelled at any step, and what is made of each
//! is what is made of it alone.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{furthest, item, load_cpu, made};
use crate::model::stepwise::{Stepped, Stepwise, Ticket};
use crate::model::text_to_image::{TextToImage, TextToImageRequest};
use crate::model::{Engine, Item, Product, RunError};

/// Requests that differ in everything that may differ within a batch.
fn inputs() -> Vec<Value> {
    vec![
        json!({"prompt": "a cat", "seed": 1, "guidance_scale": 3, "steps": 3}),
        json!({"prompt": "a dog on a horse", "seed": 2, "num_images": 2, "scheduler": "EulerAncestralDiscreteScheduler"}),
        json!({"prompt": "a bird", "seed": 3, "negative_prompt": "rain", "steps": 4, "guidance_rescale": 0.5}),
        json!({"prompt": "a fish", "seed": 4, "guidance_scale": 0, "steps": 1}),
        json!({"prompt": "a wolf", "seed": 5, "width": 72, "steps": 2}),
        json!({"prompt": "a tree ".repeat(40), "seed": 6, "steps": 2}),
    ]
}

fn latents(engine: &TextToImage, ticket: Ticket) -> Vec<f32> {
    engine.jobs[&ticket].latents().flatten_all().unwrap().to_vec1().unwrap()
}

/// The last latents of each request alone, and its product.
fn alone(engine: &mut TextToImage) -> Vec<(Vec<f32>, Product)> {
    let one = |input| {
        let ticket = engine.begin(item(input)).unwrap();
        loop {
            let last = latents(engine, ticket);
            match engine.step(&[ticket]).remove(0) {
                Stepped::Running(_) => {}
                Stepped::Ended(ended) => return (last, ended.unwrap()().unwrap()),
            }
        }
    };
    inputs().into_iter().map(one).collect()
}

/// When a request joins, and after how many of its steps it is cancelled, if it is.
#[derive(Debug, Clone)]
struct Plan {
    input: usize,
    joins: usize,
    cancelled: Option<usize>,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = (0..inputs().len(), 0_usize..6, proptest::option::weighted(0.25, 0_usize..3))
        .prop_map(|(input, joins, cancelled)| Plan { input, joins, cancelled });
    proptest::collection::vec(plan, 1..6)
}

struct Running {
    plan: Plan,
    item: Item<TextToImageRequest>,
    ticket: Ticket,
    steps: usize,
    last: Vec<f32>,
}

/// Lives through a schedule; `most` is how many rows a pass may have.
fn live(engine: &mut TextToImage, plans: &[Plan], most: usize, known: &[(Vec<f32>, Product)]) {
    engine.pipeline.room.set_most(most);
    let mut running: Vec<Running> = Vec::new();
    let mut ended = 0;
    for step in 0.. {
        for plan in plans.iter().filter(|plan| plan.joins == step) {
            let item = item(inputs().remove(plan.input));
            let ticket = engine.begin(item.clone()).unwrap();
            running.push(Running { plan: plan.clone(), item, ticket, steps: 0, last: Vec::new() });
        }
        if running.is_empty() && step > 6 {
            break;
        }
        for one in &mut running {
            if one.plan.cancelled == Some(one.steps) {
                one.item.cancel.cancel();
            }
            one.last = latents(engine, one.ticket);
        }
        let tickets: Vec<Ticket> = running.iter().map(|one| one.ticket).collect();
        let mut stepped = engine.step(&tickets).into_iter();
        running.retain_mut(|one| {
            one.steps += 1;
            match stepped.next().unwrap() {
                Stepped::Running(progress) => {
                    // one that is done may wait for its turn to be decoded
                    assert_eq!(progress.step as usize, one.steps.min(progress.steps as usize));
                    true
                }
                Stepped::Ended(Err(error)) => {
                    assert_eq!((error, one.item.cancel.is_cancelled()), (RunError::Cancelled, true));
                    ended += 1;
                    false
                }
                Stepped::Ended(Ok(finish)) => {
                    let (latents, product) = &known[one.plan.input];
                    let largest = latents.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
                    let apart = one.last.iter().zip(latents).fold(0_f32, |apart, (a, b)| apart.max((a - b).abs()));
                    assert!(apart <= 1e-4 * largest, "{:?}: {apart} of {largest}", one.plan);
                    let made = finish().unwrap();
                    assert_eq!(made.outputs.len(), product.outputs.len());
                    for (one, other) in made.outputs.iter().zip(&product.outputs) {
                        assert!(furthest(one, other) <= 1);
                    }
                    ended += 1;
                    false
                }
            }
        });
    }
    assert_eq!(ended, plans.len());
    assert!(engine.jobs.is_empty());
}

#[test]
fn a_picture_does_not_depend_on_its_company() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let known = alone(&mut engine);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let engine = std::cell::RefCell::new(engine);
    let schedule = (plans(), 1_usize..12);
    runner
        .run(&schedule, |(plans, most)| {
            live(&mut engine.borrow_mut(), &plans, most, &known);
            Ok(())
        })
        .unwrap();
}

#[test]
fn four_together_are_as_each_alone() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let known = alone(&mut engine);
    let plan = |input| Plan { input, joins: input, cancelled: None };
    let plans: Vec<_> = (0..4).map(plan).collect();
    live(&mut engine, &plans, usize::MAX, &known);
    let results = engine.run(&inputs().into_iter().map(item).collect::<Vec<_>>());
    for (result, (_, product)) in results.into_iter().zip(known) {
        for (one, other) in result.unwrap().outputs.iter().zip(&product.outputs) {
            assert!(furthest(one, other) <= 1);
        }
    }
}

#[test]
fn what_is_cancelled_has_no_further_pass() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    engine.pipeline.room.set_most(1);
    let items = [json!({"prompt": "a cat"}), json!({"prompt": "a dog", "num_images": 2})].map(item);
    let tickets = items.each_ref().map(|item| engine.begin(item.clone()).unwrap());
    let dtype = engine.pipeline.dtype;
    let blocks: Vec<_> = tickets.iter().flat_map(|ticket| engine.jobs[ticket].blocks(dtype).unwrap()).collect();
    items[0].cancel.cancel();
    let guesses = engine.pipeline.guess(&blocks);
    let told: Vec<_> = guesses.iter().map(|guess| guess.as_ref().ok().map(|guess| guess.dim(0).unwrap())).collect();
    assert_eq!(told, [None, None, Some(2), Some(2)]);
    let stepped = engine.step(&tickets);
    assert!(matches!(stepped[0], Stepped::Ended(Err(RunError::Cancelled))), "{stepped:?}");
}

#[test]
fn jobs_that_end_together_are_decoded_one_after_the_other() {
    let (_dir, model) = made();
    let mut engine = load_cpu(&model).unwrap();
    let tickets = [1, 2].map(|seed| engine.begin(item(json!({"prompt": "a cat", "seed": seed, "steps": 1}))).unwrap());
    assert!(engine.step(&tickets).iter().all(|one| matches!(one, Stepped::Running(_))));
    let stepped = engine.step(&tickets);
    assert!(matches!(stepped[..], [Stepped::Ended(Ok(_)), Stepped::Running(_)]), "{stepped:?}");
    assert!(matches!(engine.step(&tickets[1..])[..], [Stepped::Ended(Ok(_))]));
}
