//! A worker is killed in the midst of a job: another one has the job when the lease ends.

use millrace_api::JobStatus;
use serde_json::json;

use crate::lab::{self, record_key};
use crate::program::{self, Signal};

#[tokio::test]
async fn another_worker_does_the_job_of_one_that_was_killed() {
    lab::with("killed", async |lab| {
        let settings = json!({ "queue": { "visibilityTimeoutSeconds": 10 } });
        let mut first = program::start(lab, "first", settings.clone());
        first.until_ready().await;
        let message_id = lab.send(json!({ "prompt": "x", "milliseconds": 5000 })).await;
        first.until_busy(1).await;
        first.signal(Signal::Kill).await;
        assert!(!first.ended().await.success());
        assert!(lab.keys().await.is_empty());

        let _second = program::start(lab, "second", settings);
        let record = lab.record(&message_id).await;
        assert_eq!(record.status, JobStatus::Completed);
        assert_eq!((record.attempt, record.worker.as_str()), (2, "second"));
        lab.drained().await;
        assert_eq!(lab.keys().await, [record_key(&message_id)]);
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
    })
    .await;
}
