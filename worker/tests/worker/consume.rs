//! Every form of a message becomes its record; a job that was done is not done again.

use millrace_api::{JobStatus, ResultRecord};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::{self, CONSUMER, Lab, attribute, record_key};
use crate::program;

struct Case {
    body: String,
    form: &'static str,
    /// None: the message's.
    job_id: Option<&'static str>,
    value: Value,
    metadata: Value,
}

fn cases() -> Vec<Case> {
    let case = |body: Value, form, job_id, value, metadata| {
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        Case { body, form, job_id, value, metadata }
    };
    let task = json!({
        "entity_id": "e", "task_name": "draw", "task_config": { "prompt": "x" }, "metadata": { "user": 7 },
        "timestamp": 1_700_000_000, "retry_count": 0, "total_tasks": 3,
    });
    let of_task = json!({
        "user": 7, "entity_id": "e", "task_name": "draw", "timestamp": 1_700_000_000, "retry_count": 0, "total_tasks": 3,
    });
    vec![
        case(json!("a cat"), "text", None, json!("a cat"), json!({})),
        case(json!("{cat} on a mat"), "text", None, json!("{cat} on a mat"), json!({})),
        case(json!({ "prompt": "a cat", "n": 3 }), "object", None, json!({ "prompt": "a cat", "n": 3 }), json!({})),
        case(
            json!({ "job_id": "o/1 ü", "prompt": "x", "metadata": { "user": 7 } }),
            "object",
            Some("o%2F1%20%C3%BC"),
            json!({ "prompt": "x" }),
            json!({ "user": 7 }),
        ),
        case(
            json!({ "job_id": "e-1", "input": { "prompt": "x" }, "metadata": { "user": 7 }, "trace": "t" }),
            "envelope",
            Some("e-1"),
            json!({ "prompt": "x" }),
            json!({ "user": 7, "trace": "t" }),
        ),
        case(json!({ "job_id": "e-2", "payload": "x" }), "envelope", Some("e-2"), json!("x"), json!({})),
        case(
            json!({ "job_id": "e-3", "inputs": ["a", { "prompt": "b" }] }),
            "envelope",
            Some("e-3"),
            json!(["a", { "prompt": "b" }]),
            json!({}),
        ),
        case(task, "task_envelope", Some("e-draw-1700000000"), json!({ "prompt": "x" }), of_task),
    ]
}

#[tokio::test]
async fn every_form_of_a_message_becomes_a_record() {
    lab::with("forms", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        let cases = cases();
        let done = cases.len() as u64;
        for case in cases {
            let message_id = lab.send(&case.body).await;
            let job_id = case.job_id.unwrap_or(&message_id);
            let record = lab.record(job_id).await;
            is_completed(&record, &case, &message_id);
            is_as_documented(lab, job_id).await;
        }
        let message_id = lab.send_with("a dog", "millrace-job-id", "from attribute").await;
        let record = lab.record("from%20attribute").await;
        assert_eq!((record.message_id, record.value), (message_id, Some(json!("a dog"))));

        lab.drained().await;
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
        let state = worker.until_state("all done", |state| state.busy == 0).await;
        assert_eq!((state.completed, state.failed), (done + 1, 0));
    })
    .await;
}

fn is_completed(record: &ResultRecord, case: &Case, message_id: &str) {
    let body = &case.body;
    assert_eq!(record.status, JobStatus::Completed, "{body}");
    assert_eq!(record.message_id, message_id, "{body}");
    assert_eq!(record.consumer, CONSUMER, "{body}");
    assert_eq!(record.form, case.form, "{body}");
    assert_eq!(record.route.as_deref(), (case.form == "task_envelope").then_some("draw"), "{body}");
    assert_eq!(record.value.as_ref(), Some(&case.value), "{body}");
    assert_eq!(Value::Object(record.metadata.clone()), case.metadata, "{body}");
    assert_eq!((record.attempt, record.worker.as_str()), (1, "a"), "{body}");
    assert_eq!(record.model.task, "Echo", "{body}");
    if case.form == "text" {
        assert_eq!(record.input_sha256, hex::encode(Sha256::digest(body)), "{body}");
    }
    assert_eq!(record.input_sha256.len(), 64, "{body}");
    let at = |text: &str| {
        assert!(text.len() == "2026-11-23T09:30:00.123Z".len() && text.ends_with('Z'), "{text}");
        text.parse::<jiff::Timestamp>().unwrap()
    };
    assert!(at(&record.started_at) <= at(&record.finished_at), "{body}");
    let timings = record.timings;
    let parts = [timings.queued_seconds, timings.waited_seconds, timings.inference_seconds, timings.upload_seconds];
    assert!(parts.iter().all(|seconds| *seconds >= 0.0), "{timings:?}");
}

