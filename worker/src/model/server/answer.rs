//! What a server's answer means: the one table of statuses, and how an answer becomes a result.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use millrace_api::ServerResponse;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde_json::Value;

use super::ask::is_json;
use super::sse;
use crate::model::{InvalidInput, Name, Output, Product};

/// Most bytes of a JSON result that the record holds; a larger one is a file.
const LARGEST_VALUE: usize = 256 << 10;
/// Most characters of an answer that an error shows.
const LONGEST_SHOWN: usize = 500;

/// What a status means for the job. docs/bring-your-own-server.md shows the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Here is the result.
    Done,
    /// Not now: there are too many requests.
    Busy,
    /// The request can never be answered.
    Invalid,
    /// The server is not asked as it wants to be; where it has answered others so, the request is at fault.
    Misdirected,
    /// The server failed on it.
    Failed,
}

/// The table.
pub(super) fn meaning(status: StatusCode) -> Meaning {
    match status.as_u16() {
        200..=299 => Meaning::Done,
        408 | 425 | 429 | 503 => Meaning::Busy,
        401 | 403 | 404 | 405 | 407 | 300..=399 => Meaning::Misdirected,
        // so text-generation-inference and its kin say that the model failed
        424 => Meaning::Failed,
        400..=499 => Meaning::Invalid,
        _ => Meaning::Failed,
    }
}

