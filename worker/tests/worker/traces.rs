//! Spans by OTLP: a job goes on with its producer's trace, and the last spans are sent when the worker ends.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;

use crate::lab;
use crate::program::{self, CREDENTIALS};
use crate::wait::until_true;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

type Batches = Arc<Mutex<Vec<Bytes>>>;

/// A collector that keeps what it is sent, and its URL.
async fn collector() -> (Batches, String) {
    let batches = Batches::default();
    let take = async |State(batches): State<Batches>, batch: Bytes| batches.lock().unwrap().push(batch);
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&batches));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (batches, url)
}

/// Whether a batch of spans (protobuf) holds these bytes.
fn holds(batches: &Batches, bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    batches.lock().unwrap().iter().any(|batch| batch.windows(bytes.len()).any(|window| window == bytes))
}

#[tokio::test]
async fn a_job_is_a_span_of_its_producers_trace() {
    lab::with("traces", async |lab| {
        let (batches, url) = collector().await;
        let mut env = CREDENTIALS.to_vec();
        // only what the end sends is left to come, so that it is seen to be sent
        env.extend([("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")]);
        let mut worker = program::start_with(lab, "a", json!({}), &env);
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        lab.send_with(json!({ "job_id": "t-1", "input": "x" }), "traceparent", &traceparent).await;
        assert_eq!(lab.record("t-1").await.trace_id.as_deref(), Some(TRACE));
        lab.drained().await;
        assert!(!holds(&batches, "t-1"));
        worker.stop().await;
        assert!(worker.ended().await.success());

        for id in [TRACE, PARENT] {
            assert!(holds(&batches, hex::decode(id).unwrap()), "{id}");
        }
        let name = format!("process {}", lab.name);
        for text in ["millrace-worker", &name, "t-1", "aws_sqs", "k8s.pod.name", "inference", "upload", "completed"] {
            assert!(holds(&batches, text), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn no_job_waits_for_a_collector_that_is_away() {
    lab::with("traces-away", async |lab| {
        let mut env = CREDENTIALS.to_vec();
        env.extend([("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "100")]);
        let mut worker = program::start_with(lab, "a", json!({}), &env);
        let job = lab.send("x").await;
        lab.record(&job).await;
        lab.drained().await;
        until_true("a warning", async || worker.log().contains("BatchSpanProcessor")).await;
        worker.stop().await;
        assert!(worker.ended().await.success());
    })
    .await;
}
