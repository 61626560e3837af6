//! A server's queues and buckets, made and filled anew for every run, so that no run meets another's leftovers.

use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{QueueAttributeName as Attribute, SendMessageBatchRequestEntry as Entry};
use futures::{StreamExt as _, TryStreamExt as _};

/// The servers' only region here.
pub const REGION: &str = "us-east-1";
/// What they take for both halves of a key.
pub const KEY: &str = "test";
/// Most entries of one SQS batch call.
pub const BATCH: usize = 10;
/// Calls at once while a queue is filled.
const FILLING: usize = 4;

/// Clients of one server.
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
        let work = Work { messages, ..self.empty(name).await? };
        let calls: Vec<_> = (0..messages).step_by(BATCH).map(|first| self.send(&work, first)).collect();
        futures::stream::iter(calls).buffer_unordered(FILLING).try_collect::<()>().await?;
        Ok(work)
    }

    /// Sends the messages of `work` one after the other, ten at a time, at so many a second.
    pub async fn pace(&self, work: &Work, per_second: f64) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(BATCH as f64 / per_second));
        for first in (0..work.messages).step_by(BATCH) {
            ticks.tick().await;
            self.send(work, first).await?;
        }
        Ok(())
    }

    /// Sends ten of the messages of `work`, or what is left of them.
    async fn send(&self, work: &Work, first: usize) -> anyhow::Result<()> {
        let entry = |n: usize| {
            let body = format!(r#"{{"prompt":"a lighthouse at night, number {n}"}}"#);
            Entry::builder().id(n.to_string()).message_body(body).build()
        };
        let entries: Result<Vec<_>, _> = (first..work.messages.min(first + BATCH)).map(entry).collect();
        let call = self.sqs.send_message_batch().queue_url(&work.queue_url).set_entries(Some(entries?));
        let sent = call.send().await.with_context(|| format!("cannot fill queue {}", work.queue_url))?;
        anyhow::ensure!(sent.failed.is_empty(), "cannot fill queue {}: {:?}", work.queue_url, sent.failed);
        Ok(())
    }

    /// Fails unless `done` messages left the queue, each with an object: a run that did less is no measurement.
    pub async fn verify(&self, work: &Work, done: usize) -> anyhow::Result<()> {
        let records = self.objects(&work.bucket).await?.len();
        let counts = [
            Attribute::ApproximateNumberOfMessages,
            Attribute::ApproximateNumberOfMessagesNotVisible,
            Attribute::ApproximateNumberOfMessagesDelayed,
        ];
        let call = self.sqs.get_queue_attributes().queue_url(&work.queue_url);
        let answer = call.set_attribute_names(Some(counts.into())).send().await;
        let answer = answer.with_context(|| format!("cannot read queue {}", work.queue_url))?;
        let counts = answer.attributes.unwrap_or_default();
        let left: usize = counts.values().filter_map(|count| count.parse::<usize>().ok()).sum();
        // one that stops for lack of time may have put what it did not come to delete
        let recorded = if done == work.messages { records == done } else { records >= done };
        anyhow::ensure!(
            recorded && left + done == work.messages,
            "{}: of {} messages {done} are told to be done; there are {records} records, and {left} messages in the queue; this run measured nothing",
            work.bucket,
            work.messages,
        );
        Ok(())
    }

    /// All keys of a bucket.
    pub async fn objects(&self, bucket: &str) -> anyhow::Result<Vec<String>> {
        let mut pages = self.s3.list_objects_v2().bucket(bucket).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.with_context(|| format!("cannot list bucket {bucket}"))?;
            keys.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        Ok(keys)
    }

    /// An object's body.
    pub async fn object(&self, bucket: &str, key: &str) -> anyhow::Result<bytes::Bytes> {
        let object = self.s3.get_object().bucket(bucket).key(key).send().await;
        let object = object.with_context(|| format!("cannot get s3://{bucket}/{key}"))?;
        Ok(object.body.collect().await?.into_bytes())
    }

    /// A queue is of no more use; one that polls it waits no longer.
    pub async fn delete_queue(&self, work: &Work) -> anyhow::Result<()> {
        self.sqs.delete_queue().queue_url(&work.queue_url).send().await?;
        Ok(())
    }
}
