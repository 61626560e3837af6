//! The program: by hand, and two of it on one queue, whose replies go to another.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Credentials;
use millrace_aws_model::Model;
use serde_json::{Value, json};

const REGION: &str = "us-east-1";
/// Longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A worker's program; killed when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Worker {
    /// Writes its config into `folder` and starts it.
    fn start(name: &str, folder: &std::path::Path, mut settings: Value) -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        settings["http"] = json!({ "port": port });
        let config = folder.join(format!("{name}.yaml"));
        std::fs::write(&config, settings.to_string()).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_fibonacci"));
        run.arg("run").arg("--config").arg(config).stdout(Stdio::null());
        run.env_clear().envs([("POD_NAME", name), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        Self(run.spawn().unwrap())
    }
}

async fn client(model: &Model) -> Client {
    let keys = Credentials::new("test", "test", None, None, "test");
    let config = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(REGION)).credentials_provider(keys);
    Client::new(&config.endpoint_url(model.endpoint()).load().await)
}

/// What was told of each message: status and body, in the order of arrival.
type Told = BTreeMap<String, Vec<(String, Value)>>;

/// Takes what is in the reply queue.
async fn take(sqs: &Client, replies: &str, told: &mut Told) {
    let call = sqs.receive_message().queue_url(replies).max_number_of_messages(10).message_attribute_names("All");
    for message in call.send().await.unwrap().messages() {
        let attribute = |name: &str| message.message_attributes().unwrap()[name].string_value().unwrap().to_owned();
        assert!(!attribute("createdAt").is_empty());
        let reply = (attribute("status"), serde_json::from_str(message.body().unwrap()).unwrap());
        told.entry(attribute("replyMessageId")).or_default().push(reply);
        let handle = message.receipt_handle().unwrap();
        sqs.delete_message().queue_url(replies).receipt_handle(handle).send().await.unwrap();
    }
}

#[test]
fn by_hand_it_needs_no_queue() {
    let infer = |input: &str| Command::new(env!("CARGO_BIN_EXE_fibonacci")).args(["infer", "--input", input]).output();
    let good = infer("8").unwrap();
    assert_eq!(String::from_utf8(good.stdout).unwrap(), "{\"arg\":8,\"value\":13}\n");
    let bad = infer("-1").unwrap();
    let log = String::from_utf8(bad.stderr).unwrap();
    assert!(!bad.status.success() && log.contains("--input: Invalid request in message.Body:-1"), "{log}");
}

#[tokio::test]
async fn the_eighth_number_is_13_and_there_is_none_before_the_first() {
    let model = Model::start(7).await.unwrap();
    model.create_queue("tasks-dead", &[]).unwrap();
    let target = format!("arn:aws:sqs:{REGION}:000000000000:tasks-dead");
    let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": 5 }).to_string();
    let tasks = model.create_queue("tasks", &[("RedrivePolicy", &policy)]).unwrap();
    let replies = model.create_queue("replies", &[]).unwrap();
    model.create_bucket("records").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let _workers = ["one", "two"].map(|name| {
        let settings = json!({
            "consumer": { "namespace": "demo", "name": "fibonacci" },
            "queue": { "url": tasks, "region": REGION, "endpoint": model.endpoint() },
            "model": { "task": "Custom" },
            "output": {
                "bucket": "records", "endpoint": model.endpoint(),
                "reply": { "queueUrl": replies, "format": "StatusAttributes" },
            },
        });
        Worker::start(name, folder.path(), settings)
    });

    let sqs = client(&model).await;
    let mut wanted: Told = BTreeMap::new();
    for (body, status, reply) in [
        ("8", "COMPLETED", json!({ "arg": 8, "value": 13 })),
        ("1", "COMPLETED", json!({ "arg": 1, "value": 0 })),
        ("-1", "FAILED", json!({ "message": "Invalid request in message.Body:-1" })),
    ] {
        let sent = sqs.send_message().queue_url(&tasks).message_body(body).send().await.unwrap();
        wanted.insert(sent.message_id.unwrap(), vec![(status.to_owned(), reply)]);
    }
    let (mut told, since) = (Told::new(), Instant::now());
    let is_final = |replies: &Vec<(String, Value)>| replies.iter().any(|(status, _)| status != "PENDING");
    while told.values().filter(|replies| is_final(replies)).count() < wanted.len() {
        assert!(since.elapsed() < PATIENCE, "{told:?}");
        take(&sqs, &replies, &mut told).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (id, result) in wanted {
        let (pending, last): (Vec<_>, Vec<_>) = told[&id].iter().cloned().partition(|(status, _)| status == "PENDING");
        assert_eq!(last, result);
        // what can never be computed was never begun
        assert_eq!(pending.is_empty(), result[0].0 == "FAILED", "{told:?}");
    }
    assert_eq!(model.queue("tasks-dead").unwrap().visible, 1);
}
