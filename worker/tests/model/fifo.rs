//! FIFO queues: order within a group, groups side by side, whatever happens to workers and answers. The model keeps to
//! SQS's semantics, and each seed is another run.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_api::JobStatus;
use millrace_aws_model::{Effect, Event, Operation, Refusal, Rule};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::lab::{Lab, seed, soaking};
use crate::program::{self, Signal};
use crate::wait::until_true;

const GROUPS: usize = 6;
const EACH: usize = 12;
const BATCHES: &str = "millrace_worker_batch_size_count";

/// Sends to every group in turn; gives each group's message ids in order.
async fn send(lab: &Lab, body: impl Fn(usize, usize) -> String) -> BTreeMap<String, Vec<String>> {
    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for n in 0..EACH {
        for group in 0..GROUPS {
            let name = format!("group-{group}");
            let id = lab.send_to(&name, body(group, n)).await;
            sent.entry(name).or_default().push(id);
        }
    }
    sent
}

/// The ids of committed jobs, in the order of their commits.
fn commits(lab: &Lab) -> Vec<String> {
    let record = |event: Event| match event {
        Event::Put { key, .. } => key.strip_prefix("out/")?.strip_suffix(".record.json").map(str::to_owned),
        _ => None,
    };
    lab.model.journal().into_iter().filter_map(|entry| record(entry.event)).collect()
}

async fn run(seed: u64) {
    let lab = Lab::with(seed, 1000, true).await;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let soon = Duration::from_millis(10)..=Duration::from_millis(300);
    lab.inject(vec![
        Rule::on(Operation::ReceiveMessage, Effect::DropAfter).chance(0.05),
        Rule::on(Operation::ReceiveMessage, Effect::Late(soon.clone())).chance(0.2),
        Rule::on(Operation::ReceiveMessage, Effect::Refuse(Refusal::InternalError)).chance(0.05),
        Rule::on(Operation::DeleteMessageBatch, Effect::FailEntries { share: 0.3, done: 0.5 }).chance(0.3),
        Rule::on(Operation::DeleteMessageBatch, Effect::DropAfter).chance(0.1),
        Rule::on(Operation::PutObject, Effect::DropAfter).named(".record.json").chance(0.1),
        Rule::on(Operation::PutObject, Effect::Slow(soon)).chance(0.2),
    ]);
    let settings = json!({ "model": { "batch": { "maxSize": 4 } } });
    let start = |n: usize| program::start(&lab, &format!("w{n}"), settings.clone());
    let mut workers: Vec<_> = (0..3).map(start).collect();
    for worker in &mut workers {
        worker.until_ready().await;
    }
    let milliseconds = rng.random_range(1..60);
    let sent = send(&lab, |group, n| json!({ "milliseconds": milliseconds, "group": group, "n": n }).to_string()).await;
    for n in 3..6 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
        let victim = rng.random_range(0..workers.len());
        let how = if rng.random_bool(0.5) { Signal::Kill } else { Signal::Term };
        workers[victim].signal(how).await;
        workers[victim].ended().await;
        workers[victim] = start(n);
    }
    lab.drained().await;

    let commits = commits(&lab);
    for (group, ids) in &sent {
        let order: Vec<_> = commits.iter().filter(|id| ids.contains(id)).collect();
        assert_eq!(order, ids.iter().collect::<Vec<_>>(), "{group}, MILLRACE_SEED={seed}");
        for id in ids {
            assert_eq!((lab.puts(id), lab.find(id).unwrap().status), (1, JobStatus::Completed), "MILLRACE_SEED={seed}");
        }
    }
    assert!(lab.dead().messages.is_empty());
}

#[tokio::test]
async fn order_within_a_group_holds_whatever_happens() {
    let first = seed();
    for n in 0..if soaking() { 20 } else { 2 } {
        run(first.wrapping_add(n)).await;
    }
}

#[tokio::test]
async fn a_head_that_is_held_blocks_only_its_group() {
    let lab = Lab::fifo(5).await;
    let mut worker = program::start(&lab, "a", json!({ "model": { "batch": { "maxSize": 4 } } }));
    worker.until_ready().await;
    // never ends by itself: its group waits behind it
    let head = lab.send_to("stuck", json!({ "milliseconds": 3_600_000, "deadline": "2100-01-01T00:00:00Z" })).await;
    let behind = lab.send_to("stuck", "behind").await;
    worker.until_state("busy with the head", |state| state.jobs.iter().any(|job| job.job_id == head)).await;
    // a poll that was to fill up its batch would bring what comes now, too late
    until_true("its batch runs", async || worker.counter(BATCHES, &[]).await > 0.0).await;
    worker.until_state("no poll under way", |state| state.receiving == 0).await;
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(lab.send_to(&format!("other-{}", n % 4), format!("job {n}")).await);
    }
    // a batch of its own would wait for the head; another worker has room
    let mut second = program::start(&lab, "b", json!({}));
    second.until_ready().await;
    until_true("the other groups are done", async || others.iter().all(|id| lab.find(id).is_some())).await;
    assert!(lab.find(&head).is_none() && lab.find(&behind).is_none());
    worker.signal(Signal::Term).await;
}

#[tokio::test]
async fn what_can_never_run_goes_to_the_dead_letter_queue_in_its_group() {
    let lab = Lab::fifo(5).await;
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let bad = lab.send_to("g", json!({ "milliseconds": "soon" })).await;
    let good = lab.send_to("g", "after it").await;
    lab.drained().await;
    assert_eq!(lab.find(&bad).unwrap().status, JobStatus::Failed);
    assert_eq!(lab.find(&good).unwrap().status, JobStatus::Completed);
    let dead = lab.dead().messages;
    assert_eq!((dead.len(), dead[0].group.as_deref()), (1, Some("g")));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    let lab = Lab::fifo(5).await;
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::DropAfter).calls(1..=50).chance(1.0)]);
    let id = lab.send_to("g", "x").await;
    let mut worker = program::start(&lab, "a", json!({ "queue": { "visibilityTimeoutSeconds": 3600 } }));
    until_true("an answer was lost", async || lab.queue().in_flight == 1).await;
    lab.inject(vec![]);
    worker.until_ready().await;
    // hidden for an hour, and yet done: the receive was repeated under its attempt id
    let record = lab.record(&id).await;
    assert_eq!(record.status, JobStatus::Completed);
    lab.drained().await;
}
