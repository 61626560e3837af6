//! Queue or bucket missing or out of reach, before and after the start: said in words, and well again by itself.

use millrace_api::JobStatus;
use serde_json::{Value, json};

use crate::lab;
use crate::program::{self, Worker};

/// Unready, with the reason and the thing at `/readyz`, in `/state` and in the log.
async fn is_unready(worker: &mut Worker, reason: &str, names: &[&str]) {
    let message = worker.until_problem(reason).await;
    let page = worker.get("/readyz").await.unwrap();
    assert_eq!(page.status, 503);
    assert!(!worker.state().await.ready);
    assert_eq!(worker.get("/livez").await.unwrap().status, 200);
    let log = worker.log();
    for name in names {
        assert!(message.contains(name), "{message:?} does not name {name:?}");
        assert!(page.body.contains(reason) && page.body.contains(name), "{page:?}");
        assert!(log.contains(reason) && log.contains(name), "{log}");
    }
}

#[tokio::test]
async fn waits_for_a_bucket_that_is_missing_at_the_start() {
    lab::bare("no-bucket", async |lab| {
        lab.create_queues().await;
        let mut worker = program::start(lab, "a", json!({}));
        let job = lab.send("x").await;
        is_unready(&mut worker, "BucketNotFound", &[&lab.name, "create it, or correct output.bucket"]).await;
        assert_eq!(lab.depth(&lab.queue()).await, (1, 0));

        lab.create_bucket().await;
        worker.until_ready().await;
        assert_eq!(lab.record(&job).await.attempt, 1);
        assert_eq!(worker.state().await.problems, []);
    })
    .await;
}

#[tokio::test]
async fn keeps_a_job_while_the_bucket_is_gone() {
    lab::with("bucket-gone", async |lab| {
        let mut worker = program::start(lab, "a", json!({ "queue": { "visibilityTimeoutSeconds": 10 } }));
        worker.until_ready().await;
        lab.delete_bucket().await;
        let job = lab.send("x").await;
        let message = worker.until_problem("BucketNotFound").await;
        assert!(message.contains(&lab.name), "{message}");
        // an outage is no reason to be unready: the busy would be the first to go
        assert_eq!(worker.get("/readyz").await.unwrap().status, 200);
        assert_eq!(lab.depth(&lab.queue()).await, (0, 1));

        lab.create_bucket().await;
        let record = lab.record(&job).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1));
        lab.drained().await;
        assert_eq!(worker.state().await.problems, []);
    })
    .await;
}

#[tokio::test]
async fn gives_a_job_back_when_it_stops_while_the_bucket_is_gone() {
    lab::with("bucket-stop", async |lab| {
        // a lease that outlasts every wait here: only what is given back can be received
        let settings = json!({
            "queue": { "visibilityTimeoutSeconds": 3600 },
            "shutdown": { "gracePeriodSeconds": 1 },
        });
        let mut worker = program::start(lab, "a", settings);
        worker.until_ready().await;
        lab.delete_bucket().await;
        let job = lab.send("x").await;
        worker.until_problem("BucketNotFound").await;
        worker.stop().await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        assert_eq!(lab.take(&lab.queue()).await.message_id.as_deref(), Some(job.as_str()));
    })
    .await;
}

#[tokio::test]
async fn waits_for_a_queue_that_is_missing_at_the_start() {
    lab::bare("no-queue", async |lab| {
        lab.create_bucket().await;
        let mut worker = program::start(lab, "a", json!({}));
        is_unready(&mut worker, "QueueNotFound", &[&lab.queue(), "create it, or correct queue.url"]).await;

        lab.create_queues().await;
        worker.until_ready().await;
        assert_eq!(lab.record(&lab.send("x").await).await.attempt, 1);
    })
    .await;
}

#[tokio::test]
async fn tells_a_queue_that_is_deleted_while_it_works() {
    lab::with("queue-gone", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        worker.until_ready().await;
        lab.sqs.delete_queue().queue_url(lab.queue()).send().await.unwrap();
        let message = worker.until_problem("QueueNotFound").await;
        assert!(message.contains(&lab.queue()), "{message}");
        assert_eq!(worker.get("/readyz").await.unwrap().status, 200);
    })
    .await;
}

#[tokio::test]
async fn tells_endpoints_that_nobody_answers_at() {
    lab::with("unreachable", async |lab| {
        // discard: nothing listens there on any machine of today
        let closed = "http://127.0.0.1:9";
        let settings = |part: &str| -> Value { json!({ part: { "endpoint": closed } }) };
        let mut deaf = program::start(lab, "deaf", settings("queue"));
        is_unready(&mut deaf, "QueueUnreachable", &[&lab.queue(), "check queue.endpoint"]).await;
        drop(deaf);
        let mut mute = program::start(lab, "mute", settings("output"));
        is_unready(&mut mute, "BucketUnreachable", &[&lab.name, "check output.endpoint"]).await;
    })
    .await;
}

#[tokio::test]
async fn tells_that_there_are_no_credentials() {
    lab::with("no-keys", async |lab| {
        let env = [("AWS_EC2_METADATA_DISABLED", "true")];
        let mut worker = program::start_with(lab, "a", json!({}), &env);
        is_unready(&mut worker, "CredentialsMissing", &["give the worker's ServiceAccount a role"]).await;
        let both = |state: &millrace_api::WorkerState| state.problems.len() == 2;
        let state = worker.until_state("queue and bucket at fault", both).await;
        assert!(state.problems.iter().all(|p| p.reason == "CredentialsMissing"), "{:?}", state.problems);
    })
    .await;
}

#[tokio::test]
async fn tells_a_port_that_is_taken() {
    lab::with("port", async |lab| {
        let taken = std::net::TcpListener::bind(("::", 0)).or_else(|_| std::net::TcpListener::bind("0.0.0.0:0"));
        let port = taken.as_ref().unwrap().local_addr().unwrap().port();
        let settings = lab.settings(json!({ "http": { "port": port } }));
        let config = program::write_config(lab, "taken", &settings);
        let ended = program::output(lab, &["run", "--config", config.to_str().unwrap()]).await;
        assert_eq!(ended.status.code(), Some(1));
        let log = String::from_utf8_lossy(&ended.stderr);
        assert!(log.contains(&format!("http.port: cannot listen on {port}")), "{log}");
    })
    .await;
}
