//! A scenario's queue with its dead-letter queue.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::{QueueAttributeName as Name, SendMessageBatchRequestEntry};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::{IN_CLUSTER, Lab, REGION, eventually};

/// LocalStack's account.
const ACCOUNT: &str = "000000000000";
/// Receives after which SQS gives a message up, unless a scenario says otherwise.
const MAX_RECEIVES: u32 = 5;
/// Batches of a flood that are sent at a time.
const AT_ONCE: usize = 8;

/// A queue, which may not exist yet. It remembers what was sent to it.
#[derive(Debug)]
pub struct Queue<'a> {
    lab: &'a Lab,
    name: String,
    dead: String,
    fifo: bool,
    max_receives: u32,
    sent: Mutex<Vec<Sent>>,
}

/// A message as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// SQS's id of it.
    pub id: String,
    /// Its body.
    pub body: String,
}

/// A queue's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Can be received now.
    pub visible: i64,
    /// Held by workers.
    pub in_flight: i64,
}

/// A message that was taken out of a queue.
#[derive(Debug)]
pub struct Letter {
    /// SQS's id of it. In a dead-letter queue the message's own where SQS moved it, another where a worker sent it on.
    pub id: String,
    /// As it was sent.
    pub body: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Lab {
    /// A queue of this scenario that does not exist yet.
    pub fn missing_queue(&self, name: &str) -> Queue<'_> {
        let name = format!("{}-{name}", self.name);
        let dead = format!("{name}-dead");
        Queue { lab: self, name, dead, fifo: false, max_receives: MAX_RECEIVES, sent: Mutex::default() }
    }

    /// A new queue with a dead-letter queue.
    pub async fn queue(&self, name: &str) -> Result<Queue<'_>> {
        let queue = self.missing_queue(name);
        queue.create().await?;
        Ok(queue)
    }

    /// A new queue whose messages are given up after so many receives.
    pub async fn queue_with_receives(&self, name: &str, max_receives: u32) -> Result<Queue<'_>> {
        let queue = Queue { max_receives, ..self.missing_queue(name) };
        queue.create().await?;
        Ok(queue)
    }

    /// A new FIFO queue with a dead-letter queue.
    pub async fn fifo_queue(&self, name: &str) -> Result<Queue<'_>> {
        let standard = self.missing_queue(name);
        let (name, dead) = (format!("{}.fifo", standard.name), format!("{}.fifo", standard.dead));
        let queue = Queue { name, dead, fifo: true, ..standard };
        queue.create().await?;
        Ok(queue)
    }
}

