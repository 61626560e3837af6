//! One test's own corner of LocalStack: a queue with its dead-letter queue and a bucket, removed when the test ends.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;

use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, QueueAttributeName as Attribute};
use futures::FutureExt;
use millrace_api::ResultRecord;
use serde_json::{Value, json};

use crate::program::merge;
use crate::wait::{until, until_true};

const ENDPOINT: &str = "MILLRACE_TEST_ENDPOINT";
const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";
/// What the configs of `Lab::settings` name as the consumer.
pub const CONSUMER: &str = "tests/echo";
/// Where its results go.
pub const PREFIX: &str = "out/";
/// Receives that the queue allows.
const MAX_RECEIVES: u32 = 5;

/// A test's queue, dead-letter queue and bucket.
#[derive(Debug)]
pub struct Lab {
    /// LocalStack.
    pub endpoint: String,
    /// Unique: name of the queue and of the bucket.
    pub name: String,
    /// For configs, caches and logs.
    pub folder: tempfile::TempDir,
    /// LocalStack's S3.
    pub s3: aws_sdk_s3::Client,
    /// LocalStack's SQS.
    pub sqs: aws_sdk_sqs::Client,
}

/// An object and what S3 says of it.
#[derive(Debug)]
pub struct Object {
    pub body: Vec<u8>,
    pub content_type: String,
    pub metadata: HashMap<String, String>,
    pub etag: String,
}

/// Runs a test with a queue, its dead-letter queue and a bucket.
pub async fn with(what: &str, test: impl AsyncFnOnce(&Lab)) {
    bare(what, async |lab: &Lab| {
        lab.create_queues().await;
        lab.create_bucket().await;
        test(lab).await;
    })
    .await;
}

/// Runs a test that begins with nothing but names.
pub async fn bare(what: &str, test: impl AsyncFnOnce(&Lab)) {
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|e| !e.is_empty()) else {
        eprintln!("SKIPPED {what}: set {ENDPOINT} to a LocalStack's URL, or run `e2e/kind/test cluster test`");
        return;
    };
    let lab = Lab::new(what, endpoint).await;
    let ended = AssertUnwindSafe(test(&lab)).catch_unwind().await;
    lab.remove().await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

