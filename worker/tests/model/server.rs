//! Task Http: what each answer of a model server comes to, and what its restarts and its overload cost: nothing.

use std::time::Duration;

use millrace_api::{JobStatus, ResultRecord};
use serde_json::{Value, json};

use crate::lab::{BUCKET, Lab};
use crate::program::{self, Worker};
use crate::stub::Stub;
use crate::wait::until_true;

/// A worker that is ready, and the server that it asks; jobs come again after a second.
async fn worker(lab: &Lab, stub: &Stub, server: Value) -> Worker {
    let settings =
        json!({ "model": stub.model(server), "queue": { "retry": { "initialSeconds": 1, "maxSeconds": 1 } } });
    let mut worker = program::start(lab, "a", settings);
    worker.until_ready().await;
    worker
}

/// A job that gets such an answer.
fn job(answer: &Value) -> String {
    json!({ "answer": answer }).to_string()
}

fn error(record: &ResultRecord) -> (&str, &str) {
    record.error.as_ref().map(|error| (error.code.as_str(), error.message.as_str())).unwrap_or_default()
}

#[tokio::test]
async fn every_status_gets_its_treatment() {
    let (lab, stub) = (Lab::new(3).await, Stub::start());
    let _worker = worker(&lab, &stub, json!({ "concurrency": 4 })).await;
    // from here on the path is known to be right
    let id = lab.send(json!({ "n": 1 })).await;
    let record = lab.record(&id).await;
    assert_eq!(record.value, Some(json!({ "echo": { "n": 1 }, "tries": 1, "bytes": 7 })));
    assert_eq!(record.model.task, "Http");

    let said = json!({ "error": { "message": "too many steps", "param": "steps" } });
    for (status, more) in [(400, json!({})), (404, json!({})), (413, json!({})), (422, json!({})), (307, json!({}))] {
        let mut answer = json!({ "status": status, "body": said });
        program::merge(&mut answer, more);
        let id = lab.send(job(&answer)).await;
        let record = lab.record(&id).await;
        assert_eq!((record.status, record.attempt, stub.tries(&id)), (JobStatus::Failed, 1, 1), "{status}");
        let (code, message) = error(&record);
        assert!(code == "InvalidInput" && message.contains("too many steps"), "{status}: {message}");
        assert_eq!(record.error.unwrap().field.as_deref(), Some("steps"), "{status}");
    }
    for (status, receives) in [(408, 1), (429, 1), (503, 1), (500, 2), (502, 2)] {
        let id = lab.send(job(&json!({ "status": status, "times": 1, "retry_after": "1" }))).await;
        let record = lab.record(&id).await;
        assert_eq!((record.status, record.attempt, stub.tries(&id)), (JobStatus::Completed, receives, 2), "{status}");
    }
    let id = lab.send(job(&json!({ "status": 500, "body": { "detail": "CUDA error" } }))).await;
    let record = lab.record(&id).await;
    assert_eq!((record.status, record.attempt), (JobStatus::Failed, 3));
    assert_eq!(error(&record), ("ModelError", "the server answered 500 Internal Server Error: CUDA error"));
    lab.drained().await;
}

#[tokio::test]
async fn a_worker_is_ready_when_its_server_is() {
    let (lab, mut stub) = (Lab::new(2).await, Stub::start());
    stub.seen.lock().unwrap().sick = Some(503);
    let mut worker = program::start(&lab, "a", json!({ "model": stub.model(json!({})) }));
    let heard = worker.until_problem("ServerStarting").await;
    assert!(heard.contains("/health answered 503"), "{heard}");
    stub.stop().await;
    worker.until_state("it hears nothing", |state| state.problems.iter().any(|p| p.message.contains("refused"))).await;
    assert_eq!(worker.get("/readyz").await.unwrap().status, 503);
    stub.seen.lock().unwrap().sick = None;
    stub.restart();
    worker.until_ready().await;
    worker.until_state("nothing is wrong", |state| state.problems.is_empty()).await;
}

