//! Leases: lost ones end their work and commit nothing, heartbeats come in full batches, and SQS being away is no loss
//! where order is not promised.

use std::time::Duration;

use millrace_api::JobStatus;
use millrace_aws_model::{Effect, Event, Operation, Refusal, Rule};
use serde_json::json;

use crate::lab::Lab;
use crate::program;
use crate::wait::until_true;

const ENDED: &str = "millrace_worker_jobs_total";
/// Every operation by which a worker asks SQS for something.
const SQS: [Operation; 3] =
    [Operation::ReceiveMessage, Operation::DeleteMessageBatch, Operation::ChangeMessageVisibilityBatch];

#[tokio::test]
async fn a_lease_that_runs_out_ends_the_work_and_another_commits() {
    let lab = Lab::new(5).await;
    let alone = json!({ "model": { "batch": { "maxSize": 1 } } });
    let mut loser = program::start(&lab, "loser", alone.clone());
    loser.until_ready().await;
    let id = lab.send(json!({ "milliseconds": 20_000 })).await;
    loser.until_busy(1).await;
    let mut winner = program::start(&lab, "winner", alone);
    winner.until_ready().await;
    // as if the loser had been frozen: its lease is over at SQS before its next heartbeat
    lab.jump(Duration::from_secs(11));
    winner.until_busy(1).await;
    loser.until_busy(0).await;
    assert!((loser.counter(ENDED, &[r#"outcome="lease_lost""#]).await - 1.0).abs() < 1e-9);
    assert!((loser.counter("millrace_lease_losses_total", &[]).await - 1.0).abs() < 1e-9);
    assert!(loser.counter("millrace_wasted_inference_seconds_total", &[r#"outcome="lease_lost""#]).await > 0.0);
    let record = lab.record(&id).await;
    assert_eq!((record.status, record.worker.as_str(), record.attempt), (JobStatus::Completed, "winner", 2));
    lab.drained().await;
    assert_eq!(lab.puts(&id), 1);
    assert!((winner.counter("millrace_redeliveries_total", &[]).await - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn heartbeats_come_in_full_batches() {
    let lab = Lab::new(5).await;
    let jobs = 100;
    let settings = json!({ "model": { "batch": { "maxSize": jobs }, "parameters": { "milliseconds": 12_000 } } });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;
    let messages: Vec<_> = (0..jobs).map(|n| (None, format!("job {n}"))).collect();
    lab.send_all(&messages).await;
    lab.drained().await;
    worker.until_busy(0).await;
    let beats = lab.count(|event| matches!(event, Event::VisibilityChanged { .. }));
    let calls =
        worker.counter("millrace_worker_aws_requests_total", &[r#"operation="ChangeMessageVisibilityBatch""#]).await;
    assert!(beats >= 2 * jobs, "{beats} heartbeats for {jobs} jobs of two rounds and more");
    // 1,000 leases at 100 calls a round
    assert!(beats as f64 / calls > 8.0, "{beats} heartbeats in {calls} calls");
    assert_eq!(lab.count(|event| matches!(event, Event::Received { .. })), jobs, "some came twice");
}

#[tokio::test]
async fn a_heartbeat_that_fails_in_part_is_tried_again() {
    let lab = Lab::new(5).await;
    let failing = Effect::FailEntries { share: 0.4, done: 0.0 };
    lab.inject(vec![Rule::on(Operation::ChangeMessageVisibilityBatch, failing)]);
    let settings = json!({ "model": { "parameters": { "milliseconds": 22_000 } } });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;
    let messages: Vec<_> = (0..12).map(|n| (None, format!("job {n}"))).collect();
    lab.send_all(&messages).await;
    lab.drained().await;
    assert!(lab.model.injected()[0] > 5);
    worker.until_busy(0).await;
    assert!((worker.counter(ENDED, &[r#"outcome="completed""#]).await - 12.0).abs() < 1e-9);
    assert!(worker.counter("millrace_lease_losses_total", &[]).await.abs() < 1e-9);
}

#[tokio::test]
async fn an_outage_of_sqs_longer_than_the_lease_costs_no_work() {
    let lab = Lab::new(5).await;
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send(json!({ "milliseconds": 16_000 })).await;
    worker.until_busy(1).await;
    lab.inject(vec![Rule::on_any(SQS, Effect::Refuse(Refusal::ServiceUnavailable))]);
    // committed while SQS is still away, and long after the lease ran out
    let record = lab.record(&id).await;
    assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1));
    assert!(!worker.state().await.problems.is_empty());
    lab.inject(vec![]);
    lab.drained().await;
    assert_eq!(lab.puts(&id), 1);
    worker.until_state("well again", |state| state.problems.is_empty() && state.busy == 0).await;
    assert!((worker.counter("millrace_worker_batch_size_sum", &[]).await - 1.0).abs() < 1e-9, "computed twice");
}

#[tokio::test]
async fn on_a_fifo_queue_a_lease_that_runs_out_is_lost() {
    let lab = Lab::fifo(5).await;
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send_to("g", json!({ "milliseconds": 3_600_000 })).await;
    worker.until_busy(1).await;
    lab.inject(vec![Rule::on_any(SQS, Effect::Refuse(Refusal::ServiceUnavailable))]);
    worker.until_busy(0).await;
    assert!((worker.counter("millrace_lease_losses_total", &[r#"reason="expired""#]).await - 1.0).abs() < 1e-9);
    assert!(lab.find(&id).is_none());
}

#[tokio::test]
async fn a_stale_handle_neither_deletes_nor_commits_twice() {
    let lab = Lab::new(20).await;
    let early = Duration::from_millis(50)..=Duration::from_millis(400);
    lab.inject(vec![Rule::on(Operation::ReceiveMessage, Effect::StaleHandle { share: 0.3, after: early })]);
    let mut workers = [program::start(&lab, "a", json!({})), program::start(&lab, "b", json!({}))];
    for worker in &mut workers {
        worker.until_ready().await;
    }
    let messages: Vec<_> = (0..60).map(|n| (None, json!({ "milliseconds": 10 * (n % 40) }).to_string())).collect();
    lab.send_all(&messages).await;
    lab.drained().await;
    assert!(lab.model.injected()[0] > 5, "{:?}", lab.model.injected());
    let mut completed = 0.0;
    for worker in &mut workers {
        worker.until_busy(0).await;
        completed += worker.counter(ENDED, &[r#"outcome="completed""#]).await;
    }
    assert!((completed - 60.0).abs() < 1e-9, "{completed} commits of 60 jobs");
    until_true("nothing comes back", async || lab.queue().messages.is_empty()).await;
}