impl Lab {
    async fn new(what: &str, endpoint: String) -> Self {
        let keys = aws_sdk_sqs::config::Credentials::new("test", "test", None, None, "test");
        let shared = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(REGION))
            .endpoint_url(&endpoint)
            .credentials_provider(keys)
            .load()
            .await;
        let s3 = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true);
        Self {
            name: format!("{what}-{:08x}", rand::random::<u32>()),
            folder: tempfile::tempdir().unwrap(),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            sqs: aws_sdk_sqs::Client::new(&shared),
            endpoint,
        }
    }

    /// The queue's URL.
    pub fn queue(&self) -> String {
        format!("{}/{ACCOUNT}/{}", self.endpoint.trim_end_matches('/'), self.name)
    }

    /// The dead-letter queue's URL.
    pub fn dead_letters(&self) -> String {
        format!("{}-dead", self.queue())
    }

    /// worker.yaml for a worker with Echo, changed by `changes` (objects are merged).
    pub fn settings(&self, changes: Value) -> Value {
        let (namespace, name) = CONSUMER.split_once('/').unwrap();
        let mut settings = json!({
            "consumer": { "namespace": namespace, "name": name },
            "queue": { "url": self.queue(), "region": REGION, "visibilityTimeoutSeconds": 60 },
            "model": { "task": "Echo" },
            "output": { "bucket": self.name, "prefix": PREFIX, "endpoint": self.endpoint },
        });
        merge(&mut settings, changes);
        settings
    }

    /// The queue and, named in its redrive policy, the dead-letter queue.
    pub async fn create_queues(&self) {
        let dead = format!("{}-dead", self.name);
        self.sqs.create_queue().queue_name(&dead).send().await.unwrap();
        let policy = json!({
            "deadLetterTargetArn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{dead}"),
            "maxReceiveCount": MAX_RECEIVES,
        });
        let create = self.sqs.create_queue().queue_name(&self.name);
        create.attributes(Attribute::RedrivePolicy, policy.to_string()).send().await.unwrap();
    }

    /// A queue without a redrive policy.
    pub async fn create_plain_queue(&self) {
        self.sqs.create_queue().queue_name(&self.name).send().await.unwrap();
    }

    /// The bucket.
    pub async fn create_bucket(&self) {
        self.s3.create_bucket().bucket(&self.name).send().await.unwrap();
    }

    /// Empties and deletes the bucket.
    pub async fn delete_bucket(&self) {
        for key in self.keys().await {
            self.s3.delete_object().bucket(&self.name).key(key).send().await.unwrap();
        }
        self.s3.delete_bucket().bucket(&self.name).send().await.unwrap();
    }

    /// Removes everything that may have been created; what is not there needs no removing.
    async fn remove(&self) {
        for url in [self.queue(), self.dead_letters()] {
            drop(self.sqs.delete_queue().queue_url(url).send().await);
        }
        if self.s3.head_bucket().bucket(&self.name).send().await.is_ok() {
            self.delete_bucket().await;
        }
    }

    /// Sends a message and gives its id.
    pub async fn send(&self, body: impl ToString) -> String {
        let sent = self.sqs.send_message().queue_url(self.queue()).message_body(body.to_string()).send().await;
        sent.unwrap().message_id.unwrap()
    }

    /// Sends a message with an attribute and gives its id.
    pub async fn send_with(&self, body: impl ToString, name: &str, value: &str) -> String {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap();
        let send = self.sqs.send_message().queue_url(self.queue()).message_body(body.to_string());
        send.message_attributes(name, value).send().await.unwrap().message_id.unwrap()
    }

    /// Messages of a queue, in whatever state.
    pub async fn count(&self, queue: &str) -> u32 {
        let (visible, hidden) = self.depth(queue).await;
        visible + hidden
    }

    /// Messages that can be received, and that are hidden or delayed.
    pub async fn depth(&self, queue: &str) -> (u32, u32) {
        let call = self.sqs.get_queue_attributes().queue_url(queue).attribute_names(Attribute::All);
        let all = call.send().await.unwrap().attributes.unwrap();
        let count = |name: Attribute| all[&name].parse::<u32>().unwrap();
        let hidden = count(Attribute::ApproximateNumberOfMessagesNotVisible);
        let delayed = count(Attribute::ApproximateNumberOfMessagesDelayed);
        (count(Attribute::ApproximateNumberOfMessages), hidden + delayed)
    }

    /// Waits until the queue holds nothing.
    pub async fn drained(&self) {
        let queue = self.queue();
        until_true("an empty queue", async || self.count(&queue).await == 0).await;
    }

    /// Receives one message, deletes it, and gives it with its attributes and receive count.
    pub async fn take(&self, queue: &str) -> Message {
        let message = until("a message to receive", async || {
            let call = self.sqs.receive_message().queue_url(queue).wait_time_seconds(2);
            let call = call.message_attribute_names("All").message_system_attribute_names("All".into());
            call.send().await.unwrap().messages.unwrap_or_default().pop()
        })
        .await;
        let delete = self.sqs.delete_message().queue_url(queue);
        delete.receipt_handle(message.receipt_handle.clone().unwrap()).send().await.unwrap();
        message
    }

    /// A job's record, once it is there.
    pub async fn record(&self, job_id: &str) -> ResultRecord {
        let key = record_key(job_id);
        let object = until(&format!("record {key}"), async || self.find(&key).await).await;
        serde_json::from_slice(&object.body).unwrap()
    }

    /// An object that is there.
    pub async fn object(&self, key: &str) -> Object {
        self.find(key).await.unwrap_or_else(|| panic!("no object {key}"))
    }

    /// An object, if it is there.
    pub async fn find(&self, key: &str) -> Option<Object> {
        let answer = self.s3.get_object().bucket(&self.name).key(key).send().await;
        let object = match answer {
            Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => return None,
            answer => answer.unwrap(),
        };
        Some(Object {
            content_type: object.content_type.unwrap(),
            metadata: object.metadata.unwrap_or_default(),
            etag: object.e_tag.unwrap(),
            body: object.body.collect().await.unwrap().to_vec(),
        })
    }

    /// Every key of the bucket.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.s3.list_objects_v2().bucket(&self.name).send().await.unwrap();
        listed.contents.unwrap_or_default().into_iter().map(|object| object.key.unwrap()).collect()
    }

    /// Puts a file of this machine.
    pub async fn upload(&self, key: &str, file: &Path) {
        self.put(key, &std::fs::read(file).unwrap(), &[]).await;
    }

    /// Puts an object with metadata.
    pub async fn put(&self, key: &str, body: &[u8], metadata: &[(&str, &str)]) {
        let mut put = self.s3.put_object().bucket(&self.name).key(key).body(ByteStream::from(body.to_vec()));
        for (name, value) in metadata {
            put = put.metadata(*name, *value);
        }
        put.send().await.unwrap();
    }
}

/// Where a job's record lies.
pub fn record_key(job_id: &str) -> String {
    format!("{PREFIX}{job_id}.record.json")
}

/// A string attribute of a message.
pub fn attribute<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.message_attributes.as_ref()?.get(name)?.string_value()
}
