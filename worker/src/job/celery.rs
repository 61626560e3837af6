//! Calls of Celery tasks, message protocol 2, as kombu's SQS transport sends them: base64 of a JSON object with `body`,
//! `headers`, `properties` (or that object itself, where the transport's `sqs_base64_encoding` is off).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

use super::envelope::{integer, take_text};
use super::input::{Inputs, as_foreign_input, kind};
use super::{Form, JobHead, id, trace};
use crate::model::{Input, InvalidInput};

/// Keys that every one of kombu's messages has.
const KEYS: [&str; 4] = ["body", "content-type", "headers", "properties"];
/// Headers that repeat the arguments or say nothing; the rest is metadata.
const SAID_ELSEWHERE: [&str; 3] = ["argsrepr", "kwargsrepr", "lang"];
/// What Celery would do after a task, and millrace does not.
const FOLLOWERS: [(&str, &str); 4] =
    [("callbacks", "link"), ("errbacks", "link_error"), ("chain", "a chain"), ("chord", "a chord")];

/// The JSON object in a body of base64; none if it is no message of Celery's.
pub fn unwrap(body: &str) -> Option<Map<String, Value>> {
    // `{"` and `{ ` begin so; the look spares other texts the rest
    let body = body.trim();
    if !body.starts_with("ey") {
        return None;
    }
    let json = STANDARD.decode(body).ok()?;
    serde_json::from_slice(&json).ok().filter(is_message)
}

/// Whether an object is one of kombu's messages.
pub fn is_message(object: &Map<String, Value>) -> bool {
    KEYS.iter().all(|key| object.contains_key(*key))
        && object["headers"].is_object()
        && object["properties"].is_object()
}

/// Reads an object that `is_message`.
pub fn read(mut object: Map<String, Value>, head: &mut JobHead) -> Result<Inputs, InvalidInput> {
    head.form = Form::Celery;
    let Some(Value::Object(mut headers)) = object.remove("headers") else { return Err(no_header("headers")) };
    let Some(Value::Object(properties)) = object.remove("properties") else { return Err(no_header("properties")) };
    // the id first: a job that is refused by the rest is recorded under its name
    let id = take_header(&mut headers, "id")?.ok_or_else(|| no_header("headers.id"))?;
    id::take(head, "headers.id", &id)?;
    head.route = Some(take_header(&mut headers, "task")?.ok_or_else(|| no_header("headers.task"))?);
    head.not_before = take_header(&mut headers, "eta")?.map(|text| time("headers.eta", &text)).transpose()?;
    head.deadline = take_header(&mut headers, "expires")?.map(|text| time("headers.expires", &text)).transpose()?;
    if let Some(compression) = take_header(&mut headers, "compression")? {
        let message = format!("{compression} is not taken: leave task_compression and compression out");
        return Err(InvalidInput::field("headers.compression", message));
    }
    has_no_time_limit(headers.remove("timelimit"))?;
    if let Some(priority) = properties.get("priority").filter(|p| !p.is_null()) {
        head.priority = integer("properties.priority", priority)?;
    }
    if let (None, Some(Value::String(parent))) = (&head.trace, headers.get(trace::TRACEPARENT)) {
        head.trace = trace::w3c(parent);
    }
    let said =
        headers.into_iter().filter(|(name, value)| !SAID_ELSEWHERE.contains(&name.as_str()) && !is_nothing(value));
    head.metadata.extend(said);

    is_json(&object)?;
    let call = Call::read(object.remove("body"), &properties)?;
    is_last(&call.embed)?;
    call.input().map(Inputs::one)
}

fn no_header(field: &str) -> InvalidInput {
    let message = "is missing: a Celery message must be of protocol 2 (task_protocol = 2, which is Celery's default)";
    InvalidInput::field(field, message)
}

fn take_header(headers: &mut Map<String, Value>, name: &str) -> Result<Option<String>, InvalidInput> {
    take_text(headers, name)
        .map_err(|error| InvalidInput { field: error.field.map(|field| format!("headers.{field}")), ..error })
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// ISO 8601 as Python writes it; without an offset it is UTC.
fn time(field: &str, text: &str) -> Result<Timestamp, InvalidInput> {
    let naive =
        || text.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC)).map(|zoned| zoned.timestamp());
    let wrong = |e| InvalidInput::field(field, format!("must be a time such as 2026-11-23T10:00:00+00:00: {e}"));
    text.parse::<Timestamp>().or_else(|_| naive()).map_err(wrong)
}

