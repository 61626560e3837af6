//! A message becomes a job: every accepted form of a body, with exact errors.
//!
//! | form | how it is told |
//! |---|---|
//! | task envelope | an object with `entity_id`, `task_name` and `task_config` |
//! | envelope | an object with `inputs`, or with `job_id` and one of `input`, `payload` |
//! | object | any other object: the task's own input; `job_id`, `deadline`, `metadata` may stand beside it |
//! | text | anything else: the task's main field |

use jiff::Timestamp;
use millrace_api::BodyFormat;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::message::Message;
use crate::model::{Input, InvalidInput, Request};

/// Attribute that names the job where the body does not.
pub const JOB_ID_ATTRIBUTE: &str = "millrace-job-id";
/// Most inputs of one job.
const MAX_INPUTS: usize = 256;
/// Longest job id, after encoding.
const MAX_JOB_ID: usize = 256;
/// What may stand in a key as it is.
const KEY_SAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'-');
/// Keys of an envelope that this version does not serve. Refused, as taking them silently would be a lie.
const NOT_SERVED: [&str; 4] = ["reply_to", "callback_url", "output", "priority"];

/// Which form a body had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The task's main field.
    Text,
    /// The task's input.
    Object,
    /// Input and job id, with more about the job.
    Envelope,
    /// One of a fan-out's tasks.
    TaskEnvelope,
    /// None of them.
    Unknown,
}

impl Form {
    /// The word in a record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Object => "object",
            Self::Envelope => "envelope",
            Self::TaskEnvelope => "task_envelope",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a job whatever its body: enough for a record.
#[derive(Debug, Clone)]
pub struct JobHead {
    /// Safe for a key.
    pub id: String,
    /// As the producer wrote it, for whoever sends the message on.
    pub raw_id: String,
    /// The producer chose the id, so another message may bear it too.
    pub id_is_producers: bool,
    /// Which form the body had.
    pub form: Form,
    /// Lower-case hex SHA-256 of the input: of a text as it is, of JSON with its keys in order; so a repeat that differs
    /// only in what is said about the job is the same job. Of the body where that has no form.
    pub input_sha256: String,
    /// The producer's own data.
    pub metadata: Map<String, Value>,
    /// Not worth computing after this.
    pub deadline: Option<Timestamp>,
}

/// A job whose form is known and whose inputs the task has yet to read.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is known of it whatever its inputs.
    pub head: JobHead,
    /// At least one.
    inputs: Vec<Input>,
    /// The inputs came as a list, so errors name their place in it.
    listed: bool,
}

/// A job that can never run: what is known of it, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// What is known of it.
    pub head: JobHead,
    /// Why it cannot run.
    pub error: InvalidInput,
}

/// Reads a message's body.
pub fn decode(message: &Message, format: BodyFormat) -> Result<Job, Box<Rejected>> {
    let mut head = JobHead {
        id: message.id.clone(),
        raw_id: message.id.clone(),
        id_is_producers: false,
        form: Form::Unknown,
        input_sha256: hex::encode(Sha256::digest(message.body.as_bytes())),
        metadata: Map::new(),
        deadline: None,
    };
    match read(message, format, &mut head) {
        Ok(Inputs { list: inputs, listed }) => {
            head.input_sha256 = sha256_of(&inputs, listed);
            Ok(Job { head, inputs, listed })
        }
        Err(error) => Err(Box::new(Rejected { head, error })),
    }
}

impl Job {
    /// The task's own view of the inputs, over the consumer's `defaults`. Input i without a seed takes the job's plus i.
    pub fn requests<R: Request>(&self, defaults: &Map<String, Value>) -> Result<Vec<R>, InvalidInput> {
        let seed = seed_of(&self.head.id);
        let read = |(index, input): (usize, &Input)| {
            R::decode(input, defaults, seed.wrapping_add(index as u64)).map_err(|error| self.at(index, error))
        };
        self.inputs.iter().enumerate().map(read).collect()
    }

