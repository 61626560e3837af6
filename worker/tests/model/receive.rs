//! Receiving: polls that hang, answers that come late, messages that come twice, and never more than there is room for.

use std::time::Duration;

use millrace_aws_model::{Effect, Event, Operation, Refusal, Rule};
use serde_json::json;

use crate::lab::Lab;
use crate::program::{self, Signal};

const ENDED: &str = "millrace_worker_jobs_total";

#[tokio::test]
async fn a_poll_that_hangs_is_replaced() {
    let lab = Lab::new(5).await;
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::Hang).nth(1)]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send("x").await;
    lab.drained().await;
    assert_eq!((lab.model.injected(), lab.find(&id).unwrap().attempt), (vec![1], 1));
    assert_eq!(worker.get("/livez").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_that_comes_after_sigterm_is_given_back() {
    let lab = Lab::new(5).await;
    let seconds = Duration::from_secs(3);
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::Late(seconds..=seconds))]);
    let mut worker = program::start(&lab, "a", json!({ "queue": { "visibilityTimeoutSeconds": 3600 } }));
    worker.until_ready().await;
    let ids = [lab.send("x").await, lab.send("y").await];
    crate::wait::until_true("received, the answer under way", async || lab.queue().in_flight > 0).await;
    worker.signal(Signal::Term).await;
    assert!(worker.ended().await.success());
    let queue = lab.queue();
    assert_eq!((queue.in_flight, queue.visible), (0, 2), "{:?}", queue.messages);
    assert!(ids.iter().all(|id| lab.find(id).is_none()));
}

#[tokio::test]
async fn what_comes_too_late_at_its_last_receive_gets_a_record() {
    let lab = Lab::new(1).await;
    let seconds = Duration::from_secs(3);
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::Late(seconds..=seconds))]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send("x").await;
    crate::wait::until_true("received, the answer under way", async || lab.queue().in_flight > 0).await;
    worker.signal(Signal::Term).await;
    assert!(worker.ended().await.success());
    // SQS will not give it again, so the dead letter must not come without a word
    let error = lab.find(&id).unwrap().error.unwrap();
    assert_eq!(error.code, "WorkerStopped");
    assert_eq!(lab.queue().in_flight, 0);
}

#[tokio::test]
async fn errors_are_waited_out_and_forgotten() {
    let lab = Lab::new(5).await;
    lab.inject(vec![
        Rule::on(Operation::ReceiveMessage, Effect::Refuse(Refusal::RequestThrottled)).nth(1),
        Rule::on(Operation::ReceiveMessage, Effect::Refuse(Refusal::ServiceUnavailable)).nth(2),
        Rule::on(Operation::ReceiveMessage, Effect::DropBefore).nth(3),
    ]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_problem("QueueThrottled").await;
    let id = lab.send("x").await;
    lab.drained().await;
    assert_eq!(lab.find(&id).unwrap().attempt, 1);
    worker.until_state("well again", |state| state.problems.is_empty()).await;
    assert_eq!(lab.model.injected(), [1, 1, 1]);
}

#[tokio::test]
async fn a_message_that_comes_twice_is_committed_once() {
    let lab = Lab::new(50).await;
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::Duplicate(0.5))]);
    let mut workers = [program::start(&lab, "a", json!({})), program::start(&lab, "b", json!({}))];
    for worker in &mut workers {
        worker.until_ready().await;
    }
    let jobs: Vec<_> = (0..100).map(|n| (None, json!({ "milliseconds": 20 * (n % 5) }).to_string())).collect();
    lab.send_all(&jobs).await;
    let sent = lab.count(|event| matches!(event, Event::Sent { .. }));
    lab.drained().await;
    assert!(lab.model.injected()[0] > 10, "{:?}", lab.model.injected());
    let mut completed = 0.0;
    for worker in &mut workers {
        worker.until_busy(0).await;
        completed += worker.counter(ENDED, &[r#"outcome="completed""#]).await;
    }
    assert_eq!(sent, 100);
    assert!((completed - 100.0).abs() < 1e-9, "{completed} were committed");
    assert!(lab.dead().messages.is_empty());
}

#[tokio::test]
async fn nothing_is_received_without_room_for_it() {
    let lab = Lab::new(2).await;
    let settings = json!({ "model": { "batch": { "maxSize": 3 }, "parameters": { "milliseconds": 7000 } } });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;
    let jobs: Vec<_> = (0..9).map(|n| (None, format!("job {n}"))).collect();
    lab.send_all(&jobs).await;
    let mut most = 0;
    crate::wait::until_true("the queue is empty", async || {
        let queue = lab.queue();
        most = most.max(queue.in_flight);
        queue.messages.is_empty()
    })
    .await;
    // three run, and shortly before they end three more are fetched
    assert!(most <= 6, "{most} were in flight");
    assert!(lab.dead().messages.is_empty(), "receives were burnt");
    assert_eq!(lab.count(|event| matches!(event, Event::Received { .. })), 9);
}
