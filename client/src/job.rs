//! A job as its producer thinks of it, and its reading from one JSON value, such as a line of a file.

use std::time::Duration;

use jiff::Timestamp;
use millrace_api::{MAX_JOB_ID, canonical_json, encode_job_id};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::invalid::InvalidJob;

/// Hex digits of an id that is made of the content.
const ID_DIGITS: usize = 32;
/// Most inputs of one job.
const MAX_INPUTS: usize = 256;

/// A job to be sent. What is left out is the consumer's to choose.
///
/// ```
/// use millrace_client::Job;
/// use serde_json::json;
///
/// let line = json!({ "prompt": "a lighthouse", "steps": 20, "job_id": "order-7", "priority": 5 });
/// let job = Job::from_value(line)?;
/// assert_eq!(job.id(), "order-7");
/// assert_eq!(job.priority, 5);
/// # Ok::<(), millrace_client::InvalidJob>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name, which stands for one input. Default: made of the input, so that the same input is the same job.
    pub id: Option<String>,
    /// What is computed.
    pub input: Input,
    /// Of the jobs that a worker holds, higher ones run first.
    pub priority: i64,
    /// Not worth computing after this.
    pub deadline: Option<Timestamp>,
    /// URL of a queue that is told of the end.
    pub reply_to: Option<String>,
    /// URL that is called at the end.
    pub callback_url: Option<String>,
    /// Where the outputs go: `bucket`, `prefix`, `key`.
    pub output: Map<String, Value>,
    /// Given back in the record.
    pub metadata: Map<String, Value>,
    /// Hidden for so long before it can be received; up to 15 minutes, not on a FIFO queue.
    pub delay: Duration,
    /// On a FIFO queue the group in whose order it is done (default: its own id); on a standard one the tenant.
    pub group: Option<String>,
    /// The trace that it belongs to, as W3C writes it.
    pub traceparent: Option<String>,
    /// On a FIFO queue what tells this attempt from an earlier one, which SQS takes it for within five minutes: of a job
    /// that FAILED its record's message id, so that a repeat of the same attempt is still dropped.
    pub attempt: Option<String>,
}

/// A job's input: each is a text for the task's main field, or an object of its fields.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// One.
    One(Value),
    /// Several, which are one job with many outputs.
    Many(Vec<Value>),
}

impl Job {
    /// A job of one input: a text, or an object of fields.
    pub fn new(input: impl Into<Value>) -> Self {
        Self::of(Input::One(input.into()))
    }