/// The object itself: a JSON with just the keys that a completed Echo has.
async fn is_as_documented(lab: &Lab, job_id: &str) {
    let object = lab.object(&record_key(job_id)).await;
    assert_eq!(object.content_type, "application/json");
    assert_eq!(object.metadata["job-id"], job_id);
    let record: Value = serde_json::from_slice(&object.body).unwrap();
    let mut keys: Vec<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    // of forms that have one
    keys.retain(|key| *key != "route");
    let wanted = [
        "attempt",
        "consumer",
        "finished_at",
        "form",
        "input_sha256",
        "job_id",
        "message_id",
        "metadata",
        "model",
        "outputs",
        "started_at",
        "status",
        "timings",
        "value",
        "worker",
    ];
    assert_eq!(keys, wanted);
    assert_eq!((&record["job_id"], &record["outputs"]), (&json!(job_id), &json!([])));
}

#[tokio::test]
async fn a_job_sent_twice_is_computed_once() {
    lab::with("twice", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        let body = json!({ "job_id": "same", "input": "x" });
        lab.send(&body).await;
        lab.record("same").await;
        let first = lab.object(&record_key("same")).await;

        lab.send(&body).await;
        let outcome = [r#"outcome="already_done""#];
        worker.until_state("two jobs ended", |state| state.completed == 1 && state.busy == 0).await;
        lab.drained().await;
        assert!((worker.counter("millrace_worker_jobs_total", &outcome).await - 1.0).abs() < 1e-9);
        assert_eq!(worker.state().await.completed, 1);
        assert_eq!(lab.object(&record_key("same")).await.body, first.body);
        assert_eq!(lab.keys().await, [record_key("same")]);
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_known_job_id_with_another_input_fails_beside_the_first() {
    lab::with("reused", async |lab| {
        let _worker = program::start(lab, "a", json!({}));
        lab.send(json!({ "job_id": "same", "input": "x" })).await;
        lab.record("same").await;
        let first = lab.object(&record_key("same")).await;

        let other = json!({ "job_id": "same", "input": "y" }).to_string();
        let message_id = lab.send(&other).await;
        let record = lab.record(&format!("same~{message_id}")).await;
        assert_eq!((record.status, record.job_id.as_str()), (JobStatus::Failed, "same"));
        assert_eq!(record.body.as_deref(), Some(other.as_str()));
        let error = record.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("JobIdReused", Some("job_id")));

        let letter = lab.take(&lab.dead_letters()).await;
        assert_eq!(letter.body(), Some(other.as_str()));
        assert_eq!(attribute(&letter, "millrace-error-code"), Some("JobIdReused"));
        lab.drained().await;
        assert_eq!(lab.object(&record_key("same")).await.etag, first.etag);
    })
    .await;
}

#[tokio::test]
async fn a_job_past_its_deadline_expires_without_inference() {
    lab::with("expired", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        lab.send(json!({ "job_id": "late", "input": "x", "deadline": "2020-01-01T00:00:00Z" })).await;
        let record = lab.record("late").await;
        assert_eq!((record.status, record.value, record.error), (JobStatus::Expired, None, None));
        lab.drained().await;
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
        worker.until_state("nothing held", |state| state.busy == 0).await;
        assert!((worker.counter("millrace_worker_batch_size_count", &[]).await).abs() < 1e-9);

        lab.send(json!({ "job_id": "early", "input": "x", "deadline": "2100-01-01T00:00:00Z" })).await;
        assert_eq!(lab.record("early").await.status, JobStatus::Completed);
    })
    .await;
}

#[tokio::test]
async fn jobs_that_fit_together_share_a_batch() {
    lab::with("batch", async |lab| {
        // only a full batch can end this test: none may wait that long
        let batch = json!({ "maxSize": 4, "maxWaitMilliseconds": 3_600_000 });
        let mut worker = program::start(lab, "a", json!({ "model": { "batch": batch } }));
        let mut sent = Vec::new();
        for n in 0..4 {
            sent.push(lab.send(format!("{n}")).await);
        }
        for (n, id) in sent.iter().enumerate() {
            assert_eq!(lab.record(id).await.value, Some(json!(n.to_string())));
        }
        lab.drained().await;
        let state = worker.until_state("nothing held", |state| state.busy == 0).await;
        assert_eq!((state.capacity, state.completed), (4, 4));
        for (name, wanted) in [("sum", 4.0), ("count", 1.0)] {
            let found = worker.counter(&format!("millrace_worker_batch_size_{name}"), &[]).await;
            assert!((found - wanted).abs() < 1e-9, "{name} is {found}");
        }
    })
    .await;
}
