//! A job's inputs as the message gives them, before its task has looked at them; and the hash that tells a repeat.

use millrace_api::{BodyFormat, canonical_json};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::model::{Input, InvalidInput};

/// The inputs of one job.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// At least one.
    pub list: Vec<Input>,
    /// They came as a list, so errors name their place in it.
    pub listed: bool,
    /// The body that they came in, where that is a task envelope.
    pub envelope: Option<Map<String, Value>>,
}

impl Inputs {
    /// A job of one input.
    pub fn one(input: Input) -> Self {
        Self { list: vec![input], listed: false, envelope: None }
    }

    /// Lower-case hex SHA-256: of a text as it is, of JSON with its keys in order and without spaces.
    pub fn sha256(&self) -> String {
        let text = match self.list.as_slice() {
            [Input::Text(text)] if !self.listed => text.clone(),
            // a list within a list, which no other input is
            [input @ Input::Call { .. }] if !self.listed => canonical_json(&Value::Array(vec![input.value()])),
            [input] if !self.listed => canonical_json(&input.value()),
            list => canonical_json(&Value::Array(list.iter().map(Input::value).collect())),
        };
        hex::encode(Sha256::digest(text))
    }
}

/// A text as an input.
pub fn as_text(body: &str) -> Result<Input, InvalidInput> {
    if body.trim().is_empty() {
        return Err(InvalidInput::body("the body is blank: send a text or a JSON object"));
    }
    Ok(Input::Text(body.into()))
}

/// A body or an object's content: a JSON object; none where it is text, or blank.
pub fn parse(body: &str, format: BodyFormat) -> Result<Option<Map<String, Value>>, InvalidInput> {
    let trimmed = body.trim_start();
    let parsed = match format {
        BodyFormat::Text => return Ok(None),
        _ if trimmed.is_empty() => return Ok(None),
        BodyFormat::Auto if !trimmed.starts_with('{') => return Ok(None),
        BodyFormat::Auto => match serde_json::from_str(trimmed) {
            Ok(value) => value,
            Err(error) if looks_like_json(trimmed) => return Err(not_json(&error)),
            Err(_) => return Ok(None),
        },
        BodyFormat::Json => serde_json::from_str(trimmed).map_err(|error| not_json(&error))?,
    };
    match parsed {
        Value::Object(object) => Ok(Some(object)),
        other => Err(InvalidInput::body(format!(
            "the body is {}, and queue.bodyFormat Json takes only a JSON object such as {{\"prompt\":\"…\"}}",
            kind(&other)
        ))),
    }
}

/// A prompt may begin with a brace, but hardly with a brace and a quote.
fn looks_like_json(body: &str) -> bool {
    body.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'))
}

fn not_json(error: &serde_json::Error) -> InvalidInput {
    InvalidInput::body(format!("the body is not JSON: {error}"))
}

/// One input of a form that millrace defines.
pub fn as_input(field: &str, value: Value) -> Result<Input, InvalidInput> {
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Object(object) => Ok(Input::Object(object)),
        other => Err(InvalidInput::field(field, format!("must be an object or a text, is {}", kind(&other)))),
    }
}

/// One input of somebody else's form, where a number is a text too.
pub fn as_foreign_input(field: &str, value: Value) -> Result<Input, InvalidInput> {
    match value {
        Value::Number(number) => Ok(Input::Text(number.to_string())),
        other => as_input(field, other),
    }
}

/// What a value is, in an error's words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
