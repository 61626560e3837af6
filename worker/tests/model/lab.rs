//! One test's own model of SQS and S3, with a queue, its dead-letter queue and a bucket.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry as Entry};
use millrace_api::ResultRecord;
use millrace_aws_model::{Event, Model, Plan, QueueView, Rule};
use serde_json::{Value, json};

use crate::program::merge;
use crate::wait::{until, until_true};

/// The queue; on a FIFO lab `jobs.fifo`.
pub const QUEUE: &str = "jobs";
pub const BUCKET: &str = "results";
pub const PREFIX: &str = "out/";
const REGION: &str = "us-east-1";

/// A test's model and what its workers need.
#[derive(Debug)]
pub struct Lab {
    pub model: Model,
    /// For configs, caches and logs.
    pub folder: tempfile::TempDir,
    pub sqs: aws_sdk_sqs::Client,
    /// Of everything random in this run.
    pub seed: u64,
    queue: String,
    dead: String,
    url: String,
}

/// The seed of this run: `MILLRACE_SEED`, else a new one. Printed where a test fails.
pub fn seed() -> u64 {
    std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random)
}

/// Whether `make soak` asks for ten times as much.
pub fn soaking() -> bool {
    std::env::var("MILLRACE_SOAK").is_ok_and(|value| value == "1")
}

impl Lab {
    /// A standard queue that allows `receives`.
    pub async fn new(receives: u32) -> Self {
        Self::with(seed(), receives, false).await
    }

    /// A FIFO queue that allows `receives`.
    pub async fn fifo(receives: u32) -> Self {
        Self::with(seed(), receives, true).await
    }