/// `[hard, soft]`, in seconds.
fn has_no_time_limit(limit: Option<Value>) -> Result<(), InvalidInput> {
    let is_set = match limit {
        None | Some(Value::Null) => false,
        Some(Value::Array(limits)) => limits.iter().any(|limit| !limit.is_null()),
        Some(_) => true,
    };
    if is_set {
        let message =
            "no job is ended by a time limit here: leave time_limit and soft_time_limit out; expires is honoured";
        return Err(InvalidInput::field("headers.timelimit", message));
    }
    Ok(())
}

/// Refuses every serializer but JSON by its name.
fn is_json(object: &Map<String, Value>) -> Result<(), InvalidInput> {
    let name = match object.get("content-type").and_then(Value::as_str).unwrap_or_default() {
        "application/json" => return Ok(()),
        "application/x-python-serialize" | "application/x-python" => "pickle, which runs code when it is read",
        "application/x-yaml" | "application/yaml" => "YAML",
        "application/x-msgpack" | "application/msgpack" => "MessagePack",
        "" => "nothing that is named",
        other => other,
    };
    let message = format!("is {name}, and only JSON is taken: set task_serializer = \"json\", Celery's default");
    Err(InvalidInput::field("content-type", message))
}

/// A message's body.
struct Call {
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    /// What is to follow.
    embed: Map<String, Value>,
}

impl Call {
    fn read(body: Option<Value>, properties: &Map<String, Value>) -> Result<Self, InvalidInput> {
        let wrong =
            |why: String| InvalidInput::field("body", format!("must be the JSON list [args, kwargs, embed]: {why}"));
        let Some(Value::String(text)) = body else { return Err(wrong("it is not a text".into())) };
        let json = match properties.get("body_encoding").and_then(Value::as_str) {
            Some("base64") => STANDARD.decode(text).map_err(|e| wrong(format!("it is not base64: {e}")))?,
            _ => text.into_bytes(),
        };
        let parts: Value = serde_json::from_slice(&json).map_err(|e| wrong(e.to_string()))?;
        let (args, kwargs, embed) = match parts {
            Value::Array(mut list) if list.len() == 3 => (list[0].take(), list[1].take(), list[2].take()),
            Value::Array(list) => return Err(wrong(format!("the list has {} entries", list.len()))),
            other => return Err(wrong(format!("it is {}", kind(&other)))),
        };
        match (args, kwargs, embed) {
            (Value::Array(args), Value::Object(kwargs), Value::Object(embed)) => Ok(Self { args, kwargs, embed }),
            (Value::Array(args), Value::Object(kwargs), Value::Null) => Ok(Self { args, kwargs, embed: Map::new() }),
            (args, kwargs, embed) => {
                Err(wrong(format!("args is {}, kwargs is {}, embed is {}", kind(&args), kind(&kwargs), kind(&embed))))
            }
        }
    }

    fn input(self) -> Result<Input, InvalidInput> {
        let Self { mut args, kwargs, .. } = self;
        if args.len() > 1 {
            let message = format!(
                "must be one text (the task's main field), one object or nothing, are {}: give fields as keyword arguments",
                args.len()
            );
            return Err(InvalidInput::field("args", message));
        }
        let Some(argument) = args.pop() else { return Ok(Input::Object(kwargs)) };
        match as_foreign_input("args[0]", argument)? {
            input if kwargs.is_empty() => Ok(input),
            Input::Text(text) => Ok(Input::Call { text, fields: kwargs }),
            Input::Object(_) | Input::Call { .. } => {
                let message = "an object must not stand beside kwargs: give all fields in one of them";
                Err(InvalidInput::field("args[0]", message))
            }
        }
    }
}

/// A worker that cannot run what follows must not let the workflow end in silence.
fn is_last(embed: &Map<String, Value>) -> Result<(), InvalidInput> {
    let set = FOLLOWERS.iter().find(|(key, _)| embed.get(*key).is_some_and(|value| !is_nothing(value)));
    set.map_or(Ok(()), |(key, word)| {
        let message =
            format!("{word} is not followed: no Celery task is called after a job; read its record or an announcement");
        Err(InvalidInput::field(format!("embed.{key}"), message))
    })
}