    /// An error of one input, with its place in the list where there is one.
    pub fn at(&self, index: usize, error: InvalidInput) -> InvalidInput {
        if !self.listed {
            return error;
        }
        let place = format!("inputs[{index}]");
        let field = error.field.map_or(place.clone(), |field| format!("{place}.{field}"));
        InvalidInput { field: Some(field), ..error }
    }
}

/// The seed of a job that names none: from its id, so that a repeat computes the same. 32 bits, as every tool takes.
pub fn seed_of(job_id: &str) -> u64 {
    let digest = Sha256::digest(job_id.as_bytes());
    u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

fn sha256_of(inputs: &[Input], listed: bool) -> String {
    let text = match inputs {
        [Input::Text(text)] if !listed => text.clone(),
        [input] if !listed => canonical(&as_value(input)),
        _ => canonical(&Value::Array(inputs.iter().map(as_value).collect())),
    };
    hex::encode(Sha256::digest(text))
}

fn as_value(input: &Input) -> Value {
    match input {
        Input::Text(text) => Value::String(text.clone()),
        Input::Object(object) => Value::Object(object.clone()),
    }
}

/// JSON without spaces and with the keys of every object in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            let entry = |key: &String| format!("{}:{}", Value::String(key.clone()), canonical(&object[key]));
            format!("{{{}}}", keys.into_iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

struct Inputs {
    list: Vec<Input>,
    listed: bool,
}

impl Inputs {
    fn one(input: Input) -> Self {
        Self { list: vec![input], listed: false }
    }
}

fn read(message: &Message, format: BodyFormat, head: &mut JobHead) -> Result<Inputs, InvalidInput> {
    if let Some(id) = message.attributes.get(JOB_ID_ATTRIBUTE) {
        take_id(head, JOB_ID_ATTRIBUTE, id)?;
    }
    let body = message.body.trim_start();
    let parsed = match format {
        BodyFormat::Text => None,
        BodyFormat::Auto if !body.starts_with('{') => None,
        BodyFormat::Auto => match serde_json::from_str::<Value>(body) {
            Ok(value) => Some(value),
            Err(error) if looks_like_json(body) => return Err(not_json(&error)),
            Err(_) => None,
        },
        BodyFormat::Json => Some(serde_json::from_str(body).map_err(|error| not_json(&error))?),
    };
    match parsed {
        Some(Value::Object(object)) => read_object(object, head),
        Some(other) => Err(InvalidInput::body(format!(
            "the body is {}, and queue.bodyFormat Json takes only a JSON object such as {{\"prompt\":\"…\"}}",
            kind(&other)
        ))),
        None => {
            head.form = Form::Text;
            if message.body.trim().is_empty() {
                return Err(InvalidInput::body("the body is blank: send a text or a JSON object"));
            }
            Ok(Inputs::one(Input::Text(message.body.clone())))
        }
    }
}

/// A prompt may begin with a brace, but hardly with a brace and a quote.
fn looks_like_json(body: &str) -> bool {
    body.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'))
}

fn not_json(error: &serde_json::Error) -> InvalidInput {
    InvalidInput::body(format!("the body is not JSON: {error}"))
}

fn read_object(mut object: Map<String, Value>, head: &mut JobHead) -> Result<Inputs, InvalidInput> {
    if ["entity_id", "task_name", "task_config"].iter().all(|key| object.contains_key(*key)) {
        head.form = Form::TaskEnvelope;
        return read_task_envelope(object, head);
    }
    let named = object.contains_key("job_id");
    let enveloped =
        object.contains_key("inputs") || named && ["input", "payload"].iter().any(|k| object.contains_key(*k));
    head.form = if enveloped { Form::Envelope } else { Form::Object };
    read_about(&mut object, head)?;
    if let Some(key) = NOT_SERVED.iter().find(|key| object.contains_key(**key)) {
        return Err(InvalidInput::field(*key, "not supported by this version of millrace; leave it out"));
    }
    if !enveloped {
        return Ok(Inputs::one(Input::Object(object)));
    }
    let mut given = ["inputs", "input", "payload"].iter().filter_map(|key| Some((*key, object.remove(*key)?)));
    let first = given.next();
    if let (Some((one, _)), Some((other, _))) = (&first, given.next()) {
        return Err(InvalidInput::field(other, format!("must not stand beside {one}: give one of them")));
    }
    drop(given);
    let inputs = match first {
        Some(("inputs", Value::Array(list))) => {
            if list.is_empty() || list.len() > MAX_INPUTS {
                return Err(InvalidInput::field(
                    "inputs",
                    format!("must have 1 to {MAX_INPUTS} entries, has {}", list.len()),
                ));
            }
            let entry = |(i, value)| as_input(&format!("inputs[{i}]"), value);
            Inputs { list: list.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?, listed: true }
        }
        Some(("inputs", other)) => {
            return Err(InvalidInput::field("inputs", format!("must be a list, is {}", kind(&other))));
        }
        Some((key, value)) => Inputs::one(as_input(key, value)?),
        None => return Err(InvalidInput::body("the envelope has no input")),
    };
    // what the producer sent along is given back in the record
    for (key, value) in object {
        head.metadata.entry(key).or_insert(value);
    }
    Ok(inputs)
}

/// `{"entity_id","task_name","task_config","metadata","timestamp","retry_count","total_tasks"}`.
fn read_task_envelope(mut object: Map<String, Value>, head: &mut JobHead) -> Result<Inputs, InvalidInput> {
    let word = |key: &str| match object.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(InvalidInput::field(key, format!("must be a text or a number, is {}", kind(other)))),
        None => Err(InvalidInput::field(key, "is missing; a task envelope needs it for the job's id")),
    };
    if !head.id_is_producers {
        let id = format!("{}-{}-{}", word("entity_id")?, word("task_name")?, word("timestamp")?);
        take_id(head, "entity_id", &id)?;
    }
    let input = as_input("task_config", object.remove("task_config").unwrap_or_default())?;
    read_about(&mut object, head)?;
    for (key, value) in object {
        head.metadata.entry(key).or_insert(value);
    }
    Ok(Inputs::one(input))
}

/// Takes `job_id`, `deadline` and `metadata` out of an object.
fn read_about(object: &mut Map<String, Value>, head: &mut JobHead) -> Result<(), InvalidInput> {
    match object.remove("job_id") {
        None | Some(Value::Null) => {}
        Some(Value::String(id)) => take_id(head, "job_id", &id)?,
        Some(other) => return Err(InvalidInput::field("job_id", format!("must be a text, is {}", kind(&other)))),
    }
    match object.remove("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => head.metadata = metadata,
        Some(other) => return Err(InvalidInput::field("metadata", format!("must be an object, is {}", kind(&other)))),
    }
    match object.remove("deadline") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => {
            let wrong =
                |e| InvalidInput::field("deadline", format!("must be a time such as 2026-11-23T10:00:00Z: {e}"));
            head.deadline = Some(text.parse().map_err(wrong)?);
        }
        Some(other) => return Err(InvalidInput::field("deadline", format!("must be a text, is {}", kind(&other)))),
    }
    Ok(())
}

fn take_id(head: &mut JobHead, field: &str, id: &str) -> Result<(), InvalidInput> {
    let encoded = utf8_percent_encode(id, KEY_SAFE).to_string();
    if encoded.is_empty() || encoded.len() > MAX_JOB_ID {
        let length = encoded.len();
        return Err(InvalidInput::field(
            field,
            format!("must have 1 to {MAX_JOB_ID} characters once encoded, has {length}"),
        ));
    }
    head.id = encoded;
    head.raw_id = id.into();
    head.id_is_producers = true;
    Ok(())
}

fn as_input(field: &str, value: Value) -> Result<Input, InvalidInput> {
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Object(object) => Ok(Input::Object(object)),
        other => Err(InvalidInput::field(field, format!("must be an object or a text, is {}", kind(&other)))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
