//! Who asked for it is told what became of a job: on a queue, by a call, again where that failed, and nowhere else.

use std::panic::{AssertUnwindSafe, resume_unwind};

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as System, QueueAttributeName as Attribute};
use futures::FutureExt;
use hmac::{Hmac, KeyInit, Mac};
use millrace_api::{JobStatus, ResultRecord};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::lab::{self, Lab, attribute};
use crate::program::{self, CREDENTIALS, Signal};
use crate::receiver::{Receiver, Reply};
use crate::wait::until_true;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A lab with a reply queue.
async fn with_replies(what: &str, suffix: &str, test: impl AsyncFnOnce(&Lab, &str)) {
    lab::with(what, async |lab| {
        let create = lab.sqs.create_queue().queue_name(format!("{}-replies{suffix}", lab.name));
        let create = if suffix.is_empty() { create } else { create.attributes(Attribute::FifoQueue, "true") };
        create.send().await.unwrap();
        let queue = format!("{}-replies{suffix}", lab.queue());
        let ended = AssertUnwindSafe(test(lab, &queue)).catch_unwind().await;
        lab.sqs.delete_queue().queue_url(&queue).send().await.unwrap();
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    })
    .await;
}

/// S1's status queue: an API reads what became of its tasks by the ids that SQS gave them.
#[tokio::test]
async fn a_status_queue_tells_pending_and_then_the_value_or_the_error() {
    with_replies("status", "", async |lab, replies| {
        let reply = json!({ "queueUrl": replies, "format": "StatusAttributes" });
        let _worker = program::start(lab, "a", json!({ "output": { "reply": reply } }));
        let good = lab.send(json!({ "arg": 8, "value": 13 })).await;
        let bad = lab.send(json!({ "arg": -1, "milliseconds": -1 })).await;

        let mut told = Vec::new();
        for _ in 0..3 {
            let message = lab.take(replies).await;
            let said = |name| attribute(&message, name).unwrap().to_owned();
            assert!(said("createdAt").parse::<jiff::Timestamp>().is_ok());
            let body: Value = serde_json::from_str(message.body.as_deref().unwrap()).unwrap();
            told.push((said("replyMessageId"), said("status"), body));
        }
        let of = |id: &str, status: &str| {
            let found = told.iter().find(|(of, is, _)| of == id && is == status);
            found.unwrap_or_else(|| panic!("no {status} of {id}: {told:?}")).2.clone()
        };
        assert!(of(&good, "PENDING")["message"].is_string());
        assert_eq!(of(&good, "COMPLETED"), json!({ "arg": 8, "value": 13 }));
        let why = "milliseconds: must be an integer from 0 to 3600000, not -1";
        assert_eq!(of(&bad, "FAILED"), json!({ "message": why }));
        lab.take(&lab.dead_letters()).await;
        lab.drained().await;
        assert_eq!(lab.count(replies).await, 0);
    })
    .await;
}

#[tokio::test]
async fn reply_to_gets_the_record_in_the_jobs_group_with_its_trace() {
    with_replies("reply-to", ".fifo", async |lab, replies| {
        let worker = program::start(lab, "a", json!({ "queue": { "allow": { "replyQueues": [replies] } } }));
        let job = json!({ "job_id": "r-1", "input": "x", "reply_to": replies });
        lab.send_with(&job, "traceparent", TRACEPARENT).await;

        let pending = lab.take(replies).await;
        assert_eq!(body(&pending), json!({ "job_id": "r-1", "status": "PENDING" }));
        let done = lab.take(replies).await;
        let told: ResultRecord = serde_json::from_value(body(&done)).unwrap();
        assert_eq!(told, lab.record("r-1").await);
        for message in [&pending, &done] {
            let group = message.attributes.as_ref().unwrap().get(&System::MessageGroupId);
            assert_eq!(group.map(String::as_str), Some("r-1"));
            assert_eq!(attribute(message, "traceparent"), Some(TRACEPARENT));
        }
        lab.drained().await;
        let sent = ["channel=\"reply\"", "outcome=\"sent\""];
        assert!((worker.counter("millrace_announcements_total", &sent).await - 2.0).abs() < 1e-9);
    })
    .await;
}

fn body(message: &Message) -> Value {
    serde_json::from_str(message.body.as_deref().unwrap()).unwrap()
}

const SECRET: &str = "whsec_7";

/// worker.yaml that lets 127.0.0.1 be called and signs the calls.
fn calling() -> Value {
    json!({
        "queue": {
            "allow": { "callbackHosts": ["127.0.0.1"] },
            "visibilityTimeoutSeconds": 10,
            "retry": { "initialSeconds": 5, "maxSeconds": 5 },
        },
        "output": { "callback": { "secretRef": { "name": "hooks", "key": "secret" } } },
    })
}

