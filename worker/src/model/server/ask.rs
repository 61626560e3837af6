//! What a server is sent for a job.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use millrace_api::{RequestBody, ServerPreset, ServerSpec};
use serde_json::{Map, Value, json};

use crate::model::{About, Batchable, Input, InvalidInput};

/// The field of an input that is sent as it is where `request.body` is File.
pub(super) const FILE: &str = "file";
/// The field that a text is where nothing else is said.
const TEXT: &str = "input";

/// One input for the server: what it is sent is for the consumer's spec to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub(super) job_id: String,
    input: Input,
    defaults: Map<String, Value>,
    envelope: Option<Map<String, Value>>,
}

impl Asked {
    /// Any input will do: the server alone knows what is right.
    pub(super) fn new(input: &Input, defaults: &Map<String, Value>, about: &About) -> Self {
        Self {
            job_id: about.job_id.into(),
            input: input.clone(),
            defaults: defaults.clone(),
            envelope: about.envelope.cloned(),
        }
    }
}

impl Batchable for Asked {
    fn key(&self) -> u64 {
        0
    }
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) content_type: String,
}

/// What `asked` sends.
pub(super) fn body(server: &ServerSpec, asked: &Asked) -> Result<Body, InvalidInput> {
    let content_type = |default: &str| server.request.content_type.clone().unwrap_or_else(|| default.to_owned());
    if server.request.body == RequestBody::File {
        return Ok(Body { bytes: file(&asked.input)?, content_type: content_type("application/octet-stream") });
    }
    let envelope = asked.envelope.clone().filter(|_| server.request.body == RequestBody::Envelope);
    let whole = Value::Object(envelope.unwrap_or_else(|| fields(server, asked)));
    let part = match &server.request.pointer {
        None => &whole,
        Some(pointer) => whole.pointer(pointer).ok_or_else(|| {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            InvalidInput::field(field, "is missing, and it is what the server is sent (model.server.request.pointer)")
        })?,
    };
    let content_type = content_type("application/json");
    let bytes = match part {
        // a text of its own type is sent as it is
        Value::String(text) if !is_json(&content_type) => Bytes::from(text.clone()),
        part => Bytes::from(part.to_string()),
    };
    Ok(Body { bytes, content_type })
}

/// Whether a Content-Type means JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// The input's fields over the consumer's defaults.
fn fields(server: &ServerSpec, asked: &Asked) -> Map<String, Value> {
    let main = server.request.text_field.as_deref();
    let main = main.or(server.preset.map(ServerPreset::text_field)).unwrap_or(TEXT);
    let mut all = asked.defaults.clone();
    match &asked.input {
        Input::Object(object) => all.extend(object.clone()),
        Input::Text(text) => drop(all.insert(main.to_owned(), text.as_str().into())),
        Input::Call { text, fields } => {
            all.extend(fields.clone());
            all.insert(main.to_owned(), text.as_str().into());
        }
    }
    if server.preset == Some(ServerPreset::OpenAiChat) && !all.contains_key("messages") {
        chat(&mut all, main);
    }
    all
}

/// A prompt as one message of the user's, after the system's.
fn chat(all: &mut Map<String, Value>, main: &str) {
    let Some(prompt) = all.shift_remove(main) else { return };
    let message = |role: &str, content: Value| json!({ "role": role, "content": content });
    let system = all.shift_remove("system").map(|system| message("system", system));
    let messages = system.into_iter().chain([message("user", prompt)]).collect();
    all.insert("messages".into(), Value::Array(messages));
}

