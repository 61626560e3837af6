//! The operator has a worker drain: it finishes what it holds, takes nothing new, and burns no receive.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use millrace_api::{Activity, JobStatus, WorkerState};
use millrace_aws_model::{Effect, Event, Operation, Rule};
use millrace_worker::config;
use millrace_worker::drain::resume_when_lapsed;
use millrace_worker::metrics::Metrics;
use millrace_worker::receive::Receiver;
use millrace_worker::slots::{Outlook, Slots};
use millrace_worker::state::State;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::lab::{Lab, QUEUE};
use crate::program::{self, Answer, drained_by};
use crate::wait::until_true;

fn state(answer: &Answer) -> WorkerState {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

fn receives(lab: &Lab) -> usize {
    lab.count(|event| matches!(event, Event::Received { .. }))
}

#[tokio::test]
async fn a_drained_worker_finishes_its_job_and_takes_no_other_until_it_may() {
    let lab = Lab::new(5).await;
    let key = Ed25519KeyPair::generate().unwrap();
    // room for one job: while it runs, no poll is under way
    let settings = json!({ "drain": drained_by(&key), "model": { "batch": { "maxSize": 1 } } });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;
    let held = lab.send(json!({ "milliseconds": 8000 })).await;
    worker.until_state("busy, no poll under way", |state| state.busy == 1 && state.receiving == 0).await;

    let told = state(&worker.drain("POST", &key).await);
    assert!(told.ready && told.draining && told.busy == 1, "{told:?}");
    assert_eq!(told.activity, Activity::Draining);
    let waiting = [lab.send("x").await, lab.send("y").await];
    worker.until_state("drained", |state| state.activity == Activity::Drained).await;
    assert_eq!(lab.find(&held).unwrap().status, JobStatus::Completed);
    assert_eq!(worker.get("/readyz").await.unwrap().status, 200, "unready pods are deleted first, busy or not");
    // renewed; time for a poll that must not be
    state(&worker.drain("POST", &key).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = worker.state().await;
    assert_eq!((seen.activity, seen.receiving, seen.empty_since), (Activity::Drained, 0, None));
    assert_eq!((receives(&lab), lab.queue().visible), (1, 2));

    let resumed = state(&worker.drain("DELETE", &key).await);
    assert!(!resumed.draining, "{resumed:?}");
    lab.drained().await;
    assert!(waiting.iter().all(|id| lab.find(id).unwrap().attempt == 1));
    let log = worker.log();
    for once in ["the operator has it drain", "the operator took the drain back"] {
        assert_eq!(log.matches(once).count(), 1, "{once}");
    }
}

#[tokio::test]
async fn what_a_poll_under_way_brings_to_a_drained_worker_is_done() {
    let lab = Lab::new(5).await;
    let key = Ed25519KeyPair::generate().unwrap();
    let seconds = Duration::from_secs(6);
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::Late(seconds..=seconds))]);
    let mut worker = program::start(&lab, "a", json!({ "drain": drained_by(&key) }));
    worker.until_ready().await;
    let ids = [lab.send("x").await, lab.send("y").await];
    until_true("received, the answer under way", async || lab.queue().in_flight > 0).await;
    let told = state(&worker.drain("POST", &key).await);
    assert_eq!((told.activity, told.busy, told.receiving), (Activity::Draining, 0, 1));
    let done = worker.until_state("drained", |state| state.activity == Activity::Drained).await;

    // SQS may have given one of them to that poll, or both; what it gave was done at once
    let queue = lab.queue();
    assert_eq!((done.completed as usize, queue.in_flight), (receives(&lab), 0), "{:?}", queue.messages);
    assert!(queue.messages.iter().all(|message| message.receive_count == 0), "{:?}", queue.messages);
    let attempts: Vec<_> = ids.iter().filter_map(|id| lab.find(id)).map(|record| record.attempt).collect();
    assert!(!attempts.is_empty() && attempts.iter().all(|attempt| *attempt == 1), "{attempts:?}");
}

#[tokio::test]
async fn a_drain_that_nobody_renews_lapses() {
    let lab = Lab::new(5).await;
    let config = config::parse(&lab.settings(json!({})).to_string(), "worker.yaml".as_ref()).unwrap();
    let state = Arc::new(State::new("w".into(), 1));
    state.set_loaded();
    let receiver = Receiver {
        sqs: lab.sqs.clone(),
        queue_url: config.worker.queue.url.clone(),
        ordered: false,
        visibility: Duration::from_mins(1),
        poll: Duration::from_secs(1),
        slots: Slots::new(1, Outlook::default()),
        state: Arc::clone(&state),
        metrics: Arc::new(Metrics::new(&config.worker)),
        pulse: Arc::default(),
    };
    state.drain(tokio::time::Instant::now() + Duration::from_secs(3));
    lab.send("x").await;
    let stop = CancellationToken::new();
    let receiving = receiver.run(
        stop.clone(),
        |message, _| {
            assert!(!state.standing().drains(), "{} was received by a drained worker", message.id);
            stop.cancel();
        },
        async |late| assert!(late.is_empty(), "{late:?}"),
    );
    tokio::select! {
        () = receiving => {}
        () = resume_when_lapsed(Arc::clone(&state)) => {}
        () = tokio::time::sleep(Duration::from_secs(100)) => panic!("nothing was received from {QUEUE}"),
    }
    assert_eq!((receives(&lab), state.standing().polls), (1, 0));
}