fn with_secret() -> Vec<(&'static str, &'static str)> {
    CREDENTIALS.iter().copied().chain([("MILLRACE_CALLBACK_SECRET", SECRET)]).collect()
}

#[tokio::test]
async fn a_callback_is_signed_and_tried_again() {
    lab::with("callback", async |lab| {
        let receiver = Receiver::start(&[Reply::Status(503)]).await;
        // a proxy of the environment would see every call, and lead anywhere
        let endpoint = url::Url::parse(&lab.endpoint).unwrap();
        let mut env = with_secret();
        env.extend([("http_proxy", "http://127.0.0.1:1"), ("no_proxy", endpoint.host_str().unwrap())]);
        let worker = program::start_with(lab, "a", calling(), &env);
        lab.send(json!({ "job_id": "c-1", "input": "x", "callback_url": receiver.url("127.0.0.1") })).await;

        let calls = receiver.until_called(2).await;
        lab.drained().await;
        let record = lab.record("c-1").await;
        for call in &calls {
            assert_eq!(serde_json::from_str::<ResultRecord>(&call.body).unwrap(), record);
            assert_eq!((call.header("content-type"), call.header("millrace-job-id")), ("application/json", "c-1"));
            assert!(call.header("user-agent").starts_with("millrace-worker/"));
            let (at, signature) = call.header("millrace-signature").split_once(',').unwrap();
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(format!("{}.{}", at.strip_prefix("t=").unwrap(), call.body).as_bytes());
            assert_eq!(signature, format!("v1={}", hex::encode(mac.finalize().into_bytes())));
        }
        assert_eq!(calls[0].header("idempotency-key"), calls[1].header("idempotency-key"));
        for outcome in ["outcome=\"retried\"", "outcome=\"sent\""] {
            let count = worker.counter("millrace_announcements_total", &["channel=\"callback\"", outcome]).await;
            assert!((count - 1.0).abs() < 1e-9, "{outcome}: {count}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_is_told_again_when_the_message_comes_back() {
    lab::with("refused", async |lab| {
        let receiver = Receiver::start(&[Reply::Status(404)]).await;
        let mut worker = program::start_with(lab, "a", calling(), &with_secret());
        lab.send(json!({ "job_id": "c-2", "input": "x", "callback_url": receiver.url("127.0.0.1") })).await;
        let problem = worker.until_problem("CallbackRefused").await;
        assert!(problem.contains("/done: answered 404 Not Found"), "{problem}");

        let calls = receiver.until_called(2).await;
        lab.drained().await;
        assert_eq!(calls[0].body, calls[1].body, "the record that was found is what is told");
        assert_eq!(calls[0].header("idempotency-key"), calls[1].header("idempotency-key"));
        assert_eq!(lab.record("c-2").await.attempt, 1, "nothing was computed twice");
        worker.until_state("well again", |state| state.problems.is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_dies_between_record_and_callback_loses_nothing() {
    lab::with("died", async |lab| {
        let receiver = Receiver::start(&[Reply::Silence]).await;
        let mut first = program::start_with(lab, "first", calling(), &with_secret());
        lab.send(json!({ "job_id": "c-3", "input": "x", "callback_url": receiver.url("127.0.0.1") })).await;
        receiver.until_called(1).await;
        first.signal(Signal::Kill).await;
        first.ended().await;
        assert_eq!(lab.record("c-3").await.worker, "first");

        let _second = program::start_with(lab, "second", calling(), &with_secret());
        let calls = receiver.until_called(2).await;
        assert_eq!(calls[0].body, calls[1].body);
        lab.drained().await;
        assert_eq!(lab.record("c-3").await.worker, "first", "nothing was computed twice");
    })
    .await;
}

#[tokio::test]
async fn nobody_is_called_who_is_not_listed() {
    lab::with("unlisted", async |lab| {
        let receiver = Receiver::start(&[]).await;
        let _worker = program::start_with(lab, "a", calling(), &with_secret());
        for (job, url) in
            [("u-1", receiver.url("localhost")), ("u-2", "http://169.254.169.254/latest/meta-data/".into())]
        {
            lab.send(json!({ "job_id": job, "input": "x", "callback_url": url })).await;
            let record = lab.record(job).await;
            let error = record.error.unwrap();
            assert_eq!((record.status, error.code.as_str()), (JobStatus::Failed, "InvalidInput"));
            assert_eq!(error.field.as_deref(), Some("callback_url"));
        }
        until_true("both dead letters", async || lab.count(&lab.dead_letters()).await == 2).await;
        assert!(receiver.calls().is_empty());
    })
    .await;
}
