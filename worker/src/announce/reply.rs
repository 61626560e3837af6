//! Announcements on a queue: `reply_to`, else `output.reply`.

use std::sync::Arc;

use aws_sdk_sqs::types::{
    MessageAttributeValue, MessageSystemAttributeNameForSends as SystemName, MessageSystemAttributeValue,
};
use millrace_api::{ReplyFormat, ReplySpec, is_fifo};

use super::Failure;
use super::notice::{Notice, trace};
use crate::aws::{CREDENTIALS_FIX, Trouble, explain, trouble};
use crate::message::Message;
use crate::metrics::Metrics;

/// Most bytes of a message, its attributes included.
const MAX_MESSAGE: usize = 1024 * 1024;
const TEXT: &str = "String";

/// The worker's side of reply queues, all of the consumer's own region and endpoint.
#[derive(Debug, Clone)]
pub(super) struct Replies {
    sqs: aws_sdk_sqs::Client,
    own: Option<ReplySpec>,
    metrics: Arc<Metrics>,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Letter {
    body: String,
    /// Instead, where a queue does not take messages as large as SQS does.
    shorter: Option<String>,
    attributes: Vec<(&'static str, String)>,
    /// Message group and deduplication id, where the queue is a FIFO one.
    fifo: Option<(String, String)>,
    /// For X-Ray.
    trace_header: Option<String>,
}

impl Replies {
    pub(super) fn new(sqs: aws_sdk_sqs::Client, own: Option<ReplySpec>, metrics: Arc<Metrics>) -> Self {
        Self { sqs, own, metrics }
    }

    /// Which queue is told: the one that the message names, else the consumer's.
    pub(super) fn queue<'a>(&'a self, reply_to: Option<&'a str>) -> Option<&'a str> {
        reply_to.or(self.own.as_ref().map(|reply| reply.queue_url.as_str()))
    }

    /// Sends one announcement, once.
    pub(super) async fn send(&self, queue: &str, notice: &Notice<'_>, message: &Message) -> Result<(), Failure> {
        let format = self.own.as_ref().map(|reply| reply.format).unwrap_or_default();
        let letter = letter(format, is_fifo(queue), notice, message);
        let sent = self.send_body(queue, &letter, letter.body.clone()).await;
        match (sent, &letter.shorter) {
            // a queue may have a limit of its own
            (Err((Trouble::Other, _)), Some(shorter)) => self.send_body(queue, &letter, shorter.clone()).await,
            (sent, _) => sent,
        }
        .map_err(|(_, failure)| failure)
    }

    async fn send_body(&self, queue: &str, letter: &Letter, body: String) -> Result<(), (Trouble, Failure)> {
        let mut call = self.sqs.send_message().queue_url(queue).message_body(body);
        let unsendable = |error| (Trouble::Other, failure(queue, Trouble::Other, &format!("{error}")));
        for (name, value) in &letter.attributes {
            let value = MessageAttributeValue::builder().data_type(TEXT).string_value(value).build();
            call = call.message_attributes(*name, value.map_err(unsendable)?);
        }
        if let Some(header) = &letter.trace_header {
            let value = MessageSystemAttributeValue::builder().data_type(TEXT).string_value(header).build();
            call = call.message_system_attributes(SystemName::AwsTraceHeader, value.map_err(unsendable)?);
        }
        if let Some((group, key)) = &letter.fifo {
            call = call.message_group_id(group).message_deduplication_id(key);
        }
        let answer = call.send().await;
        self.metrics.request("SendMessage", answer.is_ok());
        answer.map(|_| ()).map_err(|error| {
            let trouble = trouble(&error);
            (trouble, failure(queue, trouble, &explain(&error)))
        })
    }
}

fn letter(format: ReplyFormat, fifo: bool, notice: &Notice<'_>, message: &Message) -> Letter {
    let mut attributes: Vec<_> = trace(message).map(|(name, value)| (name, value.to_owned())).collect();
    if format == ReplyFormat::StatusAttributes {
        attributes.extend([
            ("status", notice.status().to_owned()),
            ("replyMessageId", message.id.clone()),
            ("createdAt", notice.created_at()),
        ]);
    }
    let around: usize = attributes.iter().map(|(name, value)| name.len() + TEXT.len() + value.len()).sum();
    let (mut body, pointer) = (notice.body(format), notice.pointer());
    let mut shorter = (pointer.len() < body.len()).then_some(pointer);
    if body.len() + around > MAX_MESSAGE {
        body = shorter.take().unwrap_or(body);
    }
    Letter {
        body,
        shorter,
        attributes,
        fifo: fifo.then(|| (notice.group(message), notice.key(message))),
        trace_header: message.trace_header.clone(),
    }
}

fn failure(queue: &str, trouble: Trouble, detail: &str) -> Failure {
    let (reason, fix) = match trouble {
        Trouble::NotFound => ("ReplyQueueNotFound", "create it, or correct reply_to or output.reply.queueUrl"),
        Trouble::AccessDenied => ("ReplyQueueAccessDenied", "allow the worker's role this action on the queue"),
        Trouble::Credentials => ("CredentialsMissing", CREDENTIALS_FIX),
        Trouble::Throttled => ("ReplyQueueThrottled", "SQS asks for fewer calls; it is tried again"),
        Trouble::Unreachable => ("ReplyQueueUnreachable", "check DNS and network policies; it is tried again"),
        Trouble::Other => ("ReplyQueueError", "see the error"),
    };
    let passes = matches!(trouble, Trouble::Throttled | Trouble::Unreachable);
    Failure { reason, message: format!("sqs:SendMessage on {queue}: {detail}; {fix}"), passes, wait: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::announce::tests::{message, record};

    #[test]
    fn a_record_goes_as_it_is_and_a_huge_one_by_its_address() {
        for (length, whole) in [(10, true), (MAX_MESSAGE, false)] {
            let record = record(&json!({ "value": "x".repeat(length) }));
            let notice = Notice::Result { record: &record, uri: "s3://b/k" };
            let letter = letter(ReplyFormat::Record, false, &notice, &message("m", &[]));
            let pointer = r#"{"job_id":"job-7","status":"COMPLETED","record_uri":"s3://b/k"}"#;
            if whole {
                assert_eq!(serde_json::from_str::<millrace_api::ResultRecord>(&letter.body).unwrap(), record);
                assert_eq!(letter.shorter.as_deref(), Some(pointer));
            } else {
                assert_eq!((letter.body.as_str(), letter.shorter), (pointer, None));
            }
            assert!(letter.attributes.is_empty() && letter.fifo.is_none());
        }
    }

    #[test]
    fn attributes_count_towards_the_limit() {
        let record = record(&json!({ "value": "x" }));
        let notice = Notice::Result { record: &record, uri: "s3://b/k" };
        let state = "s".repeat(MAX_MESSAGE - notice.body(ReplyFormat::Record).len() - "tracestate".len() - TEXT.len());
        let whole = |state: &str| {
            letter(ReplyFormat::Record, false, &notice, &message("m", &[("tracestate", state)])).shorter.is_some()
        };
        assert!(whole(&state));
        assert!(!whole(&format!("{state}s")));
    }

    #[test]
    fn status_attributes_name_the_task_and_its_trace_goes_along() {
        let record = record(&json!({ "value": { "arg": 8, "value": 13 } }));
        let notice = Notice::Result { record: &record, uri: "s3://b/k" };
        let mut message = message("m", &[("traceparent", "00-a-b-01"), ("customer", "7")]);
        message.trace_header = Some("Root=1-2-3".into());
        let letter = letter(ReplyFormat::StatusAttributes, true, &notice, &message);
        assert_eq!(letter.body, r#"{"arg":8,"value":13}"#);
        let attributes: Vec<_> = letter.attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let created = record.finished_at.as_str();
        assert_eq!(
            attributes,
            [("traceparent", "00-a-b-01"), ("status", "COMPLETED"), ("replyMessageId", "m"), ("createdAt", created)]
        );
        assert_eq!(letter.fifo, Some(("job-7".into(), notice.key(&message))));
        assert_eq!(letter.trace_header.as_deref(), Some("Root=1-2-3"));
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        for (trouble, passes) in [
            (Trouble::NotFound, false),
            (Trouble::AccessDenied, false),
            (Trouble::Credentials, false),
            (Trouble::Other, false),
            (Trouble::Throttled, true),
            (Trouble::Unreachable, true),
        ] {
            assert_eq!(failure("q", trouble, "d").passes, passes, "{trouble:?}");
        }
    }
}
