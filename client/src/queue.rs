//! A queue's numbers, and queues made as millrace wants them.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use millrace_api::is_fifo;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Client;
use crate::error::Error;

/// Fourteen days, SQS's longest.
const RETENTION: &str = "1209600";
/// Twenty seconds, SQS's longest poll.
const LONG_POLL: &str = "20";

/// What a queue holds, as SQS counts it (approximately).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Its URL.
    pub url: String,
    /// Messages that can be received now.
    pub visible: u64,
    /// Messages that workers hold.
    pub in_flight: u64,
    /// Messages that become visible later.
    pub delayed: u64,
    /// Receives after which a message goes to the dead-letter queue; none without one.
    pub max_receive_count: Option<u64>,
    /// URL of the dead-letter queue.
    pub dead_letter_url: Option<String>,
    /// Messages in it, where they may be counted.
    pub dead_letters: Option<u64>,
}

/// A queue to be made, with its dead-letter queue.
///
/// It keeps messages for 14 days, and polls wait for 20 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePlan {
    /// Its name; one that ends in `.fifo` makes FIFO queues.
    pub name: String,
    /// Receives after which a message goes to the dead-letter queue.
    pub max_receive_count: u32,
    /// For consumers that say nothing else, in seconds.
    pub visibility_timeout: u32,
}

impl QueuePlan {
    /// The dead-letter queue's name.
    pub fn dead_letter_name(&self) -> String {
        match self.name.strip_suffix(".fifo") {
            Some(stem) => format!("{stem}-dead.fifo"),
            None => format!("{}-dead", self.name),
        }
    }

    /// Makes both, and gives the URLs: the queue's and its dead-letter queue's. What is there with the same attributes
    /// stays as it is.
    pub async fn create(&self, sqs: &aws_sdk_sqs::Client) -> Result<(String, String), Error> {
        let common = [(Name::MessageRetentionPeriod, RETENTION), (Name::ReceiveMessageWaitTimeSeconds, LONG_POLL)];
        let mut attributes: HashMap<Name, String> =
            common.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        if is_fifo(&self.name) {
            attributes.insert(Name::FifoQueue, "true".into());
        }
        let dead_name = self.dead_letter_name();
        let dead_url = create(sqs, &dead_name, attributes.clone()).await?;
        let arn = queue_arn(sqs, &dead_url).await?;
        let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": self.max_receive_count });
        attributes.insert(Name::RedrivePolicy, policy.to_string());
        attributes.insert(Name::VisibilityTimeout, self.visibility_timeout.to_string());
        Ok((create(sqs, &self.name, attributes).await?, dead_url))
    }
}

async fn create(sqs: &aws_sdk_sqs::Client, name: &str, attributes: HashMap<Name, String>) -> Result<String, Error> {
    let made = sqs.create_queue().queue_name(name).set_attributes(Some(attributes)).send().await;
    let made = made.map_err(|e| Error::aws("sqs:CreateQueue", name, &e))?;
    Ok(made.queue_url.unwrap_or_default())
}

/// A queue's ARN.
pub(crate) async fn queue_arn(sqs: &aws_sdk_sqs::Client, url: &str) -> Result<String, Error> {
    let mut all = attributes(sqs, url, &[Name::QueueArn]).await?;
    Ok(all.remove(&Name::QueueArn).unwrap_or_default())
}

async fn attributes(sqs: &aws_sdk_sqs::Client, url: &str, names: &[Name]) -> Result<HashMap<Name, String>, Error> {
    let answer = sqs.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec())).send().await;
    let answer = answer.map_err(|e| Error::aws("sqs:GetQueueAttributes", url, &e))?;
    Ok(answer.attributes.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    // AWS writes a number, other servers a text
    max_receive_count: serde_json::Value,
}

impl RedrivePolicy {
    /// The dead-letter queue's URL: it is always of the same account and region as the queue at `url`.
    fn dead_letter_url(&self, url: &str) -> Option<String> {
        let name = self.dead_letter_target_arn.rsplit(':').next()?;
        let (base, _) = url.trim_end_matches('/').rsplit_once('/')?;
        Some(format!("{base}/{name}"))
    }

    fn receives(&self) -> Option<u64> {
        self.max_receive_count.as_u64().or_else(|| self.max_receive_count.as_str()?.parse().ok())
    }
}

impl Client {
    /// The queue's numbers, and how many dead letters it has where they may be counted.
    pub async fn queue_stats(&self) -> Result<QueueStats, Error> {
        let url = &self.consumer.queue.url;
        let counts = [
            Name::ApproximateNumberOfMessages,
            Name::ApproximateNumberOfMessagesNotVisible,
            Name::ApproximateNumberOfMessagesDelayed,
        ];
        let [visible, in_flight, delayed] = counts.clone();
        let all = attributes(&self.sqs, url, &[counts.as_slice(), &[Name::RedrivePolicy]].concat()).await?;
        let policy = policy(&all);
        let dead_letter_url = policy.as_ref().and_then(|policy| policy.dead_letter_url(url));
        let dead_letters = match &dead_letter_url {
            // who may not look at it may still know the queue's own numbers
            Some(dead) => attributes(&self.sqs, dead, &counts).await.ok().map(|all| count(&all, &counts[0])),
            None => None,
        };
        Ok(QueueStats {
            url: url.clone(),
            visible: count(&all, &visible),
            in_flight: count(&all, &in_flight),
            delayed: count(&all, &delayed),
            max_receive_count: policy.as_ref().and_then(RedrivePolicy::receives),
            dead_letter_url,
            dead_letters,
        })
    }

    /// Deletes every message of the queue, for good. SQS takes up to a minute.
    pub async fn purge(&self) -> Result<(), Error> {
        purge(&self.sqs, &self.consumer.queue.url).await
    }

    /// The dead-letter queue's URL; an error where the queue has none.
    pub(crate) async fn dead_letter_url(&self) -> Result<String, Error> {
        let url = &self.consumer.queue.url;
        let all = attributes(&self.sqs, url, &[Name::RedrivePolicy]).await?;
        let missing = || Error::Config(format!("{url} has no dead-letter queue: give it a redrive policy"));
        policy(&all).and_then(|policy| policy.dead_letter_url(url)).ok_or_else(missing)
    }
}

pub(crate) async fn purge(sqs: &aws_sdk_sqs::Client, url: &str) -> Result<(), Error> {
    let purged = sqs.purge_queue().queue_url(url).send().await;
    purged.map(|_| ()).map_err(|e| Error::aws("sqs:PurgeQueue", url, &e))
}

fn policy(attributes: &HashMap<Name, String>) -> Option<RedrivePolicy> {
    serde_json::from_str(attributes.get(&Name::RedrivePolicy)?).ok()
}

fn count(attributes: &HashMap<Name, String>, name: &Name) -> u64 {
    attributes.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
}