    /// With a seed of one's own.
    pub async fn with(seed: u64, receives: u32, fifo: bool) -> Self {
        eprintln!("MILLRACE_SEED={seed}");
        let model = Model::start(seed).await.unwrap();
        let name = |stem: &str| if fifo { format!("{stem}.fifo") } else { stem.to_owned() };
        let (queue, dead) = (name(QUEUE), name("jobs-dead"));
        model.create_queue(&dead, &[]).unwrap();
        let target = format!("arn:aws:sqs:{REGION}:000000000000:{dead}");
        let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": receives }).to_string();
        let url = model.create_queue(&queue, &[("RedrivePolicy", &policy)]).unwrap();
        model.create_bucket(BUCKET).unwrap();
        let keys = aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test");
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(REGION))
            .endpoint_url(model.endpoint())
            .credentials_provider(keys)
            .load()
            .await;
        let sqs = aws_sdk_sqs::Client::new(&config);
        Self { model, folder: tempfile::tempdir().unwrap(), sqs, seed, queue, dead, url }
    }

    /// worker.yaml for a worker with Echo, changed by `changes` (objects are merged).
    pub fn settings(&self, changes: Value) -> Value {
        let mut settings = json!({
            "consumer": { "namespace": "tests", "name": "echo" },
            "queue": { "url": self.url, "region": REGION, "endpoint": self.model.endpoint(), "visibilityTimeoutSeconds": 10 },
            "model": { "task": "Echo", "batch": { "maxSize": 16, "maxWaitMilliseconds": 0 } },
            "output": { "bucket": BUCKET, "prefix": PREFIX, "endpoint": self.model.endpoint() },
        });
        merge(&mut settings, changes);
        settings
    }

    /// Faults from now on, and no others.
    pub fn inject(&self, rules: Vec<Rule>) {
        self.model.inject(Plan { seed: self.seed, rules }).unwrap();
    }

    /// Sends a message and gives its id.
    pub async fn send(&self, body: impl ToString) -> String {
        let sent = self.sqs.send_message().queue_url(&self.url).message_body(body.to_string()).send().await.unwrap();
        sent.message_id.unwrap()
    }

    /// Sends one message to a group of a FIFO queue.
    pub async fn send_to(&self, group: &str, body: impl ToString) -> String {
        let call = self.sqs.send_message().queue_url(&self.url).message_body(body.to_string());
        let id = format!("{:032x}", rand::random::<u128>());
        call.message_group_id(group).message_deduplication_id(id).send().await.unwrap().message_id.unwrap()
    }

    /// Sends many messages, each with an attribute `millrace-job-id` where it has an id.
    pub async fn send_all(&self, messages: &[(Option<String>, String)]) {
        for ten in messages.chunks(10) {
            let entry = |(i, (id, body)): (usize, &(Option<String>, String))| {
                let mut entry = Entry::builder().id(i.to_string()).message_body(body);
                if let Some(id) = id {
                    let value = MessageAttributeValue::builder().data_type("String").string_value(id).build().unwrap();
                    entry = entry.message_attributes("millrace-job-id", value);
                }
                entry.build().unwrap()
            };
            let entries = ten.iter().enumerate().map(entry).collect();
            let sent =
                self.sqs.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await.unwrap();
            assert!(sent.failed.is_empty(), "{:?}", sent.failed);
        }
    }

    /// The queue now.
    pub fn queue(&self) -> QueueView {
        self.model.queue(&self.queue).unwrap()
    }

    /// Whether the queue has nothing, visible or hidden.
    pub fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.visible + queue.in_flight + queue.delayed == 0
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.model.objects(BUCKET).unwrap().keys().filter(|key| key.ends_with(".record.json")).count()
    }

    /// The dead-letter queue now.
    pub fn dead(&self) -> QueueView {
        self.model.queue(&self.dead).unwrap()
    }

    /// Waits until the queue has nothing, visible or hidden.
    pub async fn drained(&self) {
        until_true("the queue is empty", async || self.queue().messages.is_empty()).await;
    }

    /// A job's record, if it is there.
    pub fn find(&self, job_id: &str) -> Option<ResultRecord> {
        let objects = self.model.objects(BUCKET).unwrap();
        objects.get(&record_key(job_id)).map(|object| serde_json::from_slice(&object.body).unwrap())
    }

    /// Waits for a job's record.
    pub async fn record(&self, job_id: &str) -> ResultRecord {
        until(&format!("record of {job_id}"), async || self.find(job_id)).await
    }

    /// The note of an attempt, if there is one.
    pub fn note(&self, job_id: &str) -> Option<Value> {
        let objects = self.model.objects(BUCKET).unwrap();
        Some(serde_json::from_slice(&objects.get(&format!("{PREFIX}{job_id}.attempt"))?.body).unwrap())
    }

    /// How often a job's record was put.
    pub fn puts(&self, job_id: &str) -> u64 {
        self.model.objects(BUCKET).unwrap().get(&record_key(job_id)).map_or(0, |object| object.puts)
    }

    /// Puts an object into the bucket.
    pub async fn put(&self, key: &str, body: Vec<u8>) {
        self.s3().put_object().bucket(BUCKET).key(key).body(ByteStream::from(body)).send().await.unwrap();
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(aws_sdk_s3::config::Region::new(REGION))
            .credentials_provider(aws_sdk_s3::config::Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(self.model.endpoint())
            .force_path_style(true);
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// Makes a tiny model and puts it beside the results: a consumer's `model`, with what more it says.
    pub async fn tiny_model<E: std::fmt::Debug>(
        &self,
        task: &str,
        make: impl Fn(&Path, u64) -> Result<(), E>,
        more: Value,
    ) -> Value {
        let dir = self.folder.path().join("tiny");
        make(&dir, 7).unwrap();
        let mut folders = vec![dir.clone()];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&dir).map(Path::display).unwrap();
                self.put(&format!("tiny/{name}"), std::fs::read(&path).unwrap()).await;
            }
        }
        let source = json!({ "s3": { "uri": format!("s3://{BUCKET}/tiny/"), "endpoint": self.model.endpoint() } });
        let mut model = json!({ "task": task, "source": source, "device": "Cpu" });
        merge(&mut model, more);
        model
    }

    /// How often events of this sort were written down.
    pub fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.model.journal().iter().filter(|entry| is(&entry.event)).count()
    }

    /// Jumps the clock of SQS: leases run out that are shorter.
    pub fn jump(&self, by: Duration) {
        self.model.advance(by);
    }
}

/// Where a job's record lies.
pub fn record_key(job_id: &str) -> String {
    format!("{PREFIX}{job_id}.record.json")
}