    /// A job of a text: a prompt, a text to embed.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(text.into())
    }

    /// A job of these inputs.
    pub fn of(input: Input) -> Self {
        Self {
            id: None,
            input,
            priority: 0,
            deadline: None,
            reply_to: None,
            callback_url: None,
            output: Map::new(),
            metadata: Map::new(),
            delay: Duration::ZERO,
            group: None,
            traceparent: None,
            attempt: None,
        }
    }

    /// Reads a job of one JSON value, by the rules that a worker reads bodies by: a text is the input; of an object the
    /// keys about the job are taken out, and what is left, or its `input`, `inputs` or `payload`, is the input.
    pub fn from_value(value: Value) -> Result<Self, InvalidJob> {
        let Value::Object(mut object) = value else {
            let text = match value {
                Value::Number(number) => number.to_string(),
                Value::String(text) => text,
                _ => return Err(InvalidJob::new("job", "must be a text or an object")),
            };
            return Ok(Self::text(text));
        };
        let id = take_text(&mut object, "job_id")?;
        let enveloped = object.contains_key("inputs")
            || id.is_some() && ["input", "payload"].iter().any(|key| object.contains_key(*key));
        let job = Self {
            id,
            priority: take_integer(&mut object, "priority")?,
            deadline: take_time(&mut object, "deadline")?,
            reply_to: take_text(&mut object, "reply_to")?,
            callback_url: take_text(&mut object, "callback_url")?,
            output: take_object(&mut object, "output")?,
            metadata: take_object(&mut object, "metadata")?,
            ..Self::of(Input::Many(Vec::new()))
        };
        if !enveloped {
            return Ok(Self { input: Input::One(Value::Object(object)), ..job });
        }
        let mut given = ["inputs", "input", "payload"].iter().filter_map(|key| Some((*key, object.remove(*key)?)));
        let first = given.next();
        if let (Some((one, _)), Some((other, _))) = (&first, given.next()) {
            return Err(InvalidJob::new(other, format!("must not stand beside {one}: give one of them")));
        }
        let input = match first {
            Some(("inputs", Value::Array(list))) => Input::Many(list),
            Some(("inputs", _)) => return Err(InvalidJob::new("inputs", "must be a list")),
            Some((_, one)) => Input::One(one),
            None => return Err(InvalidJob::new("job", "has no input")),
        };
        let mut metadata = job.metadata;
        for (key, value) in object {
            metadata.entry(key).or_insert(value);
        }
        Ok(Self { input, metadata, ..job })
    }

    /// Its id as it is sent.
    pub fn id(&self) -> String {
        self.id.clone().unwrap_or_else(|| self.input_sha256()[..ID_DIGITS].to_owned())
    }

    /// The id as keys and records have it; an error where it is empty or too long.
    pub fn key_id(&self) -> Result<String, InvalidJob> {
        let encoded = encode_job_id(&self.id());
        if encoded.is_empty() || encoded.len() > MAX_JOB_ID {
            let message = format!("must have 1 to {MAX_JOB_ID} characters once encoded, has {}", encoded.len());
            return Err(InvalidJob::new("job_id", message));
        }
        Ok(encoded)
    }

    /// The hash by which a worker tells a repeat: lower-case hex SHA-256, of a text as it is, of JSON with its keys in
    /// order and without spaces.
    pub fn input_sha256(&self) -> String {
        let text = match &self.input {
            Input::One(Value::String(text)) => text.clone(),
            Input::One(value) => canonical_json(&as_read(value)),
            Input::Many(list) => canonical_json(&as_read(&Value::Array(list.clone()))),
        };
        hex::encode(Sha256::digest(text))
    }

    /// Each input with its place.
    pub(crate) fn inputs(&self) -> Result<Vec<(String, &Value)>, InvalidJob> {
        match &self.input {
            Input::One(value) => Ok(vec![("input".into(), value)]),
            Input::Many(list) if list.is_empty() || list.len() > MAX_INPUTS => {
                let message = format!("must have 1 to {MAX_INPUTS} entries, has {}", list.len());
                Err(InvalidJob::new("inputs", message))
            }
            Input::Many(list) => Ok(list.iter().enumerate().map(|(i, v)| (format!("inputs[{i}]"), v)).collect()),
        }
    }
}

/// A value as who receives it reads it: a fraction of many digits may be its neighbour then.
fn as_read(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_else(|_| value.clone())
}

/// Takes a field out of an object; null is as good as nothing.
fn take(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    object.remove(key).filter(|value| !value.is_null())
}

fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, InvalidJob> {
    match take(object, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(InvalidJob::new(key, "must be a text")),
    }
}

fn take_integer(object: &mut Map<String, Value>, key: &str) -> Result<i64, InvalidJob> {
    let wrong = || InvalidJob::new(key, "must be an integer");
    take(object, key).map_or(Ok(0), |value| value.as_i64().ok_or_else(wrong))
}

fn take_time(object: &mut Map<String, Value>, key: &str) -> Result<Option<Timestamp>, InvalidJob> {
    let parse = |text: String| {
        text.parse().map_err(|e| InvalidJob::new(key, format!("must be a time such as 2026-11-23T10:00:00Z: {e}")))
    };
    take_text(object, key)?.map(parse).transpose()
}

fn take_object(object: &mut Map<String, Value>, key: &str) -> Result<Map<String, Value>, InvalidJob> {
    match take(object, key) {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(InvalidJob::new(key, "must be an object")),
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
