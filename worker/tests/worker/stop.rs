//! SIGTERM: what can be finished is finished, the rest is back in the queue at once, and the exit code is 0.

use millrace_api::JobStatus;
use serde_json::{Value, json};

use crate::lab::{self, Lab};
use crate::program::{self, Signal, Worker};

/// A lease that outlasts every wait here: a message that comes back meanwhile was given back.
const LONG: u32 = 3600;

/// A worker that holds one job of `milliseconds`; gives the message's id.
async fn busy(lab: &Lab, grace_seconds: u32, milliseconds: u32) -> (Worker, String) {
    let settings: Value = json!({
        "queue": { "visibilityTimeoutSeconds": LONG },
        "shutdown": { "gracePeriodSeconds": grace_seconds },
    });
    let mut worker = program::start(lab, "a", settings);
    worker.until_ready().await;
    let message_id = lab.send(json!({ "prompt": "x", "milliseconds": milliseconds })).await;
    worker.until_busy(1).await;
    (worker, message_id)
}

#[tokio::test]
async fn a_job_that_fits_the_grace_period_is_finished() {
    lab::with("grace", async |lab| {
        let (mut worker, message_id) = busy(lab, 300, 6000).await;
        worker.stop().await;
        // comes too late to be received
        let late = lab.send("late").await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        let record = lab.record(&message_id).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1));
        let message = lab.take(&lab.queue()).await;
        assert_eq!(message.message_id.as_deref(), Some(late.as_str()));
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a_job_that_outlasts_the_grace_period_is_visible_again_at_once() {
    lab::with("short-grace", async |lab| {
        let (mut worker, message_id) = busy(lab, 1, 3_600_000).await;
        worker.signal(Signal::Term).await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        is_given_back(lab, &message_id).await;
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_period() {
    lab::with("hurried", async |lab| {
        let (mut worker, message_id) = busy(lab, LONG, 3_600_000).await;
        worker.stop().await;
        assert!(worker.get("/state").await.unwrap().body.contains(&message_id));
        worker.signal(Signal::Term).await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        is_given_back(lab, &message_id).await;
    })
    .await;
}

async fn is_given_back(lab: &Lab, message_id: &str) {
    assert_eq!(lab.take(&lab.queue()).await.message_id.as_deref(), Some(message_id));
    assert!(lab.keys().await.is_empty());
    assert_eq!(lab.count(&lab.dead_letters()).await, 0);
}

#[tokio::test]
async fn what_a_last_poll_brings_is_given_back() {
    lab::with("last-poll", async |lab| {
        let settings = json!({ "queue": { "visibilityTimeoutSeconds": LONG } });
        let mut worker = program::start(lab, "a", settings);
        worker.until_ready().await;
        worker.stop().await;
        let late = lab.send("late").await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        is_given_back(lab, &late).await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_cannot_start_stops_too() {
    lab::bare("not-ready", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        worker.until_problem("BucketNotFound").await;
        worker.signal(Signal::Term).await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        assert!(worker.log().contains("stopped before it was ready"), "{}", worker.log());
    })
    .await;
}
