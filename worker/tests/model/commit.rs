//! The commit and the last word: answers that get lost, stores that keep no conditions, messages that come twice.

use millrace_api::JobStatus;
use millrace_aws_model::{ConditionalWrites, Effect, Event, Operation, Refusal, Rule};
use serde_json::json;

use crate::lab::Lab;
use crate::program;

const ENDED: &str = "millrace_worker_jobs_total";

#[tokio::test]
async fn a_record_whose_answer_was_lost_is_its_own() {
    let lab = Lab::new(5).await;
    lab.inject(vec![Rule::on(Operation::PutObject, Effect::DropAfter).named(".record.json").nth(1)]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send("x").await;
    lab.drained().await;
    assert_eq!(lab.model.injected(), [1]);
    assert_eq!((lab.puts(&id), lab.find(&id).unwrap().attempt), (1, 1));
    worker.until_busy(0).await;
    assert!(
        (worker.counter(ENDED, &[r#"outcome="completed""#]).await - 1.0).abs() < 1e-9,
        "it was taken for another's"
    );
}

#[tokio::test]
async fn a_redelivery_after_a_lost_ack_costs_no_inference() {
    let lab = Lab::new(5).await;
    // SQS takes no delete for as long as the worker tries
    let deaf = Rule::on(Operation::DeleteMessageBatch, Effect::FailEntries { share: 1.0, done: 0.0 }).calls(1..=6);
    lab.inject(vec![deaf]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send("x").await;
    lab.drained().await;
    assert_eq!(lab.model.injected(), [6]);
    assert_eq!(lab.puts(&id), 1);
    worker.until_busy(0).await;
    assert!((worker.counter(ENDED, &[r#"outcome="already_done""#]).await - 1.0).abs() < 1e-9);
    assert!((worker.counter("millrace_worker_batch_size_count", &[]).await - 1.0).abs() < 1e-9, "inferred twice");
}

#[tokio::test]
async fn only_entries_that_failed_are_deleted_again() {
    let lab = Lab::new(5).await;
    lab.inject(vec![
        Rule::on(Operation::DeleteMessageBatch, Effect::FailEntries { share: 0.5, done: 0.5 }).chance(0.7),
    ]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let jobs: Vec<_> = (0..200).map(|n| (None, format!("job {n}"))).collect();
    lab.send_all(&jobs).await;
    lab.drained().await;
    assert!(lab.model.injected()[0] > 10, "{:?}", lab.model.injected());
    worker.until_busy(0).await;
    assert!((worker.counter(ENDED, &[r#"outcome="completed""#]).await - 200.0).abs() < 1e-9);
    // an entry that was done and called a failure is repeated, one that was called done is not
    let again = lab.count(|event| matches!(event, Event::DeleteIgnored { .. }));
    let failed = lab.model.injected()[0] as usize;
    assert!(again <= failed, "{again} entries were deleted again, {failed} had failed");
}

#[tokio::test]
async fn s3_that_throttles_races_and_fails_is_waited_out() {
    let lab = Lab::new(5).await;
    let on = |refusal, chance| Rule::on(Operation::PutObject, Effect::Refuse(refusal)).named(".json").chance(chance);
    lab.inject(vec![
        on(Refusal::SlowDown, 0.3),
        on(Refusal::ConditionalRequestConflict, 0.2),
        on(Refusal::InternalError, 0.2),
    ]);
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let jobs: Vec<_> = (0..40).map(|n| (None, format!("job {n}"))).collect();
    lab.send_all(&jobs).await;
    lab.drained().await;
    assert!(lab.model.injected().iter().all(|n| *n > 0), "{:?}", lab.model.injected());
    worker.until_busy(0).await;
    assert!((worker.counter(ENDED, &[r#"outcome="completed""#]).await - 40.0).abs() < 1e-9);
    assert!(
        (worker.counter("millrace_worker_batch_size_sum", &[]).await - 40.0).abs() < 1e-9,
        "computed more than once"
    );
}

#[tokio::test]
async fn a_store_without_conditions_is_refused_unless_that_is_wanted() {
    for mode in [ConditionalWrites::Ignored, ConditionalWrites::NotImplemented] {
        let lab = Lab::new(5).await;
        lab.model.conditional_writes(mode);
        let mut strict = program::start(&lab, "strict", json!({}));
        let message = strict.until_problem("ConditionalWritesUnsupported").await;
        assert!(message.contains("output.conditionalWrites to BestEffort"), "{message}");
        assert!(!strict.state().await.ready);

        let mut lax = program::start(&lab, "lax", json!({ "output": { "conditionalWrites": "BestEffort" } }));
        lax.until_ready().await;
        let body = json!({ "job_id": "j", "input": { "n": 1 } });
        lab.send(&body).await;
        lab.drained().await;
        lab.send(&body).await;
        lab.drained().await;
        assert_eq!((lab.puts("j"), lab.find("j").unwrap().status), (1, JobStatus::Completed));
    }
}

#[tokio::test]
async fn a_message_that_is_redriven_under_a_new_id_is_the_same_job() {
    let lab = Lab::new(5).await;
    let mut worker = program::start(&lab, "a", json!({}));
    worker.until_ready().await;
    let id = lab.send(json!({ "milliseconds": "soon" })).await;
    lab.drained().await;
    assert_eq!(lab.dead().messages.len(), 1);
    // what a worker sent to the dead-letter queue has no source that SQS knows of, so the destination is named
    let arn = |name: &str| format!("arn:aws:sqs:us-east-1:000000000000:{name}");
    let redrive = lab.sqs.start_message_move_task().source_arn(arn("jobs-dead")).destination_arn(arn("jobs"));
    redrive.send().await.unwrap();
    crate::wait::until_true("a second attempt", async || lab.puts(&id) == 2).await;
    lab.drained().await;
    let record = lab.find(&id).unwrap();
    assert_eq!(record.status, JobStatus::Failed);
    assert_ne!(record.message_id, id, "SQS gives a redriven message a new id");
    assert_eq!(lab.dead().messages.len(), 1);
}
