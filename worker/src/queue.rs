//! What the worker must know of its queue: that it is there, and where messages that fail for good go.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use millrace_api::{QueueSpec, RecordError, is_fifo};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::aws::{CREDENTIALS_FIX, Trouble, explain, trouble};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::state::{Part, State};

/// How often the redrive policy is read again.
const REFRESH: Duration = Duration::from_mins(5);
/// Receives that a job which kills its workers needs until it is told from its neighbours.
const ENOUGH_RECEIVES: u32 = 5;
/// Longest attribute value that is sent along to the dead-letter queue, in characters.
const MAX_ATTRIBUTE: usize = 1000;
/// SQS's own default, for servers that do not tell.
const DEFAULT_RETENTION: Duration = Duration::from_hours(96);
/// Most attributes that SQS takes.
const MAX_ATTRIBUTES: usize = 10;

/// What the queue says of messages that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// Receives after which a message is given up.
    pub max_receive_count: u32,
    /// URL of the dead-letter queue; none where the queue has no redrive policy.
    pub dead_letter_url: Option<String>,
    /// How long SQS keeps a message, from when it was sent.
    pub retention: Duration,
}

impl Redrive {
    fn warn_if_few(&self, queue: &str) {
        if self.dead_letter_url.is_some() && self.max_receive_count < ENOUGH_RECEIVES {
            tracing::warn!(
                queue,
                max_receive_count = self.max_receive_count,
                "the redrive policy allows fewer than {ENOUGH_RECEIVES} receives: a job whose workers are killed at each reaches the dead-letter queue without a record of why"
            );
        }
    }
}

/// A problem with the queue, in the words of `/state` and conditions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueueError {
    /// `QueueNotFound`, `QueueAccessDenied`, …
    pub reason: &'static str,
    /// The queue and the fix.
    pub message: String,
}

/// The worker's side of one queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// For all but long polls.
    pub sqs: aws_sdk_sqs::Client,
    /// Its URL.
    pub url: String,
    fallback_receives: u32,
    metrics: Arc<Metrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    // AWS writes a number, other servers a text
    max_receive_count: serde_json::Value,
}

impl Queue {
    /// The queue of `spec`.
    pub fn new(sqs: aws_sdk_sqs::Client, spec: &QueueSpec, metrics: Arc<Metrics>) -> Self {
        let fallback_receives = u32::try_from(spec.max_receive_count).unwrap_or(1);
        Self { sqs, url: spec.url.clone(), fallback_receives, metrics }
    }

    /// Reads the redrive policy; also the proof that the queue is there and may be read.
    pub async fn read_redrive(&self) -> Result<Redrive, QueueError> {
        let call = self.sqs.get_queue_attributes().queue_url(&self.url);
        let wanted = [QueueAttributeName::RedrivePolicy, QueueAttributeName::MessageRetentionPeriod];
        let answer = call.set_attribute_names(Some(wanted.to_vec())).send().await;
        self.metrics.request("GetQueueAttributes", answer.is_ok());
        let answer = answer.map_err(|e| queue_error(&self.url, "sqs:GetQueueAttributes", trouble(&e), &explain(&e)))?;
        let attribute = |name| answer.attributes().and_then(|all| all.get(&name));
        let policy = attribute(QueueAttributeName::RedrivePolicy).and_then(|text| self.parse(text));
        let (max_receive_count, dead_letter_url) =
            policy.map_or((self.fallback_receives, None), |(count, url)| (count, Some(url)));
        let retention = attribute(QueueAttributeName::MessageRetentionPeriod).and_then(|text| text.parse().ok());
        Ok(Redrive {
            max_receive_count,
            dead_letter_url,
            retention: retention.map_or(DEFAULT_RETENTION, Duration::from_secs),
        })
    }

    /// Receives allowed by a redrive policy, and the URL of its dead-letter queue.
    fn parse(&self, text: &str) -> Option<(u32, String)> {
        let policy: RedrivePolicy = serde_json::from_str(text).ok()?;
        let count = match policy.max_receive_count {
            serde_json::Value::Number(n) => n.as_u64()?,
            serde_json::Value::String(s) => s.parse().ok()?,
            _ => return None,
        };
        let name = policy.dead_letter_target_arn.rsplit(':').next()?;
        // a dead-letter queue is always of the same account and region, so only the name differs
        let (base, _) = self.url.trim_end_matches('/').rsplit_once('/')?;
        Some((u32::try_from(count).unwrap_or(u32::MAX), format!("{base}/{name}")))
    }

    /// Reads the redrive policy until that works, then keeps it fresh.
    pub async fn watch_redrive(self, state: Arc<State>, stop: CancellationToken) -> Option<watch::Receiver<Redrive>> {
        let mut pause = Duration::from_secs(2);
        let first = loop {
            match self.read_redrive().await {
                Ok(redrive) => break redrive,
                Err(error) => {
                    if state.set_problem(Part::Queue, error.reason, &error.message) {
                        tracing::error!(reason = error.reason, "{}", error.message);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
            }
        };
        if state.clear_problem(Part::Queue) {
            tracing::info!("the queue can be read again");
        }
        first.warn_if_few(&self.url);
        let (sender, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                    () = tokio::time::sleep(REFRESH) => {}
                }
                if let Ok(redrive) = self.read_redrive().await
                    && *sender.borrow() != redrive
                {
                    redrive.warn_if_few(&self.url);
                    sender.send_replace(redrive);
                }
            }
        });
        Some(receiver)
    }

    /// Sends a message that can never run to the dead-letter queue, with the error and its own attributes; `bare` with
    /// its job id alone, for one that leaves no room for more.
    pub async fn dead_letter(
        &self,
        url: &str,
        message: &Message,
        job_id: &str,
        error: &RecordError,
        bare: bool,
    ) -> Result<(), (Trouble, QueueError)> {
        let attributes = attributes(message, job_id, error);
        let mut call = self.sqs.send_message().queue_url(url).message_body(&message.body);
        if is_fifo(url) {
            // in its group's order, and once however often it is tried
            let group = message.group.as_deref().unwrap_or(&message.id);
            call = call.message_group_id(group).message_deduplication_id(&message.id);
        }
        for (name, value) in attributes.into_iter().take(if bare { 1 } else { MAX_ATTRIBUTES }) {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
            let unsendable = |e| (Trouble::Other, queue_error(url, "sqs:SendMessage", Trouble::Other, &format!("{e}")));
            call = call.message_attributes(name, value.map_err(unsendable)?);
        }
        let answer = call.send().await;
        self.metrics.request("SendMessage", answer.is_ok());
        answer.map(|_| ()).map_err(|error| {
            let trouble = trouble(&error);
            (trouble, queue_error(url, "sqs:SendMessage", trouble, &explain(&error)))
        })
    }
}

