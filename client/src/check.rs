//! What can be said against a job before it is sent, so that its producer learns it now and not from a FAILED record.

use std::borrow::Cow;

use millrace_api::task::Declaration;
use serde_json::{Map, Value};

use crate::consumer::Consumer;
use crate::invalid::InvalidJob;

/// Holds one input against what the consumer's task declares; `field` is its place in the job. The one call by which all
/// inputs go.
pub(crate) fn check_input(consumer: &Consumer, field: &str, input: &Value) -> Result<(), InvalidJob> {
    let declaration = consumer.task.declaration();
    let object = match (input, declaration.and_then(Declaration::main)) {
        (Value::String(text), _) if text.trim().is_empty() => {
            return Err(InvalidJob::new(field, "the text is blank"));
        }
        (Value::String(_), Some(main)) => Cow::Owned(Map::from_iter([(main.name().to_owned(), input.clone())])),
        (Value::String(_), None) => return Ok(()),
        (Value::Object(object), _) => Cow::Borrowed(object),
        _ => return Err(InvalidJob::new(field, "must be a text or an object such as {\"prompt\":\"…\"}")),
    };
    let wrong = declaration.map(|task| task.check_job(&object, &consumer.parameters)).unwrap_or_default();
    match wrong.into_iter().next() {
        Some(error) => Err(InvalidJob::new(format!("{field}.{}", error.field), error.message)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(task: &str, input: &Value) -> Result<(), String> {
        let config = json!({
            "consumer": { "namespace": "a", "name": "b" },
            "queue": { "url": "https://sqs.eu-west-1.amazonaws.com/1/q" },
            "model": { "task": task, "parameters": { "steps": 4 } },
            "output": { "bucket": "results" },
        });
        let config: millrace_api::WorkerConfig = serde_json::from_value(config).unwrap();
        check_input(&Consumer::from(&config), "inputs[1]", input).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_worker_would_refuse_is_told_before_it_is_sent() {
        for (input, wanted) in [
            (json!(" "), "inputs[1]: the text is blank"),
            (json!(7), "inputs[1]: must be a text or an object"),
            (json!({}), "inputs[1].prompt: is required"),
            (json!({"prompt": "x", "steps": 0}), "inputs[1].steps: must be an integer from 1 to 150, not 0"),
            (json!({"promt": "x"}), "inputs[1].promt: unknown field; did you mean prompt?"),
        ] {
            let error = check("TextToImage", &input).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[test]
    fn what_is_right_and_what_only_a_server_knows_is_sent() {
        for (task, input) in [
            ("TextToImage", json!("a cat")),
            ("TextToImage", json!({"prompt": "a cat", "seed": 7})),
            ("Echo", json!({"anything": 1})),
            ("Http", json!({"anything": 1})),
            ("Custom", json!("8")),
        ] {
            assert_eq!(check(task, &input), Ok(()), "{task} {input}");
        }
    }
}
