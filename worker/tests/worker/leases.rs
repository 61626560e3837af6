//! Leases: renewed for as long as a job takes, given up when SQS says that the message is gone, and no harm done when two
//! workers compute the same job.

use millrace_api::JobStatus;
use serde_json::json;

use crate::lab::{self, record_key};
use crate::program;

const ENDED: &str = "millrace_worker_jobs_total";

#[tokio::test]
async fn a_job_longer_than_its_lease_is_computed_once() {
    lab::with("long-job", async |lab| {
        let settings = json!({ "queue": { "visibilityTimeoutSeconds": 10 } });
        let mut busy = program::start(lab, "busy", settings.clone());
        busy.until_ready().await;
        let message_id = lab.send(json!({ "prompt": "x", "milliseconds": 25_000 })).await;
        busy.until_busy(1).await;
        let mut idle = program::start(lab, "idle", settings);
        idle.until_ready().await;

        let record = lab.record(&message_id).await;
        assert_eq!((record.attempt, record.worker.as_str()), (1, "busy"));
        lab.drained().await;
        assert_eq!(lab.keys().await, [record_key(&message_id)]);
        // it polled all the while and was given nothing
        assert!(idle.counter(ENDED, &[]).await.abs() < 1e-9);
        assert_eq!(idle.state().await.busy, 0);
    })
    .await;
}

#[tokio::test]
async fn a_job_that_two_workers_compute_has_one_record() {
    lab::with("race", async |lab| {
        let (mut one, mut two) = (program::start(lab, "one", json!({})), program::start(lab, "two", json!({})));
        one.until_ready().await;
        two.until_ready().await;
        let body = json!({ "job_id": "same", "input": { "prompt": "x", "milliseconds": 3000 } });
        tokio::join!(lab.send(&body), lab.send(&body));

        assert_eq!(lab.record("same").await.status, JobStatus::Completed);
        lab.drained().await;
        assert_eq!(lab.keys().await, [record_key("same")]);
        let mut ended = [0.0, 0.0];
        for worker in [&mut one, &mut two] {
            worker.until_state("nothing held", |state| state.busy == 0).await;
            ended[0] += worker.counter(ENDED, &[r#"outcome="completed""#]).await;
            ended[1] += worker.counter(ENDED, &[r#"outcome="already_done""#]).await;
        }
        assert!(ended.iter().all(|count| (count - 1.0).abs() < 1e-9), "completed, already done: {ended:?}");
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_gone_is_given_up_and_the_worker_goes_on() {
    lab::with("lost", async |lab| {
        let settings = json!({ "queue": { "visibilityTimeoutSeconds": 10 } });
        let mut worker = program::start(lab, "a", settings);
        worker.until_ready().await;
        // longer than any test waits: the job ends only if it is given up
        let lost = lab.send(json!({ "prompt": "x", "milliseconds": 3_600_000 })).await;
        worker.until_busy(1).await;
        lab.sqs.purge_queue().queue_url(lab.queue()).send().await.unwrap();
        worker.until_busy(0).await;
        assert!((worker.counter(ENDED, &[r#"outcome="lease_lost""#]).await - 1.0).abs() < 1e-9);

        let next = lab.send("next").await;
        assert_eq!(lab.record(&next).await.status, JobStatus::Completed);
        lab.drained().await;
        assert!(lab.find(&record_key(&lost)).await.is_none());
        assert!(worker.log().contains(&lost) && !worker.log().contains("panicked"));
    })
    .await;
}