/// The bytes of the field `file`.
fn file(input: &Input) -> Result<Bytes, InvalidInput> {
    let wrong = |why: &str| InvalidInput::field(FILE, why);
    let given = match input {
        Input::Object(fields) | Input::Call { fields, .. } => fields.get(FILE),
        Input::Text(_) => None,
    };
    let text =
        given.ok_or_else(|| wrong("is missing: it is what the server is sent, in base64 or as s3://bucket/key"))?;
    let text = text.as_str().ok_or_else(|| wrong("must be a text: base64, or s3://bucket/key"))?;
    let base64 = match text.strip_prefix("data:") {
        Some(url) => {
            url.split_once(";base64,").map(|(_, data)| data).ok_or_else(|| wrong("is a data: URL without ;base64,"))?
        }
        None => text,
    };
    STANDARD.decode(base64).map(Bytes::from).map_err(|error| wrong(&format!("is no base64: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(spec: Value) -> ServerSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn asked(input: &Input, defaults: &Value) -> Asked {
        let object = |value: &Value| value.as_object().unwrap().clone();
        let envelope = object(&json!({ "entity_id": "e", "task_config": { "a": 1 } }));
        let about = About { job_id: "j", envelope: Some(&envelope), ..About::default() };
        Asked::new(input, &object(defaults), &about)
    }

    fn object(value: &Value) -> Input {
        Input::Object(value.as_object().unwrap().clone())
    }

    #[test]
    fn an_input_becomes_what_the_spec_says() {
        let text = || Input::Text("hello".into());
        let call = Input::Call { text: "hi".into(), fields: Map::from_iter([("n".to_owned(), 2.into())]) };
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let table = [
            (json!({}), object(&json!({ "a": 1 })), json!({ "a": 0, "b": 2 }), json!({ "a": 1, "b": 2 })),
            (json!({}), text(), json!({}), json!({ "input": "hello" })),
            (json!({ "request": { "textField": "q" } }), call, json!({}), json!({ "n": 2, "q": "hi" })),
            (
                json!({ "request": { "pointer": "/a/0" } }),
                object(&json!({ "a": [{ "b": 3 }] })),
                json!({}),
                json!({ "b": 3 }),
            ),
            (
                json!({ "request": { "body": "Envelope" } }),
                object(&json!({ "a": 1 })),
                json!({}),
                json!({ "entity_id": "e", "task_config": { "a": 1 } }),
            ),
            (
                json!({ "preset": "OpenAiChat" }),
                text(),
                json!({ "model": "m", "system": "be kind" }),
                json!({ "model": "m", "messages": [message("system", "be kind"), message("user", "hello")] }),
            ),
            (
                json!({ "preset": "OpenAiChat" }),
                object(&json!({ "messages": [message("user", "x")], "temperature": 0 })),
                json!({ "temperature": 1 }),
                json!({ "temperature": 0, "messages": [message("user", "x")] }),
            ),
            (json!({ "preset": "OpenAiCompletions" }), text(), json!({}), json!({ "prompt": "hello" })),
            (
                json!({ "preset": "OpenAiEmbeddings" }),
                text(),
                json!({ "model": "m" }),
                json!({ "model": "m", "input": "hello" }),
            ),
        ];
        for (spec, input, defaults, wanted) in table {
            let body = body(&server(spec.clone()), &asked(&input, &defaults)).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&body.bytes).unwrap(), wanted, "{spec}");
            assert_eq!(body.content_type, "application/json");
        }
    }

    #[test]
    fn a_file_and_a_text_go_as_they_are() {
        let file = json!({ "request": { "body": "File", "contentType": "audio/wav" } });
        for text in ["aGk=", "data:audio/wav;base64,aGk="] {
            let body = body(&server(file.clone()), &asked(&object(&json!({ "file": text })), &json!({}))).unwrap();
            assert_eq!((body.bytes.as_ref(), body.content_type.as_str()), (&b"hi"[..], "audio/wav"));
        }
        let text = json!({ "request": { "pointer": "/q", "contentType": "text/plain" } });
        let body = body(&server(text), &asked(&object(&json!({ "q": "what?" })), &json!({}))).unwrap();
        assert_eq!(body.bytes.as_ref(), b"what?");
    }

    #[test]
    fn what_cannot_be_sent_names_its_field() {
        let (file, pointer) = (json!({ "request": { "body": "File" } }), json!({ "request": { "pointer": "/a/b" } }));
        for (spec, input, field) in [
            (&file, json!({}), "file"),
            (&file, json!({ "file": 3 }), "file"),
            (&file, json!({ "file": "%" }), "file"),
            (&file, json!({ "file": "data:,x" }), "file"),
            (&pointer, json!({ "a": {} }), "a.b"),
        ] {
            let error = body(&server(spec.clone()), &asked(&object(&input), &json!({}))).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }
}
