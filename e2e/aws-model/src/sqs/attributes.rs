//! A queue's attributes: their names, bounds and defaults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::error::{Code, Error};

/// The largest message, and the largest batch.
pub(crate) const LARGEST: usize = 1024 * 1024;

/// What a queue is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub visibility_timeout: Duration,
    pub delay: Duration,
    pub wait: Duration,
    pub retention: Duration,
    pub maximum_message_size: usize,
    pub redrive: Option<Redrive>,
    pub fifo: Option<Fifo>,
}

/// Where messages go that were received in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redrive {
    /// The dead-letter queue's name.
    pub target: Arc<str>,
    pub max_receive_count: u32,
}

/// What only FIFO queues have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fifo {
    pub content_based_deduplication: bool,
    /// Deduplication looks at the message's group alone.
    pub per_group: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    // a number or a text
    max_receive_count: serde_json::Value,
}

impl Attributes {
    /// Those of a new queue.
    pub fn new(is_fifo: bool) -> Self {
        Self {
            visibility_timeout: Duration::from_secs(30),
            delay: Duration::ZERO,
            wait: Duration::ZERO,
            retention: Duration::from_hours(4 * 24),
            maximum_message_size: LARGEST,
            redrive: None,
            fifo: is_fifo.then(Fifo::default),
        }
    }

    /// Sets what `given` names.
    pub fn set(&mut self, given: &BTreeMap<String, String>) -> Result<(), Error> {
        for (name, value) in given {
            match (name.as_str(), &mut self.fifo) {
                ("VisibilityTimeout", _) => self.visibility_timeout = seconds(name, value, 0, 43_200)?,
                ("DelaySeconds", _) => self.delay = seconds(name, value, 0, 900)?,
                ("ReceiveMessageWaitTimeSeconds", _) => self.wait = seconds(name, value, 0, 20)?,
                ("MessageRetentionPeriod", _) => self.retention = seconds(name, value, 60, 1_209_600)?,
                ("MaximumMessageSize", _) => {
                    self.maximum_message_size = number(name, value, 1024, LARGEST as u64)? as usize;
                }
                ("RedrivePolicy", _) if value.is_empty() => self.redrive = None,
                ("RedrivePolicy", _) => self.redrive = Some(redrive(value)?),
                ("FifoQueue", Some(_)) if value == "true" => {}
                ("ContentBasedDeduplication", Some(fifo)) => {
                    fifo.content_based_deduplication = choice(name, value, ["false", "true"])?;
                }
                ("DeduplicationScope", Some(fifo)) => fifo.per_group = choice(name, value, ["queue", "messageGroup"])?,
                ("FifoQueue", _) => return Err(unfit(name, value)),
                (
                    "Policy"
                    | "KmsMasterKeyId"
                    | "KmsDataKeyReusePeriodSeconds"
                    | "SqsManagedSseEnabled"
                    | "RedriveAllowPolicy"
                    | "FifoThroughputLimit",
                    _,
                ) => return Err(Error::not_modelled(format_args!("attribute {name}"))),
                _ => return Err(unknown(name)),
            }
        }
        Ok(())
    }

    /// All that are set, as SQS writes them.
    pub fn texts(&self) -> BTreeMap<&'static str, String> {
        let mut texts = BTreeMap::from([
            ("VisibilityTimeout", self.visibility_timeout.as_secs().to_string()),
            ("DelaySeconds", self.delay.as_secs().to_string()),
            ("ReceiveMessageWaitTimeSeconds", self.wait.as_secs().to_string()),
            ("MessageRetentionPeriod", self.retention.as_secs().to_string()),
            ("MaximumMessageSize", self.maximum_message_size.to_string()),
        ]);
        if let Some(redrive) = &self.redrive {
            let policy = serde_json::json!({
                "deadLetterTargetArn": super::arn(&redrive.target),
                "maxReceiveCount": redrive.max_receive_count,
            });
            texts.insert("RedrivePolicy", policy.to_string());
        }
        if let Some(fifo) = &self.fifo {
            texts.insert("FifoQueue", "true".into());
            texts.insert("ContentBasedDeduplication", fifo.content_based_deduplication.to_string());
            texts.insert("DeduplicationScope", if fifo.per_group { "messageGroup" } else { "queue" }.into());
        }
        texts
    }
}

fn redrive(policy: &str) -> Result<Redrive, Error> {
    let invalid = |reason: &str| Error::value(policy, "RedrivePolicy", reason);
    let parsed: RedrivePolicy = serde_json::from_str(policy).map_err(|error| invalid(&error.to_string()))?;
    let count = match &parsed.max_receive_count {
        serde_json::Value::Number(count) => count.as_u64(),
        serde_json::Value::String(count) => count.parse().ok(),
        _ => None,
    };
    let count = count.and_then(|count| u32::try_from(count).ok()).filter(|count| (1..=1000).contains(count));
    let max_receive_count =
        count.ok_or_else(|| invalid("Invalid value for maxReceiveCount, valid values are from 1 to 1000."))?;
    let target = super::name_in_arn(&parsed.dead_letter_target_arn)
        .ok_or_else(|| invalid("Invalid value for deadLetterTargetArn."))?;
    Ok(Redrive { target: target.into(), max_receive_count })
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, Error> {
    value.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| unfit(name, value))
}

fn seconds(name: &str, value: &str, least: u64, most: u64) -> Result<Duration, Error> {
    number(name, value, least, most).map(Duration::from_secs)
}

/// Which of two words `value` is.
fn choice(name: &str, value: &str, words: [&str; 2]) -> Result<bool, Error> {
    words.iter().position(|word| *word == value).map(|place| place == 1).ok_or_else(|| unfit(name, value))
}

fn unfit(name: &str, value: &str) -> Error {
    Error::new(Code::InvalidAttributeValue, format!("Invalid value for the parameter {name}: {value}"))
}

fn unknown(name: &str) -> Error {
    Error::new(Code::InvalidAttributeName, format!("Unknown Attribute {name}."))
}
