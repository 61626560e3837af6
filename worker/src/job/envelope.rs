//! millrace's own forms in JSON: an object that is the input, an envelope around one or more, a fan-out's task; and the
//! keys that say more about the job.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::input::{Inputs, as_input, kind};
use super::{Form, JobHead, id};
use crate::allow::Allow;
use crate::model::InvalidInput;

/// Most inputs of one job.
const MAX_INPUTS: usize = 256;
/// What tells a task envelope.
const TASK_KEYS: [&str; 3] = ["entity_id", "task_name", "task_config"];

/// Reads a body that is a JSON object.
pub fn read(mut object: Map<String, Value>, head: &mut JobHead, allow: &Allow) -> Result<Inputs, InvalidInput> {
    if TASK_KEYS.iter().all(|key| object.contains_key(*key)) {
        head.form = Form::TaskEnvelope;
        return read_task(object, head, allow);
    }
    let named = object.contains_key("job_id");
    let enveloped =
        object.contains_key("inputs") || named && ["input", "payload"].iter().any(|k| object.contains_key(*k));
    head.form = if enveloped { Form::Envelope } else { Form::Object };
    read_about(&mut object, head, allow)?;
    if !enveloped {
        return Ok(Inputs::one(crate::model::Input::Object(object)));
    }
    let inputs = take_inputs(&mut object)?;
    keep(object, head);
    Ok(inputs)
}

fn take_inputs(object: &mut Map<String, Value>) -> Result<Inputs, InvalidInput> {
    let mut given = ["inputs", "input", "payload"].iter().filter_map(|key| Some((*key, object.remove(*key)?)));
    let first = given.next();
    if let (Some((one, _)), Some((other, _))) = (&first, given.next()) {
        return Err(InvalidInput::field(other, format!("must not stand beside {one}: give one of them")));
    }
    match first {
        Some(("inputs", Value::Array(list))) => {
            if list.is_empty() || list.len() > MAX_INPUTS {
                let message = format!("must have 1 to {MAX_INPUTS} entries, has {}", list.len());
                return Err(InvalidInput::field("inputs", message));
            }
            let entry = |(i, value)| as_input(&format!("inputs[{i}]"), value);
            let list = list.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
            Ok(Inputs { list, listed: true, envelope: None })
        }
        Some(("inputs", other)) => Err(InvalidInput::field("inputs", format!("must be a list, is {}", kind(&other)))),
        Some((key, value)) => Ok(Inputs::one(as_input(key, value)?)),
        None => Err(InvalidInput::body("the envelope has no input")),
    }
}

/// `{"entity_id","task_name","task_config","metadata","timestamp","retry_count","total_tasks"}`.
fn read_task(mut object: Map<String, Value>, head: &mut JobHead, allow: &Allow) -> Result<Inputs, InvalidInput> {
    let envelope = object.clone();
    let word = |key: &str| match envelope.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(InvalidInput::field(key, format!("must be a text or a number, is {}", kind(other)))),
        None => Err(InvalidInput::field(key, "is missing; a task envelope needs it for the job's id")),
    };
    if !head.id_is_producers {
        let made = format!("{}-{}-{}", word("entity_id")?, word("task_name")?, word("timestamp")?);
        id::take(head, "entity_id", &made)?;
    }
    head.route = Some(word("task_name")?);
    let input = as_input("task_config", object.remove("task_config").unwrap_or_default())?;
    read_about(&mut object, head, allow)?;
    keep(object, head);
    Ok(Inputs { envelope: Some(envelope), ..Inputs::one(input) })
}

/// What the producer sent along is given back in the record.
fn keep(object: Map<String, Value>, head: &mut JobHead) {
    for (key, value) in object {
        head.metadata.entry(key).or_insert(value);
    }
}

/// Takes what is said about the job out of an object. The id and metadata first: a job that is refused by the rest is
/// recorded under its name.
fn read_about(object: &mut Map<String, Value>, head: &mut JobHead, allow: &Allow) -> Result<(), InvalidInput> {
    if let Some(text) = take_text(object, "job_id")? {
        id::take(head, "job_id", &text)?;
    }
    if let Some(metadata) = take_object(object, "metadata")? {
        head.metadata = metadata;
    }
    if let Some(text) = take_text(object, "deadline")? {
        head.deadline = Some(time("deadline", &text)?);
    }
    match object.remove("priority") {
        None | Some(Value::Null) => {}
        Some(value) => head.priority = integer("priority", &value)?,
    }
    if let Some(url) = take_text(object, "reply_to")? {
        head.announce.reply_to = Some(allow.reply_to(&url)?);
    }
    if let Some(url) = take_text(object, "callback_url")? {
        head.announce.callback_url = Some(allow.callback_url(&url)?);
    }
    if let Some(output) = take_object(object, "output")? {
        head.placement = allow.placement(output)?;
    }
    Ok(())
}

/// Takes a text; null is as good as nothing.
pub fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, InvalidInput> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(InvalidInput::field(key, format!("must be a text, is {}", kind(&other)))),
    }
}

fn take_object(object: &mut Map<String, Value>, key: &str) -> Result<Option<Map<String, Value>>, InvalidInput> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(InvalidInput::field(key, format!("must be an object, is {}", kind(&other)))),
    }
}

/// An RFC 3339 time.
fn time(field: &str, text: &str) -> Result<Timestamp, InvalidInput> {
    let wrong = |e| InvalidInput::field(field, format!("must be a time such as 2026-11-23T10:00:00Z: {e}"));
    text.parse().map_err(wrong)
}

/// An integer of 64 bits.
pub fn integer(field: &str, value: &Value) -> Result<i64, InvalidInput> {
    let wrong = || {
        let shown = if value.is_number() { value.to_string() } else { kind(value).to_owned() };
        InvalidInput::field(field, format!("must be an integer, is {shown}"))
    };
    value.as_i64().ok_or_else(wrong)
}
