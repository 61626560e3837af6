//! A job's name in keys and attributes, and the text that its input's hash is taken of: what a worker writes and whoever
//! asks for results must spell alike.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Longest job id, after encoding.
pub const MAX_JOB_ID: usize = 256;
/// The message attribute that names the job where the body does not.
pub const JOB_ID_ATTRIBUTE: &str = "millrace-job-id";
/// The message attribute that has the id of the first message of a job that was sent again: where nothing names the job, it goes by
/// that, as it did then.
pub const FIRST_MESSAGE_ATTRIBUTE: &str = "millrace-message-id";
/// What the keys of records end in.
pub const RECORD_SUFFIX: &str = ".record.json";
/// What may stand in a key as it is.
const KEY_SAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'-');

/// A job id as keys have it: what is not a letter, a digit or one of `. _ : -` is percent-encoded. Not yet held against
/// [`MAX_JOB_ID`].
pub fn encode_job_id(id: &str) -> String {
    utf8_percent_encode(id, KEY_SAFE).to_string()
}

/// JSON without spaces and with the keys of every object in order.
pub fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            let entry = |key: &String| format!("{}:{}", Value::String(key.clone()), canonical_json(&object[key]));
            format!("{{{}}}", keys.into_iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_hold_only_what_is_safe() {
        for (id, wanted) in [("order-7", "order-7"), ("a b/c", "a%20b%2Fc"), ("é", "%C3%A9"), ("a.b_c:d", "a.b_c:d")] {
            assert_eq!(encode_job_id(id), wanted);
        }
    }

    #[test]
    fn the_order_of_keys_makes_no_difference() {
        let one = json!({ "b": [1, { "d": null, "c": "x" }], "a": 1.5 });
        assert_eq!(canonical_json(&one), r#"{"a":1.5,"b":[1,{"c":"x","d":null}]}"#);
    }
}
