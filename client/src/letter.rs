//! A job becomes the message that a worker of its consumer reads.

use std::time::Duration;

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use millrace_api::{BodyFormat, JOB_ID_ATTRIBUTE, MAX_OBJECT, is_fifo};
use serde_json::{Map, Value, json};

use crate::check::check_input;
use crate::consumer::Consumer;
use crate::fifo::{deduplication, digest, group};
use crate::invalid::InvalidJob;
use crate::job::{Input, Job};
use crate::trace::is_traceparent;

/// Most bytes of a message and of a batch of them, attributes included.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Longest that SQS delays a message.
const MAX_DELAY: Duration = Duration::from_mins(15);
/// The attribute that carries a W3C trace context.
const TRACEPARENT: &str = "traceparent";
/// The attribute that tells a body's size where it lies in S3.
const EXTENDED_SIZE: &str = "ExtendedPayloadSize";
/// What a pointer to a body in S3 calls itself.
const POINTER: &str = "software.amazon.payloadoffloading.PayloadS3Pointer";
/// Where such bodies lie in their bucket.
const BODIES: &str = "millrace-bodies/";

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The job's id as keys have it.
    pub job_id: String,
    /// The hash by which its worker knows the input.
    pub input_sha256: String,
    pub body: String,
    pub attributes: Vec<Attribute>,
    /// As the job has it.
    pub attempt: Option<String>,
    delay: Duration,
    group: Option<String>,
    deduplication: Option<String>,
}

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    name: &'static str,
    kind: &'static str,
    value: String,
}

impl Attribute {
    pub fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, kind: "String", value: value.into() }
    }

    fn size(&self) -> usize {
        self.name.len() + self.kind.len() + self.value.len()
    }
}

impl Letter {
    /// The message of `job` for `consumer`.
    pub fn new(job: &Job, consumer: &Consumer) -> Result<Self, InvalidJob> {
        let fifo = is_fifo(&consumer.queue.url);
        for (field, input) in job.inputs()? {
            check_input(consumer, &field, input)?;
        }
        if consumer.queue.mapping.input.is_some() {
            let message = "this consumer reads messages of its own form: send those as they are";
            return Err(InvalidJob::new("queue.mapping.input", message));
        }
        if job.delay > MAX_DELAY || fifo && !job.delay.is_zero() {
            let most = if fifo { "not for a message of a FIFO queue" } else { "15 minutes at most" };
            return Err(InvalidJob::new("delay", format!("SQS takes one of whole seconds, {most}")));
        }
        let job_id = job.key_id()?;
        let mut attributes = Vec::new();
        if let Some(context) = &job.traceparent {
            // a malformed one would be dropped without a word
            if !is_traceparent(context) {
                let message = "must be as W3C writes it: 00-{32 hex digits}-{16 hex digits}-01";
                return Err(InvalidJob::new(TRACEPARENT, message));
            }
            attributes.push(Attribute::text(TRACEPARENT, context));
        }
        let body = if consumer.queue.body_format == BodyFormat::Text {
            attributes.push(Attribute::text(JOB_ID_ATTRIBUTE, job.id()));
            bare(job)?
        } else {
            envelope(job).to_string()
        };
        if body.len() > MAX_OBJECT {
            let message = format!("has {} bytes as a message; {MAX_OBJECT} at most, in S3 too", body.len());
            return Err(InvalidJob::new("job", message));
        }
        Ok(Self {
            group: group(job, &job_id, fifo)?,
            deduplication: fifo.then(|| deduplication(&job_id, job.attempt.as_deref(), &body)),
            input_sha256: job.input_sha256(),
            attempt: job.attempt.clone(),
            delay: job.delay,
            job_id,
            body,
            attributes,
        })
    }

    /// A message whose form is not an envelope, for a FIFO queue's `group`.
    pub fn in_group(job_id: String, input_sha256: String, body: String, group: String, told: Vec<Attribute>) -> Self {
        let deduplication = Some(deduplication(&job_id, None, &body));
        let group = Some(group);
        Self {
            job_id,
            input_sha256,
            body,
            attributes: told,
            attempt: None,
            delay: Duration::ZERO,
            group,
            deduplication,
        }
    }

    /// What SQS counts towards its limits.
    pub fn size(&self) -> usize {
        self.body.len() + self.attributes.iter().map(Attribute::size).sum::<usize>()
    }

    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Where the body lies if it is put into S3: the same body at the same place.
    pub fn body_key(&self) -> String {
        format!("{BODIES}{}", digest(&self.body))
    }

    /// The same message with a pointer to its body in `bucket`, as the SQS extended client libraries write it.
    pub fn pointing_to(mut self, bucket: &str) -> Self {
        let bytes = self.body.len().to_string();
        self.body = json!([POINTER, { "s3BucketName": bucket, "s3Key": self.body_key() }]).to_string();
        self.attributes.push(Attribute { name: EXTENDED_SIZE, kind: "Number", value: bytes });
        self
    }

    /// The entry `id` of a batch.
    pub fn entry(&self, id: usize) -> Result<SendMessageBatchRequestEntry, BuildError> {
        let mut entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(&self.body);
        for Attribute { name, kind, value } in &self.attributes {
            let value = MessageAttributeValue::builder().data_type(*kind).string_value(value).build()?;
            entry = entry.message_attributes(*name, value);
        }
        if !self.delay.is_zero() {
            entry = entry.delay_seconds(i32::try_from(self.delay.as_secs()).unwrap_or(i32::MAX));
        }
        entry.set_message_group_id(self.group.clone()).set_message_deduplication_id(self.deduplication.clone()).build()
    }
}

/// The input with all that is said about the job.
fn envelope(job: &Job) -> Value {
    let mut envelope = Map::new();
    envelope.insert("job_id".into(), job.id().into());
    match &job.input {
        Input::One(input) => envelope.insert("input".into(), input.clone()),
        Input::Many(list) => envelope.insert("inputs".into(), list.clone().into()),
    };
    let said = said_about(job).into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    envelope.extend(said);
    Value::Object(envelope)
}

/// What is said about a job besides its id, where it is said.
fn said_about(job: &Job) -> [(&'static str, Option<Value>); 6] {
    let object = |map: &Map<String, Value>| (!map.is_empty()).then(|| map.clone().into());
    [
        ("priority", (job.priority != 0).then(|| job.priority.into())),
        ("deadline", job.deadline.map(|time| time.to_string().into())),
        ("reply_to", job.reply_to.clone().map(Value::from)),
        ("callback_url", job.callback_url.clone().map(Value::from)),
        ("output", object(&job.output)),
        ("metadata", object(&job.metadata)),
    ]
}

/// The text alone, for a consumer that reads every body as text: there is no room for more.
fn bare(job: &Job) -> Result<String, InvalidJob> {
    let why = "queue.bodyFormat is Text, so a message is one text and nothing else";
    if let Some((field, _)) = said_about(job).into_iter().find(|(_, value)| value.is_some()) {
        return Err(InvalidJob::new(field, why));
    }
    match &job.input {
        Input::One(Value::String(text)) => Ok(text.clone()),
        _ => Err(InvalidJob::new("input", why)),
    }
}

#[cfg(test)]
#[path = "letter_tests.rs"]
mod tests;
