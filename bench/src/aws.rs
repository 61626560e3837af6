//! A LocalStack's queues and buckets, made and filled anew for every run, so that no run meets another's leftovers.

use anyhow::Context as _;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{QueueAttributeName as Attribute, SendMessageBatchRequestEntry as Entry};

/// LocalStack's only region here.
pub const REGION: &str = "us-east-1";
/// What LocalStack takes for both halves of a key.
pub const KEY: &str = "test";
/// Most entries of one SQS batch call.
pub const BATCH: usize = 10;

/// Clients of one LocalStack.
#[derive(Debug, Clone)]
pub struct Aws {
    /// Where it listens.
    pub endpoint: String,
    /// Of queues.
    pub sqs: aws_sdk_sqs::Client,
    /// Of buckets.
    pub s3: aws_sdk_s3::Client,
}

/// What one run has to do: the messages of a queue, and the bucket for their records.
#[derive(Debug, Clone)]
pub struct Work {
    /// The queue, full.
    pub queue_url: String,
    /// The bucket, empty.
    pub bucket: String,
    /// How many messages.
    pub messages: usize,
}

impl Aws {
    /// Clients for `endpoint`, with nothing taken from the environment.
    pub fn new(endpoint: &str) -> Self {
        let credentials = Credentials::new(KEY, KEY, None, None, "localstack");
        let sqs = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials.clone())
            .endpoint_url(endpoint);
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .force_path_style(true)
            .endpoint_url(endpoint);
        Self {
            endpoint: endpoint.into(),
            sqs: aws_sdk_sqs::Client::from_conf(sqs.build()),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
        }
    }

    /// An empty queue and an empty bucket called `name`.
    pub async fn empty(&self, name: &str) -> anyhow::Result<Work> {
        let queue = self.sqs.create_queue().queue_name(name).send().await;
        let queue = queue.with_context(|| format!("cannot create queue {name}"))?;
        let bucket = self.s3.create_bucket().bucket(name).send().await;
        bucket.with_context(|| format!("cannot create bucket {name}"))?;
        Ok(Work { queue_url: queue.queue_url.unwrap_or_default(), bucket: name.into(), messages: 0 })
    }

    /// The same with `messages` prompts in the queue.
    pub async fn work(&self, name: &str, messages: usize) -> anyhow::Result<Work> {
        let work = self.empty(name).await?;
        for first in (0..messages).step_by(BATCH) {
            let entry = |n: usize| {
                let body = format!(r#"{{"prompt":"a lighthouse at night, number {n}"}}"#);
                Entry::builder().id(n.to_string()).message_body(body).build()
            };
            let entries: Result<Vec<_>, _> = (first..messages.min(first + BATCH)).map(entry).collect();
            let call = self.sqs.send_message_batch().queue_url(&work.queue_url).set_entries(Some(entries?));
            let sent = call.send().await.with_context(|| format!("cannot fill queue {name}"))?;
            anyhow::ensure!(sent.failed.is_empty(), "cannot fill queue {name}: {:?}", sent.failed);
        }
        Ok(Work { messages, ..work })
    }

    /// Fails unless every message became one object and left the queue: a run that did less is no measurement.
    pub async fn verify(&self, work: &Work) -> anyhow::Result<()> {
        let mut pages = self.s3.list_objects_v2().bucket(&work.bucket).into_paginator().send();
        let mut records = 0;
        while let Some(page) = pages.next().await {
            records += page.with_context(|| format!("cannot list bucket {}", work.bucket))?.contents().len();
        }
        let counts = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        let call = self.sqs.get_queue_attributes().queue_url(&work.queue_url);
        let answer = call.set_attribute_names(Some(counts.into())).send().await;
        let answer = answer.with_context(|| format!("cannot read queue {}", work.queue_url))?;
        let left: Vec<_> = answer.attributes.unwrap_or_default().into_values().filter(|count| count != "0").collect();
        anyhow::ensure!(
            records == work.messages && left.is_empty(),
            "{}: {} messages left {records} records, and in the queue {left:?}; this run measured nothing",
            work.bucket,
            work.messages,
        );
        Ok(())
    }

    /// The first object of a bucket.
    pub async fn first_object(&self, bucket: &str) -> anyhow::Result<bytes::Bytes> {
        let page = self.s3.list_objects_v2().bucket(bucket).max_keys(1).send().await?;
        let key = page.contents().first().and_then(|object| object.key()).context("the bucket is empty")?;
        let object = self.s3.get_object().bucket(bucket).key(key).send().await?;
        Ok(object.body.collect().await?.into_bytes())
    }

    /// A queue is of no more use; one that polls it waits no longer.
    pub async fn delete_queue(&self, work: &Work) -> anyhow::Result<()> {
        self.sqs.delete_queue().queue_url(&work.queue_url).send().await?;
        Ok(())
    }
}
