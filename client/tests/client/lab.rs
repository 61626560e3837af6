//! A queue with its dead-letter queue, a bucket, and a client for them, in a model of SQS and S3.

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::Message;
use millrace_api::{ResultRecord, WorkerConfig};
use millrace_aws_model::{Model, Plan, Rule};
use millrace_client::{Client, Consumer};
use serde_json::{Value, json};

pub const QUEUE: &str = "jobs";
pub const DEAD: &str = "jobs-dead";
pub const BUCKET: &str = "results";
const REGION: &str = "us-east-1";

/// One test's model.
pub struct Lab {
    pub model: Model,
    pub client: Client,
    pub sqs: aws_sdk_sqs::Client,
    pub s3: aws_sdk_s3::Client,
    pub url: String,
    pub dead_url: String,
}

impl Lab {
    pub async fn standard() -> Self {
        Self::new("", &[]).await
    }

    pub async fn fifo() -> Self {
        Self::new(".fifo", &[]).await
    }

    /// Queues whose names end in `suffix`; the first with `attributes` besides its redrive policy.
    pub async fn new(suffix: &str, attributes: &[(&str, &str)]) -> Self {
        let model = Model::start(7).await.unwrap();
        let (queue, dead) = (format!("{QUEUE}{suffix}"), format!("{DEAD}{suffix}"));
        let dead_url = model.create_queue(&dead, &[]).unwrap();
        let target = format!("arn:aws:sqs:{REGION}:000000000000:{dead}");
        let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": 1 }).to_string();
        let attributes: Vec<_> = attributes.iter().copied().chain([("RedrivePolicy", policy.as_str())]).collect();
        let url = model.create_queue(&queue, &attributes).unwrap();
        model.create_bucket(BUCKET).unwrap();
        let keys = Credentials::new("test", "test", None, None, "test");
        let shared = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(REGION));
        let shared = shared.endpoint_url(model.endpoint()).credentials_provider(keys).load().await;
        let sqs = aws_sdk_sqs::Client::new(&shared);
        let path_style = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true);
        let s3 = aws_sdk_s3::Client::from_conf(path_style.build());
        let config: WorkerConfig = serde_json::from_value(json!({
            "consumer": { "namespace": "tests", "name": "echo" },
            "queue": { "url": url, "region": REGION, "allow": { "inputBuckets": [BUCKET] } },
            "model": { "task": "Echo" },
            "output": { "bucket": BUCKET, "prefix": "out/" },
        }))
        .unwrap();
        let client = Client::new(Consumer::from(&config), sqs.clone(), s3.clone());
        Self { model, client, sqs, s3, url, dead_url }
    }

    /// Faults from now on, and no others.
    pub fn inject(&self, rules: Vec<Rule>) {
        self.model.inject(Plan { seed: 7, rules }).unwrap();
    }

    /// The bodies of all messages in a queue, as JSON.
    pub fn bodies(&self, queue: &str) -> Vec<Value> {
        let view = self.model.queue(queue).unwrap();
        view.messages.iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }

    /// Takes one message and leaves it to its queue's redrive policy.
    pub async fn give_up(&self) {
        for _ in 0..2 {
            let call = self.sqs.receive_message().queue_url(&self.url).visibility_timeout(0);
            call.max_number_of_messages(10).send().await.unwrap();
        }
    }

    /// One message of a queue with its attributes, which is deleted.
    pub async fn take(&self, queue: &str) -> Option<Message> {
        let call = self.sqs.receive_message().queue_url(queue).message_attribute_names("All");
        let message = call.send().await.unwrap().messages.unwrap_or_default().pop()?;
        let delete = self.sqs.delete_message().queue_url(queue);
        delete.receipt_handle(message.receipt_handle.clone().unwrap()).send().await.unwrap();
        Some(message)
    }

    /// Puts a record as a worker would, under `name`.
    pub async fn put_record(&self, name: &str, changes: Value) -> ResultRecord {
        let mut record = json!({
            "job_id": name, "message_id": "m", "status": "COMPLETED", "consumer": "tests/echo", "attempt": 1, "worker": "w",
            "model": { "task": "Echo" }, "input_sha256": "h", "form": "envelope",
            "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
            "started_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:00:01Z",
        });
        for (key, value) in changes.as_object().unwrap() {
            record[key] = value.clone();
        }
        let key = format!("out/{name}.record.json");
        let body = ByteStream::from(record.to_string().into_bytes());
        self.s3.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
        serde_json::from_value(record).unwrap()
    }
}