/// A dead letter's attributes: the job id first, then the error, then its own. SQS takes no empty values, no control
/// characters, and ten attributes at most.
fn attributes(message: &Message, job_id: &str, error: &RecordError) -> Vec<(String, String)> {
    let ours = [
        ("millrace-job-id", job_id),
        ("millrace-error-code", &error.code),
        ("millrace-error-message", &error.message),
        ("millrace-error-field", error.field.as_deref().unwrap_or_default()),
    ];
    let own = message.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let own = own.filter(|(name, _)| !name.starts_with("millrace-"));
    let sendable =
        |c: char| if matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..) { c } else { '\u{FFFD}' };
    ours.into_iter()
        .chain(own)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.chars().take(MAX_ATTRIBUTE).map(sendable).collect()))
        .take(MAX_ATTRIBUTES)
        .collect()
}

/// Words for a problem with the queue at `url`, met while doing `action`.
pub fn queue_error(url: &str, action: &str, trouble: Trouble, detail: &str) -> QueueError {
    let (reason, fix) = match trouble {
        Trouble::NotFound => ("QueueNotFound", "create it, or correct queue.url"),
        Trouble::AccessDenied => ("QueueAccessDenied", "allow the worker's role this action on the queue"),
        Trouble::Credentials => ("CredentialsMissing", CREDENTIALS_FIX),
        Trouble::Throttled => ("QueueThrottled", "SQS asks for fewer calls; it is tried again"),
        Trouble::Unreachable => {
            ("QueueUnreachable", "check queue.endpoint, DNS and network policies; it is tried again")
        }
        Trouble::Other => ("QueueError", "see the error"),
    };
    QueueError { reason, message: format!("{action} on {url}: {detail}; {fix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let config = aws_sdk_sqs::Config::builder().behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest());
        let spec: QueueSpec =
            serde_json::from_value(serde_json::json!({ "url": "http://localstack:4566/000000000000/prompts" }))
                .unwrap();
        let text = "consumer: {namespace: a, name: b}\nqueue: {url: 'http://h/0/q', region: r}\nmodel: {task: Echo}\noutput: {bucket: b}";
        let worker: millrace_api::WorkerConfig = serde_yaml::from_str(text).unwrap();
        Queue::new(aws_sdk_sqs::Client::from_conf(config.build()), &spec, Arc::new(Metrics::new(&worker)))
    }

    #[test]
    fn the_dead_letter_queue_is_beside_the_queue() {
        let wanted = (4, "http://localstack:4566/000000000000/prompts-dlq".to_owned());
        for count in ["4", "\"4\""] {
            let text = format!(
                r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:prompts-dlq","maxReceiveCount":{count}}}"#
            );
            assert_eq!(queue().parse(&text), Some(wanted.clone()), "{count}");
        }
        assert_eq!(queue().parse("{}"), None);
    }

    #[test]
    fn a_dead_letter_has_only_attributes_that_sqs_takes() {
        let own: std::collections::BTreeMap<String, String> =
            (0..12).map(|n| (format!("own{n:02}"), "v".into())).chain([("empty".into(), String::new())]).collect();
        let message = Message {
            id: "m".into(),
            receipt_handle: "h".into(),
            body: "{".into(),
            receive_count: 1,
            sent_at: jiff::Timestamp::UNIX_EPOCH,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            polled: std::time::Instant::now(),
            poll_took: std::time::Duration::ZERO,
            attributes: own,
            group: None,
            trace_header: None,
        };
        let error = |field: &str| RecordError {
            code: "InvalidInput".into(),
            message: "x".repeat(5000),
            field: Some(field.into()),
        };
        let with_field = attributes(&message, "j 1", &error("a\u{1}b"));
        assert_eq!(with_field[0], ("millrace-job-id".into(), "j 1".into()));
        assert_eq!(with_field[3], ("millrace-error-field".into(), "a\u{FFFD}b".into()));
        assert_eq!((with_field.len(), with_field[2].1.len()), (MAX_ATTRIBUTES, MAX_ATTRIBUTE));
        let without = attributes(&message, "j", &error(""));
        assert!(without.iter().all(|(name, value)| name != "millrace-error-field" && !value.is_empty()));
    }

    #[test]
    fn a_problem_names_the_queue_the_action_and_the_fix() {
        let error = queue_error("http://h/0/q", "sqs:ReceiveMessage", Trouble::AccessDenied, "AccessDenied: no");
        assert_eq!(error.reason, "QueueAccessDenied");
        for part in ["http://h/0/q", "sqs:ReceiveMessage", "AccessDenied: no", "allow the worker's role"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}