/// How long a server wants to be left alone: seconds, or a date.
pub(super) fn retry_after(header: Option<&HeaderValue>, now: Timestamp) -> Option<Duration> {
    let text = header?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// The server's own words for what is wrong with a request, and the field where it names one: as OpenAI (`error.message`,
/// `error.param`), FastAPI (`detail`) and most others say it.
pub(super) fn complaint(status: StatusCode, body: &[u8]) -> InvalidInput {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(first) = json["detail"].get(0).filter(|first| first["msg"].is_string()) {
        let step = |step: &Value| step.as_str().map_or_else(|| step.to_string(), str::to_owned);
        let place =
            first["loc"].as_array().map(|loc| loc.iter().map(step).filter(|step| step != "body").collect::<Vec<_>>());
        let field = place.map(|steps| steps.join(".")).filter(|field| !field.is_empty());
        let message = format!("the server answered {status}: {}", shown(first["msg"].as_str().unwrap_or_default()));
        return InvalidInput { field, message };
    }
    let field = json["error"]["param"].as_str().map(str::to_owned);
    let words = ["/error/message", "/error", "/message", "/detail"];
    let said = words.iter().find_map(|pointer| json.pointer(pointer)?.as_str().map(str::to_owned));
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let said = said.trim();
    let message = if said.is_empty() {
        format!("the server answered {status}")
    } else {
        format!("the server answered {status}: {}", shown(said))
    };
    InvalidInput { field, message }
}

/// A text as far as an error shows it.
fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST_SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

const EVENTS: &str = "text/event-stream";

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The one output that an answer is, where it is nothing else: as it comes.
pub(super) fn file(mapping: &ServerResponse, content_type: &str) -> Option<Name> {
    let essence = essence(content_type);
    let is_text = essence.starts_with("text/") && mapping.content_type.is_none();
    if essence == EVENTS || is_json(&essence) || is_text {
        return None;
    }
    let (extension, content_type) = kind(mapping, Some(essence).filter(|essence| !essence.is_empty()));
    Some(Name { index: 0, count: 1, extension, content_type })
}

/// What an answer comes to that is no file; else why the consumer's mapping does not fit it.
pub(super) fn product(mapping: &ServerResponse, content_type: &str, body: &[u8]) -> Result<Product, String> {
    let essence = essence(content_type);
    if essence == EVENTS {
        return of_json(mapping, sse::collect(&String::from_utf8_lossy(body))?);
    }
    if is_json(&essence) {
        let json = serde_json::from_slice(body)
            .map_err(|error| format!("the answer is no JSON, although it says so: {error}"))?;
        return of_json(mapping, json);
    }
    if let Some(pointer) = mapping.value.as_ref().or(mapping.file.as_ref()) {
        return Err(format!("the answer is {essence}, and model.server.response has the JSON pointer {pointer}"));
    }
    of_json(mapping, Value::String(String::from_utf8_lossy(body).into_owned()))
}

fn of_json(mapping: &ServerResponse, json: Value) -> Result<Product, String> {
    let at = |field: &str, pointer: &str| {
        let there = json.pointer(pointer).filter(|value| !value.is_null());
        there.ok_or_else(|| {
            format!("the answer has nothing at {pointer} (model.server.response.{field}): {}", shown(&json.to_string()))
        })
    };
    let mut outputs = Vec::new();
    if let Some(pointer) = &mapping.file {
        let found = at("file", pointer)?;
        let list = found.as_array().map_or_else(|| std::slice::from_ref(found), Vec::as_slice);
        for one in list {
            let bytes = one.as_str().and_then(|text| STANDARD.decode(text).ok());
            let bytes = bytes
                .ok_or_else(|| format!("what the answer has at {pointer} (model.server.response.file) is no base64"))?;
            let (extension, content_type) = kind(mapping, None);
            outputs.push(Output { extension, content_type, body: bytes.into() });
        }
    }
    let value = match &mapping.value {
        Some(pointer) => Some(at("value", pointer)?.clone()),
        None if mapping.file.is_some() => None,
        None => Some(json),
    };
    let Some(value) = value else { return Ok(Product { outputs, ..Product::default() }) };
    let text = value.to_string();
    if text.len() <= LARGEST_VALUE {
        return Ok(Product { outputs, value: Some(value), ..Product::default() });
    }
    outputs.push(Output { extension: "json".into(), content_type: "application/json".into(), body: text.into() });
    Ok(Product { outputs, ..Product::default() })
}

/// Extension and type of a file: what the consumer says, else the answer, else those of any.
fn kind(mapping: &ServerResponse, answered: Option<String>) -> (Cow<'static, str>, Cow<'static, str>) {
    let content_type = mapping.content_type.clone().or(answered).unwrap_or_else(|| "application/octet-stream".into());
    let extension = mapping.extension.clone().map_or_else(|| extension(&content_type).into(), Cow::Owned);
    (extension, content_type.into())
}

/// The usual extension of a type's files.
fn extension(content_type: &str) -> &'static str {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "audio/wav" | "audio/x-wav" | "audio/wave" => "wav",
        "audio/mpeg" => "mp3",
        "audio/flac" => "flac",
        "audio/ogg" => "ogg",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        "application/pdf" => "pdf",
        "application/zip" => "zip",
        "text/plain" => "txt",
        "text/csv" => "csv",
        "text/html" => "html",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_status_has_its_meaning() {
        let table = [
            (Meaning::Done, &[200, 201, 204][..]),
            (Meaning::Busy, &[408, 425, 429, 503]),
            (Meaning::Misdirected, &[301, 307, 401, 403, 404, 405, 407]),
            (Meaning::Invalid, &[400, 402, 406, 409, 413, 415, 418, 422]),
            (Meaning::Failed, &[424, 500, 501, 502, 504, 599]),
        ];
        for (wanted, statuses) in table {
            for status in statuses {
                assert_eq!(meaning(StatusCode::from_u16(*status).unwrap()), wanted, "{status}");
            }
        }
    }

    #[test]
    fn a_server_says_when_to_come_again() {
        let now: Timestamp = "2026-10-21T07:28:00Z".parse().unwrap();
        let after =
            |text: &str| retry_after(Some(&HeaderValue::from_str(text).unwrap()), now).map(|wait| wait.as_secs());
        assert_eq!(after("7"), Some(7));
        assert_eq!(after("Wed, 21 Oct 2026 07:28:30 GMT"), Some(30));
        assert_eq!(after("Wed, 21 Oct 2026 07:00:00 GMT"), Some(0));
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(None, now), None);
    }

    #[test]
    fn a_complaint_is_in_the_server_s_own_words() {
        let table = [
            (json!({ "detail": [{ "loc": ["body", "steps", 0], "msg": "too many" }] }), Some("steps.0"), "too many"),
            (json!({ "detail": "no cats" }), None, "no cats"),
            (json!({ "error": { "message": "too long", "param": "messages" } }), Some("messages"), "too long"),
            (json!({ "error": "bad", "error_type": "validation" }), None, "bad"),
            (json!({ "message": "bad" }), None, "bad"),
            (json!({ "other": 1 }), None, "{\"other\":1}"),
        ];
        for (body, field, words) in table {
            let error = complaint(StatusCode::UNPROCESSABLE_ENTITY, body.to_string().as_bytes());
            assert_eq!(error.field.as_deref(), field, "{body}");
            assert_eq!(error.message, format!("the server answered 422 Unprocessable Entity: {words}"));
        }
        assert_eq!(complaint(StatusCode::BAD_REQUEST, b"").message, "the server answered 400 Bad Request");
        let long = complaint(StatusCode::BAD_REQUEST, "é".repeat(600).as_bytes()).message;
        assert!(long.ends_with("é…") && long.chars().count() < 540, "{long}");
    }

    fn mapping(spec: Value) -> ServerResponse {
        serde_json::from_value(spec).unwrap()
    }

    const OCTETS: &str = "application/octet-stream";

    type Files = &'static [(&'static str, &'static str, &'static [u8])];

    #[test]
    fn an_answer_becomes_what_the_spec_says() {
        let json = || json!({ "text": "hi", "images": ["aQ==", "ag=="], "one": "aQ==" }).to_string();
        let png = json!({ "file": "/images", "contentType": "image/png" });
        let both = json!({ "file": "/one", "value": "/text", "extension": "dat" });
        let table: Vec<(Value, &str, String, Option<Value>, Files)> = vec![
            (json!({}), "application/json; charset=utf-8", "[1]".into(), Some(json!([1])), &[]),
            (json!({ "value": "/text" }), "application/problem+json", json(), Some(json!("hi")), &[]),
            (png, "application/json", json(), None, &[("png", "image/png", b"i"), ("png", "image/png", b"j")]),
            (both, "application/json", json(), Some(json!("hi")), &[("dat", OCTETS, b"i")]),
            (json!({}), "text/plain", "hi".into(), Some(json!("hi")), &[]),
            (json!({}), "text/event-stream", "data: 1\n\n".into(), Some(json!([1])), &[]),
        ];
        for (spec, content_type, body, value, files) in table {
            assert_eq!(file(&mapping(spec.clone()), content_type), None, "{spec}");
            let product = product(&mapping(spec.clone()), content_type, body.as_bytes()).unwrap();
            assert_eq!(product.value, value, "{spec}");
            let found: Vec<_> =
                product.outputs.iter().map(|o| (&*o.extension, &*o.content_type, &o.body[..])).collect();
            assert_eq!(found, files, "{spec}");
        }
    }

    #[test]
    fn an_answer_that_is_a_file_goes_on_as_it_comes() {
        let vtt = json!({ "contentType": "text/vtt", "extension": "vtt" });
        let table = [
            (json!({}), "Audio/WAV", ("wav", "audio/wav")),
            (json!({}), "video/mp4; codecs=avc1", ("mp4", "video/mp4")),
            (json!({}), "", ("bin", OCTETS)),
            (vtt, "text/plain", ("vtt", "text/vtt")),
        ];
        for (spec, answered, wanted) in table {
            let name = file(&mapping(spec), answered).unwrap();
            assert_eq!((&*name.extension, &*name.content_type), wanted);
            assert_eq!((name.index, name.count), (0, 1));
        }
    }

    #[test]
    fn a_large_value_is_a_file() {
        let body = json!("x".repeat(LARGEST_VALUE)).to_string();
        let product = product(&mapping(json!({})), "application/json", body.as_bytes()).unwrap();
        assert_eq!((product.value, &product.outputs[0].body[..]), (None, body.as_bytes()));
        assert_eq!((&*product.outputs[0].extension, &*product.outputs[0].content_type), ("json", "application/json"));
    }

    #[test]
    fn a_mapping_that_does_not_fit_names_its_field() {
        let table = [
            (
                json!({ "value": "/a/b" }),
                "application/json",
                "{\"a\":1}",
                "nothing at /a/b (model.server.response.value)",
            ),
            (
                json!({ "file": "/a" }),
                "application/json",
                "{\"a\":1}",
                "at /a (model.server.response.file) is no base64",
            ),
            (json!({ "file": "/b" }), "application/json", "{\"a\":1}", "nothing at /b (model.server.response.file)"),
            (json!({ "value": "/a" }), "text/plain", "hi", "has the JSON pointer /a"),
            (json!({}), "application/json", "hi", "is no JSON"),
        ];
        for (spec, content_type, body, words) in table {
            let error = product(&mapping(spec.clone()), content_type, body.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{spec}: {error}");
        }
    }
}