impl Queue<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL as a QueueConsumer has it.
    pub fn url(&self) -> String {
        format!("{IN_CLUSTER}/{ACCOUNT}/{}", self.name)
    }

    fn url_here(&self) -> String {
        format!("{}/{ACCOUNT}/{}", self.lab.endpoint, self.name)
    }

    fn dead_letters_here(&self) -> String {
        format!("{}/{ACCOUNT}/{}", self.lab.endpoint, self.dead)
    }

    /// Creates it, with its dead-letter queue.
    pub async fn create(&self) -> Result<()> {
        let create = |name: &str| {
            let call = self.lab.sqs.create_queue().queue_name(name);
            if self.fifo { call.attributes(Name::FifoQueue, "true") } else { call }
        };
        create(&self.dead).send().await.context("create the dead-letter queue")?;
        let arn = format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}", self.dead);
        let redrive = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": self.max_receives }).to_string();
        create(&self.name).attributes(Name::RedrivePolicy, redrive).send().await.context("create the queue")?;
        Ok(())
    }

    /// Deletes it.
    pub async fn delete(&self) -> Result<()> {
        self.lab.sqs.delete_queue().queue_url(self.url_here()).send().await?;
        Ok(())
    }

    /// Sends messages, and gives their ids in order.
    pub async fn send(&self, bodies: &[impl AsRef<str>]) -> Result<Vec<String>> {
        self.send_batches(bodies, None).await
    }

    /// Sends messages of one group, and gives their ids in order.
    pub async fn send_group(&self, group: &str, bodies: &[impl AsRef<str>]) -> Result<Vec<String>> {
        self.send_batches(bodies, Some(group)).await
    }

    async fn send_batches(&self, bodies: &[impl AsRef<str>], group: Option<&str>) -> Result<Vec<String>> {
        let mut ids = Vec::with_capacity(bodies.len());
        for chunk in bodies.chunks(10) {
            ids.extend(self.send_batch(chunk, group).await?);
        }
        ensure!(ids.len() == bodies.len(), "{} messages sent, {} ids", bodies.len(), ids.len());
        let sent = ids.iter().zip(bodies).map(|(id, body)| Sent { id: id.clone(), body: body.as_ref().to_owned() });
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).extend(sent);
        Ok(ids)
    }

    async fn send_batch(&self, bodies: &[impl AsRef<str>], group: Option<&str>) -> Result<Vec<String>> {
        let mut call = self.lab.sqs.send_message_batch().queue_url(self.url_here());
        for (index, body) in bodies.iter().enumerate() {
            let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string());
            if let Some(group) = group {
                let unique = format!("{:016x}", fastrand::u64(..));
                entry = entry.message_group_id(group).message_deduplication_id(unique);
            }
            call = call.entries(entry.message_body(body.as_ref()).build()?);
        }
        let answer = call.send().await?;
        ensure!(answer.failed().is_empty(), "SQS refused {:?}", answer.failed());
        let mut sent: BTreeMap<usize, String> = BTreeMap::new();
        for entry in answer.successful() {
            sent.insert(entry.id().parse()?, entry.message_id().to_owned());
        }
        Ok(sent.into_values().collect())
    }

    /// Sends so many messages of one body in no order: too many to be kept account of. A FIFO queue gets them as one group.
    pub async fn flood(&self, body: &str, messages: usize) -> Result<()> {
        let group = self.fifo.then_some("flood");
        let batches = (0..messages).step_by(10).map(|done| vec![body; (messages - done).min(10)]);
        let sending = batches.map(async |batch| self.send_batch(&batch, group).await.map(drop));
        futures::stream::iter(sending).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        eprintln!("{messages} messages are in queue {}", self.name);
        Ok(())
    }

    /// Empties it.
    pub async fn purge(&self) -> Result<()> {
        self.lab.sqs.purge_queue().queue_url(self.url_here()).send().await?;
        Ok(())
    }

    /// All that was ever sent to it, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a message visible that a worker holds by this handle.
    pub async fn show(&self, receipt_handle: &str) -> Result<()> {
        let call = self.lab.sqs.change_message_visibility().queue_url(self.url_here()).visibility_timeout(0);
        call.receipt_handle(receipt_handle).send().await?;
        Ok(())
    }

    /// What it counts.
    pub async fn counts(&self) -> Result<Counts> {
        self.counts_of(&self.url_here()).await
    }

    /// Waits until nothing is in it: neither waiting nor held. Counts are approximate, and a message whose lease has just
    /// ended is in none of them for a moment: so they are asked for more than once.
    pub async fn await_empty(&self) -> Result<()> {
        eventually(format!("queue {} is empty", self.name), async || {
            for pause in [Duration::from_millis(300), Duration::from_millis(700), Duration::ZERO] {
                let counts = self.counts().await?;
                ensure!(counts == Counts { visible: 0, in_flight: 0 }, "{counts:?}");
                tokio::time::sleep(pause).await;
            }
            Ok(())
        })
        .await
    }

    /// How many messages were given up.
    pub async fn dead(&self) -> Result<i64> {
        let counts = self.counts_of(&self.dead_letters_here()).await?;
        Ok(counts.visible + counts.in_flight)
    }

    /// Receives what can be received, and gives it back, until SQS has given up all that was sent.
    pub async fn give_up(&self) -> Result<()> {
        let all = i64::try_from(self.sent().len())?;
        eventually("SQS has given up all messages", async || {
            let call = self.lab.sqs.receive_message().queue_url(self.url_here()).max_number_of_messages(10);
            call.visibility_timeout(0).send().await?;
            let dead = self.dead().await?;
            ensure!(dead == all, "{dead} of {all}");
            Ok(())
        })
        .await
    }

    /// Takes all messages out of the dead-letter queue.
    pub async fn take_dead(&self) -> Result<Vec<Letter>> {
        self.take_from(&self.dead_letters_here()).await
    }

    /// Takes all messages out of it, as who is told of results on it does.
    pub async fn take(&self) -> Result<Vec<Letter>> {
        self.take_from(&self.url_here()).await
    }

    async fn take_from(&self, url: &str) -> Result<Vec<Letter>> {
        let mut taken = Vec::new();
        loop {
            let call = self.lab.sqs.receive_message().queue_url(url).max_number_of_messages(10);
            let answer = call.message_attribute_names("All").send().await?;
            if answer.messages().is_empty() {
                return Ok(taken);
            }
            for message in answer.messages() {
                let attributes = message.message_attributes().into_iter().flatten();
                let text = |(name, value): (&String, &aws_sdk_sqs::types::MessageAttributeValue)| {
                    (name.clone(), value.string_value().unwrap_or_default().to_owned())
                };
                let body = message.body().unwrap_or_default().to_owned();
                let id = message.message_id().unwrap_or_default().to_owned();
                taken.push(Letter { id, body, attributes: attributes.map(text).collect() });
                let handle = message.receipt_handle().unwrap_or_default();
                self.lab.sqs.delete_message().queue_url(url).receipt_handle(handle).send().await?;
            }
        }
    }

    async fn counts_of(&self, url: &str) -> Result<Counts> {
        let call = self.lab.sqs.get_queue_attributes().queue_url(url).attribute_names(Name::All);
        let answer = call.send().await?;
        let count = |name: &Name| -> Result<i64> {
            let text = answer.attributes().and_then(|a| a.get(name)).with_context(|| format!("no {name:?}"))?;
            Ok(text.parse()?)
        };
        let delayed = count(&Name::ApproximateNumberOfMessagesDelayed)?;
        Ok(Counts {
            visible: count(&Name::ApproximateNumberOfMessages)? + delayed,
            in_flight: count(&Name::ApproximateNumberOfMessagesNotVisible)?,
        })
    }
}
