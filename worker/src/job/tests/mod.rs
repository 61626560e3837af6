//! Every form of a message, right and wrong, with the bodies of real systems.

mod celery;
mod envelope;
mod ids;
mod mapping;
mod objects;
mod s3_event;
mod wrapped;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

/// A consumer of `queue` (its fields beside the URL), whose results go to `images`, under `out/`.
fn forms(queue: &Value) -> Result<Forms, Vec<String>> {
    let mut config = json!({
        "consumer": { "namespace": "team", "name": "sdxl" },
        "queue": { "url": "http://h/0/prompts", "region": "r" },
        "model": { "task": "Echo" },
        "output": { "bucket": "images", "reply": { "queueUrl": "http://h/0/results" } },
    });
    for (key, value) in queue.as_object().unwrap() {
        config["queue"][key] = value.clone();
    }
    Forms::new(&serde_json::from_value(config).unwrap(), "out/")
}

/// One that allows what the bodies point to.
fn open() -> Forms {
    let buckets = ["photos-bodies", "amzn-s3-demo-bucket", "amzn-s3-demo-bucket1", "images"];
    forms(&json!({ "allow": { "inputBuckets": buckets } })).unwrap()
}

fn message(body: &str) -> Message {
    Message {
        id: "m-1".into(),
        receipt_handle: "handle".into(),
        body: body.into(),
        receive_count: 1,
        sent_at: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        polled: Instant::now(),
        poll_took: Duration::ZERO,
        attributes: BTreeMap::new(),
        group: None,
        trace_header: None,
    }
}

fn with_attributes(body: &str, attributes: &[(&str, &str)]) -> Message {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Message { attributes, ..message(body) }
}

/// The one job of a message.
#[track_caller]
fn job(decoded: Decoded) -> Job {
    match decoded {
        Decoded::Jobs(mut jobs) if jobs.len() == 1 => jobs.remove(0),
        Decoded::Rejected(rejected) => panic!("refused: {}", rejected.error),
        other => panic!("not one job: {other:?}"),
    }
}

#[track_caller]
fn refused(decoded: Decoded) -> Rejected {
    match decoded {
        Decoded::Rejected(rejected) => *rejected,
        other => panic!("not refused: {other:?}"),
    }
}

fn auto(body: &str) -> Decoded {
    open().decode(&message(body))
}

/// A job's inputs.
fn inputs(job: &Job) -> &[Input] {
    match &job.source {
        Source::Inputs(inputs) => &inputs.list,
        Source::Object { object, .. } => panic!("in {object}"),
    }
}

fn text(text: &str) -> Input {
    Input::Text(text.into())
}

fn object(value: Value) -> Input {
    Input::Object(crate::model::fields::object(value))
}