#[tokio::test]
async fn a_wrong_path_costs_no_job() {
    let (lab, stub) = (Lab::new(2).await, Stub::start());
    stub.seen.lock().unwrap().lost = true;
    let mut worker = worker(&lab, &stub, json!({})).await;
    let id = lab.send("hello").await;
    let heard = worker.until_problem("ServerRefuses").await;
    assert!(heard.contains("404") && heard.contains("model.server.path"), "{heard}");
    until_true("it is tried again", async || stub.tries(&id) > 2).await;
    stub.seen.lock().unwrap().lost = false;
    let record = lab.record(&id).await;
    assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1));
    worker.until_state("nothing is wrong", |state| state.problems.is_empty()).await;
}

#[tokio::test]
async fn a_restart_of_the_server_is_waited_out() {
    let (lab, mut stub) = (Lab::new(2).await, Stub::start());
    let mut worker = worker(&lab, &stub, json!({ "concurrency": 3 })).await;
    let jobs: Vec<_> =
        (0..6).map(|n| (Some(format!("j{n}")), job(&json!({ "times": 1, "milliseconds": 700 })))).collect();
    lab.send_all(&jobs).await;
    until_true("three are under way", async || stub.seen.lock().unwrap().now == 3).await;
    stub.stop().await;
    let heard = worker.until_problem("ServerUnavailable").await;
    assert!(heard.contains("jobs are held"), "{heard}");
    // longer than a lease
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(lab.records(), 0);
    stub.restart();
    for n in 0..6 {
        let record = lab.record(&format!("j{n}")).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1), "j{n}");
    }
    worker.until_state("nothing is wrong", |state| state.problems.is_empty()).await;
    assert!(lab.dead().messages.is_empty());
}

#[tokio::test]
async fn a_job_that_ends_the_server_ends_no_other_job() {
    let (lab, stub) = (Lab::new(2).await, Stub::start());
    let _worker = worker(&lab, &stub, json!({ "concurrency": 4 })).await;
    let mut jobs = vec![(Some("bad".to_owned()), job(&json!({ "crash": true })))];
    jobs.extend((0..4).map(|n| (Some(format!("good{n}")), job(&json!({ "milliseconds": 50 })))));
    lab.send_all(&jobs).await;
    let record = lab.record("bad").await;
    assert_eq!((record.status, record.attempt), (JobStatus::Failed, 2));
    let (code, message) = error(&record);
    assert!(
        code == "ModelError" && message.starts_with("the server ended 3 times while it had this request"),
        "{message}"
    );
    for n in 0..4 {
        assert_eq!(lab.record(&format!("good{n}")).await.attempt, 1);
    }
}

#[tokio::test]
async fn as_many_requests_as_the_server_bears() {
    let (lab, stub) = (Lab::new(2).await, Stub::start());
    let mut worker = worker(&lab, &stub, json!({ "concurrency": 8 })).await;
    assert_eq!(worker.state().await.capacity, 8);
    let jobs: Vec<_> =
        (0..40).map(|n| (Some(format!("j{n}")), job(&json!({ "times": 1, "milliseconds": 200 })))).collect();
    lab.send_all(&jobs[..20]).await;
    until_true("eight at a time", async || stub.seen.lock().unwrap().most == 8).await;
    stub.seen.lock().unwrap().bears = Some(2);
    lab.send_all(&jobs[20..]).await;
    worker.until_problem("ServerOverloaded").await;
    lab.drained().await;
    for n in 0..40 {
        let record = lab.record(&format!("j{n}")).await;
        assert_eq!((record.status, record.attempt), (JobStatus::Completed, 1), "j{n}");
    }
    assert_eq!(stub.seen.lock().unwrap().most, 8);
}

#[tokio::test]
async fn what_takes_too_long_is_a_model_error_and_what_is_unwanted_is_dropped() {
    let (lab, stub) = (Lab::new(1).await, Stub::start());
    let _worker = worker(&lab, &stub, json!({ "timeoutSeconds": 1, "concurrency": 2 })).await;
    let slow = json!({ "milliseconds": 60_000 });
    let id = lab.send(job(&slow)).await;
    let record = lab.record(&id).await;
    assert_eq!(error(&record), ("ModelError", "no answer within 1 s (model.server.timeoutSeconds)"));

    let lab = Lab::new(1).await;
    let _worker = worker_b(&lab, &stub).await;
    let before = stub.seen.lock().unwrap().dropped;
    let deadline = jiff::Timestamp::now() + Duration::from_secs(3);
    let id = lab.send(json!({ "deadline": deadline.to_string(), "answer": slow })).await;
    assert_eq!(lab.record(&id).await.status, JobStatus::Expired);
    until_true("the server is told", async || stub.seen.lock().unwrap().dropped > before).await;
}

