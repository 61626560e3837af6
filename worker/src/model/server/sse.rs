//! Streams of server-sent events (WHATWG HTML, 9.2), collected to what the answer would be without streaming.

use serde_json::{Map, Value};

/// What ends an OpenAI stream.
const DONE: &str = "[DONE]";

/// The answer that a stream stands for: OpenAI's deltas joined, else the list of its events' data; or the error that it
/// ended with.
pub(super) fn collect(text: &str) -> Result<Value, String> {
    let events: Vec<Value> = data(text).into_iter().filter(|data| data != DONE).map(parse).collect();
    if let Some(error) = events.iter().find(|event| event.get("error").is_some() && event.get("choices").is_none()) {
        return Err(format!("the stream ended with an error: {}", error["error"]));
    }
    let is_delta = |event: &Value| event.get("choices").is_some_and(Value::is_array);
    if !events.is_empty() && events.iter().all(is_delta) { Ok(join(events)) } else { Ok(Value::Array(events)) }
}

/// The data of each event.
fn data(text: &str) -> Vec<String> {
    let (mut events, mut lines) = (Vec::new(), Vec::new());
    for line in text.trim_start_matches('\u{feff}').lines().chain([""]) {
        if let Some(data) = line.strip_prefix("data:") {
            lines.push(data.strip_prefix(' ').unwrap_or(data));
        } else if line.is_empty() && !lines.is_empty() {
            events.push(std::mem::take(&mut lines).join("\n"));
        }
    }
    events
}

fn parse(data: String) -> Value {
    serde_json::from_str(&data).unwrap_or(Value::String(data))
}

/// Chunks of a chat or a completion as one.
fn join(chunks: Vec<Value>) -> Value {
    let mut whole = Map::new();
    let mut choices: Vec<Value> = Vec::new();
    for chunk in chunks {
        let Value::Object(fields) = chunk else { continue };
        for (name, value) in fields {
            match value {
                Value::Array(parts) if name == "choices" => {
                    for part in parts {
                        add_choice(&mut choices, part);
                    }
                }
                Value::Null => drop(whole.entry(name).or_insert(Value::Null)),
                value => drop(whole.insert(name, value)),
            }
        }
    }
    choices.sort_by_key(index);
    if let Some(Value::String(object)) = whole.get_mut("object") {
        *object = object.trim_end_matches(".chunk").to_owned();
    }
    whole.insert("choices".into(), Value::Array(choices));
    Value::Object(whole)
}

fn index(part: &Value) -> u64 {
    part.get("index").and_then(Value::as_u64).unwrap_or(0)
}

/// A choice's `delta` is what its `message` grows by; all else of it grows as it is.
fn add_choice(choices: &mut Vec<Value>, mut part: Value) {
    if let Some(delta) = part.as_object_mut().and_then(|part| part.shift_remove("delta")) {
        part["message"] = delta;
    }
    grow_list(choices, part);
}

/// Adds to the part of a list that has the same index.
fn grow_list(list: &mut Vec<Value>, part: Value) {
    match list.iter_mut().find(|other| index(other) == index(&part)) {
        Some(known) => grow(known, part),
        None => list.push(part),
    }
}

fn grow(known: &mut Value, part: Value) {
    match (known, part) {
        (Value::Object(known), Value::Object(part)) => {
            for (name, value) in part {
                match known.get_mut(&name) {
                    // which it is, and not a piece of it
                    Some(there) if ["role", "type", "id", "finish_reason"].contains(&name.as_str()) => {
                        if !value.is_null() {
                            *there = value;
                        }
                    }
                    Some(there) => grow(there, value),
                    None => drop(known.insert(name, value)),
                }
            }
        }
        (Value::String(known), Value::String(part)) => known.push_str(&part),
        (Value::Array(known), Value::Array(parts)) => {
            for part in parts {
                grow_list(known, part);
            }
        }
        (_, Value::Null) => {}
        (known, part) => *known = part,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(events: &[Value]) -> String {
        events.iter().map(|event| format!("event: x\ndata: {event}\n\n")).chain(["data: [DONE]\n\n".into()]).collect()
    }

    #[test]
    fn deltas_of_a_chat_are_joined() {
        let chunk =
            |choices: Value| json!({ "id": "c", "object": "chat.completion.chunk", "choices": choices, "usage": null });
        let call = |arguments: &str| json!([{ "index": 0, "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": arguments } }] } }]);
        let events = [
            chunk(json!([{ "index": 1, "delta": { "role": "assistant", "content": "B" }, "finish_reason": null }])),
            chunk(json!([{ "index": 0, "delta": { "role": "assistant", "content": "Hel" }, "finish_reason": null }])),
            chunk(json!([{ "index": 0, "delta": { "role": "assistant", "content": "lo" }, "finish_reason": null }])),
            chunk(call("{\"a\":")),
            chunk(call("1}")),
            chunk(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }])),
            json!({ "id": "c", "object": "chat.completion.chunk", "choices": [], "usage": { "total_tokens": 9 } }),
        ];
        let joined = collect(&stream(&events)).unwrap();
        assert_eq!(joined["object"], "chat.completion");
        assert_eq!(joined["usage"], json!({ "total_tokens": 9 }));
        let first = &joined["choices"][0];
        assert_eq!((&first["message"]["content"], &first["message"]["role"]), (&json!("Hello"), &json!("assistant")));
        assert_eq!(first["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
        assert_eq!((&first["finish_reason"], first.get("delta")), (&json!("stop"), None));
        assert_eq!(joined["choices"][1]["message"]["content"], "B");
    }

    #[test]
    fn texts_of_a_completion_are_joined() {
        let chunk = |text: &str| json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] });
        let joined = collect(&stream(&[chunk("a "), chunk("b")])).unwrap();
        assert_eq!(joined, json!({ "choices": [{ "index": 0, "text": "a b", "finish_reason": null }] }));
    }

    #[test]
    fn any_other_stream_is_the_list_of_its_events() {
        let text = "\u{feff}: hello\r\n\r\nid: 1\r\ndata: {\"n\":1}\r\n\r\ndata:two\ndata: lines\n\n";
        assert_eq!(collect(text), Ok(json!([{ "n": 1 }, "two\nlines"])));
        assert_eq!(collect(""), Ok(json!([])));
    }

    #[test]
    fn an_error_within_a_stream_is_one() {
        let events = [json!({ "choices": [] }), json!({ "error": { "message": "out of memory" } })];
        let error = collect(&stream(&events)).unwrap_err();
        assert!(error.contains("out of memory"), "{error}");
    }
}
