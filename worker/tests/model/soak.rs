//! The soak: many messages, faults at every boundary, workers killed all the while. Nothing lost, nothing committed twice,
//! nothing wrong. Ten thousand messages; a hundred thousand by `make soak`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::lab::{Lab, seed, soaking};
use crate::ledger::{self, Due};
use crate::program::{self, Signal, Worker};

/// A job's id and a message's body.
type Sent = (Option<String>, String);

const WORKERS: usize = 3;
/// Between two deaths.
const LIFE: std::ops::Range<u64> = 2_000..6_000;
/// No run takes longer, or it hangs.
const LONGEST: Duration = Duration::from_mins(20);

/// Something goes wrong wherever worker and AWS meet.
fn faults() -> Vec<Rule> {
    let ms = Duration::from_millis;
    let on = Rule::on;
    vec![
        on(Operation::ReceiveMessage, Effect::Refuse(Refusal::RequestThrottled)).chance(0.01),
        on(Operation::ReceiveMessage, Effect::DropBefore).chance(0.005),
        on(Operation::ReceiveMessage, Effect::DropAfter).chance(0.005),
        on(Operation::ReceiveMessage, Effect::Late(ms(20)..=ms(500))).chance(0.02),
        on(Operation::ReceiveMessage, Effect::Duplicate(0.02)).chance(0.1),
        on(Operation::ReceiveMessage, Effect::StaleHandle { share: 0.02, after: ms(5)..=ms(300) }),
        on(Operation::DeleteMessageBatch, Effect::Refuse(Refusal::InternalError)).chance(0.01),
        on(Operation::DeleteMessageBatch, Effect::DropAfter).chance(0.01),
        on(Operation::DeleteMessageBatch, Effect::FailEntries { share: 0.2, done: 0.5 }).chance(0.1),
        on(Operation::ChangeMessageVisibilityBatch, Effect::FailEntries { share: 0.2, done: 0.5 }).chance(0.2),
        on(Operation::ChangeMessageVisibilityBatch, Effect::Refuse(Refusal::RequestThrottled)).chance(0.1),
        on(Operation::PutObject, Effect::Refuse(Refusal::SlowDown)).chance(0.005),
        on(Operation::PutObject, Effect::Refuse(Refusal::ConditionalRequestConflict)).chance(0.005),
        on(Operation::PutObject, Effect::DropBefore).chance(0.002),
        on(Operation::PutObject, Effect::DropAfter).chance(0.005),
        on(Operation::PutObject, Effect::Slow(ms(5)..=ms(300))).chance(0.01),
        on(Operation::GetObject, Effect::Refuse(Refusal::ServiceUnavailable)).chance(0.01),
        on(Operation::GetObject, Effect::DropBefore).chance(0.01),
        on(Operation::SendMessage, Effect::Refuse(Refusal::InternalError)).chance(0.05),
        on(Operation::GetQueueAttributes, Effect::LyingCounts(50)),
    ]
}

/// Messages in the shapes that producers send, and what each job must come to.
fn messages(count: usize) -> (Vec<Sent>, BTreeMap<String, Due>) {
    let mut messages = Vec::with_capacity(count);
    let mut due = BTreeMap::new();
    for n in 0..count {
        let id = format!("job-{n}");
        let (body, comes_to) = match n % 100 {
            0 => (format!("{{\"cut short {n}"), Due::Failed("InvalidInput")),
            1..=20 => {
                let input = json!({ "n": n, "milliseconds": n % 7 });
                (input.to_string(), Due::Value(input))
            }
            21..=25 => {
                let inputs = json!([format!("a {n}"), format!("b {n}")]);
                (json!({ "job_id": id, "inputs": inputs }).to_string(), Due::Value(inputs))
            }
            _ => (format!("text {n}"), Due::Value(Value::from(format!("text {n}")))),
        };
        // sent twice, as producers do whose answer got lost
        for _ in 0..if n % 50 == 7 { 2 } else { 1 } {
            messages.push((Some(id.clone()), body.clone()));
        }
        due.insert(id, comes_to);
    }
    (messages, due)
}

fn start(lab: &Lab, n: usize) -> Worker {
    program::start(lab, &format!("w{n}"), json!({ "model": { "batch": { "maxSize": 64 } } }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_committed_twice() {
    let seed = seed();
    let count = if soaking() { 100_000 } else { 10_000 };
    let lab = Lab::with(seed, 1000, false).await;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (messages, due) = messages(count);
    lab.send_all(&messages).await;
    lab.inject(faults());

    let began = Instant::now();
    let mut workers: Vec<_> = (0..WORKERS).map(|n| start(&lab, n)).collect();
    let (mut deaths, mut told) = (0, 0);
    while !lab.is_empty() {
        assert!(began.elapsed() < LONGEST, "{} messages are left, MILLRACE_SEED={seed}", lab.queue().messages.len());
        tokio::time::sleep(Duration::from_millis(rng.random_range(LIFE))).await;
        let done = lab.records();
        eprintln!("{:>4} s: {done} of {count} jobs have a record", began.elapsed().as_secs());
        if done + count / 50 > count {
            // the last ones are left in peace, as some of them wait for a lease to end
            continue;
        }
        let victim = rng.random_range(0..WORKERS);
        let how = if rng.random_bool(0.7) { Signal::Kill } else { Signal::Term };
        match how {
            Signal::Kill => deaths += 1,
            Signal::Term => told += 1,
        }
        workers[victim].signal(how).await;
        workers[victim].ended().await;
        workers[victim] = start(&lab, WORKERS + deaths + told);
    }
    let struck = lab.model.injected();
    let totals = ledger::balance(&lab, &due);
    let rules = faults();
    for (rule, struck) in rules.iter().zip(&struck) {
        // heartbeats are few where jobs are short, and a queue's attributes are asked for by operators
        let rare = [Operation::ChangeMessageVisibilityBatch, Operation::GetQueueAttributes, Operation::SendMessage];
        assert!(*struck > 0 || rare.contains(&rule.operations[0]), "never struck: {rule:?}");
    }
    eprintln!(
        "{count} jobs by {} messages in {} s, {deaths} workers killed, {told} told to stop, {} faults: {totals:?}, MILLRACE_SEED={seed}",
        messages.len(),
        began.elapsed().as_secs(),
        struck.iter().sum::<u64>(),
    );
}