async fn worker_b(lab: &Lab, stub: &Stub) -> Worker {
    let mut worker = program::start(lab, "b", json!({ "model": stub.model(json!({})) }));
    worker.until_ready().await;
    worker
}

#[tokio::test]
async fn answers_of_every_kind_become_results() {
    let (lab, stub) = (Lab::new(2).await, Stub::start());
    let response = json!({ "maxMebibytes": 1 });
    let _worker = worker(&lab, &stub, json!({ "response": response, "concurrency": 4 })).await;
    let delta = |text: &str| json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
    let stream = format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", delta("Hel"), delta("lo"));
    let id = lab.send(job(&json!({ "content_type": "text/event-stream", "body": stream }))).await;
    let value = lab.record(&id).await.value.unwrap();
    assert_eq!(value.pointer("/choices/0/message/content"), Some(&json!("Hello")), "{value}");

    let id = lab.send(job(&json!({ "content_type": "audio/wav", "body": "RIFF" }))).await;
    let record = lab.record(&id).await;
    assert_eq!((record.value, record.outputs[0].content_type.as_str()), (None, "audio/wav"));
    let key = record.outputs[0].uri.strip_prefix(&format!("s3://{BUCKET}/")).unwrap().to_owned();
    assert_eq!(key.rsplit('.').next(), Some("wav"));
    assert_eq!(lab.model.objects(BUCKET).unwrap()[&key].body.as_ref(), b"RIFF");

    let id = lab.send(job(&json!({ "content_type": "text/plain", "body": "x", "repeat": (1 << 20) + 1 }))).await;
    let record = lab.record(&id).await;
    assert_eq!(error(&record).1, "the answer has more than 1 MiB (model.server.response.maxMebibytes)");

    let two = json!({ "job_id": "two", "inputs": [{ "n": 1 }, "text"] });
    lab.send(two).await;
    let value = lab.record("two").await.value.unwrap();
    assert_eq!((&value[0]["echo"], &value[1]["echo"]), (&json!({ "n": 1 }), &json!({ "input": "text" })));
}

#[tokio::test]
async fn a_request_has_what_the_spec_says() {
    let (lab, stub) = (Lab::new(2).await, Stub::start());
    let server = json!({
        "headers": [{ "name": "Authorization", "value": "Bearer $(AWS_ACCESS_KEY_ID)" }],
        "request": { "body": "Envelope" },
    });
    let _worker = worker(&lab, &stub, server).await;
    let envelope = json!({ "entity_id": "e", "task_name": "t", "task_config": { "a": 1 }, "timestamp": 7 });
    lab.send(&envelope).await;
    let record = lab.record("e-t-7").await;
    assert_eq!(record.value.unwrap()["echo"], envelope);
    let (headers, _) = stub.seen.lock().unwrap().last.clone().unwrap();
    assert_eq!(
        (&headers["authorization"], &headers["millrace-job-id"]),
        (&"Bearer test".parse().unwrap(), &"e-t-7".parse().unwrap())
    );
    assert_eq!(headers["content-type"], "application/json");

    let lab = Lab::new(2).await;
    let server = json!({ "request": { "body": "File", "contentType": "audio/wav" } });
    let mut worker = program::start(&lab, "b", json!({ "model": stub.model(server) }));
    worker.until_ready().await;
    let id = lab.send(json!({ "file": "UklGRg==" })).await;
    assert_eq!(lab.record(&id).await.value.unwrap()["bytes"], 4);
    let (headers, body) = stub.seen.lock().unwrap().last.clone().unwrap();
    assert_eq!((headers["content-type"].to_str().unwrap(), body.as_ref()), ("audio/wav", &b"RIFF"[..]));
    let id = lab.send("no file").await;
    assert_eq!(lab.record(&id).await.error.unwrap().field.as_deref(), Some("file"));
}
