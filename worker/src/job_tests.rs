//! Every form of a message, right and wrong.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn message(body: &str) -> Message {
    Message {
        id: "m-1".into(),
        receipt_handle: "handle".into(),
        body: body.into(),
        receive_count: 1,
        sent_at: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        polled: Instant::now(),
        attributes: BTreeMap::new(),
    }
}

fn auto(body: &str) -> Result<Job, Box<Rejected>> {
    decode(&message(body), BodyFormat::Auto)
}

fn object(value: Value) -> Input {
    let Value::Object(map) = value else { panic!("not an object") };
    Input::Object(map)
}

#[test]
fn each_form_is_told_by_its_keys() {
    let text = |t: &str| Input::Text(t.into());
    let table: Vec<(&str, Form, &str, Vec<Input>)> = vec![
        ("a cat", Form::Text, "m-1", vec![text("a cat")]),
        ("8", Form::Text, "m-1", vec![text("8")]),
        ("{cat} on a mat", Form::Text, "m-1", vec![text("{cat} on a mat")]),
        (r#"["a","b"]"#, Form::Text, "m-1", vec![text(r#"["a","b"]"#)]),
        (r#"{"prompt":"a cat"}"#, Form::Object, "m-1", vec![object(json!({"prompt": "a cat"}))]),
        (r#"{"prompt":"a cat","job_id":"j 1"}"#, Form::Object, "j%201", vec![object(json!({"prompt": "a cat"}))]),
        (r#"{"job_id":"j","input":"a cat"}"#, Form::Envelope, "j", vec![text("a cat")]),
        (r#"{"job_id":"j","payload":{"prompt":"x"}}"#, Form::Envelope, "j", vec![object(json!({"prompt": "x"}))]),
        (r#"{"inputs":["a",{"prompt":"b"}]}"#, Form::Envelope, "m-1", vec![text("a"), object(json!({"prompt": "b"}))]),
        (
            r#"{"entity_id":"e","task_name":"draw","task_config":{"prompt":"x"},"timestamp":"t/1","total_tasks":3}"#,
            Form::TaskEnvelope,
            "e-draw-t%2F1",
            vec![object(json!({"prompt": "x"}))],
        ),
    ];
    for (body, form, id, inputs) in table {
        let job = auto(body).unwrap_or_else(|r| panic!("{body}: {}", r.error));
        assert_eq!((job.head.form, job.head.id.as_str()), (form, id), "{body}");
        assert_eq!(job.inputs, inputs, "{body}");
    }
}

#[test]
fn each_malformed_form_names_its_field() {
    let long = format!(r#"{{"prompt":"x","job_id":"{}"}}"#, "j".repeat(257));
    let table = [
        (r#"{"prompt": "a cat""#, "the body is not JSON"),
        ("  ", "the body is blank"),
        (r#"{"inputs":[]}"#, "inputs: must have 1 to 256 entries, has 0"),
        (r#"{"inputs":"x"}"#, "inputs: must be a list, is a text"),
        (r#"{"inputs":[1]}"#, "inputs[0]: must be an object or a text, is a number"),
        (r#"{"inputs":["x"],"input":"y"}"#, "input: must not stand beside inputs"),
        (r#"{"job_id":"j","input":null}"#, "input: must be an object or a text, is null"),
        (r#"{"job_id":7,"prompt":"x"}"#, "job_id: must be a text, is a number"),
        (r#"{"job_id":"","prompt":"x"}"#, "job_id: must have 1 to 256 characters"),
        (long.as_str(), "job_id: must have 1 to 256 characters once encoded, has 257"),
        (r#"{"prompt":"x","deadline":"tomorrow"}"#, "deadline: must be a time such as"),
        (r#"{"prompt":"x","metadata":[]}"#, "metadata: must be an object, is a list"),
        (r#"{"prompt":"x","reply_to":"q"}"#, "reply_to: not supported by this version"),
        (r#"{"entity_id":"e","task_name":"t","task_config":{}}"#, "timestamp: is missing"),
        (r#"{"entity_id":[],"task_name":"t","task_config":{},"timestamp":1}"#, "entity_id: must be a text or a number"),
        (
            r#"{"entity_id":"e","task_name":"t","task_config":3,"timestamp":1}"#,
            "task_config: must be an object or a text",
        ),
    ];
    for (body, wanted) in table {
        let found = auto(body).map(|_| ()).unwrap_err().error.to_string();
        assert!(found.contains(wanted), "{body}: {found:?} does not say {wanted:?}");
    }
}

#[test]
fn body_format_overrules_the_guess() {
    let text = decode(&message(r#"{"prompt":"x"}"#), BodyFormat::Text).unwrap();
    assert_eq!(text.inputs, [Input::Text(r#"{"prompt":"x"}"#.into())]);
    let wrong = decode(&message("a cat"), BodyFormat::Json).map(|_| ()).unwrap_err();
    assert!(wrong.error.message.contains("not JSON"), "{}", wrong.error);
    let wrong = decode(&message("8"), BodyFormat::Json).map(|_| ()).unwrap_err();
    assert!(wrong.error.message.contains("the body is a number"), "{}", wrong.error);
}

#[test]
fn what_is_known_of_a_bad_job_is_kept_for_its_record() {
    let rejected = auto(r#"{"job_id":"j","input":3,"metadata":{"user":7}}"#).map(|_| ()).unwrap_err();
    assert_eq!((rejected.head.id.as_str(), rejected.head.form), ("j", Form::Envelope));
    assert_eq!(rejected.head.metadata["user"], 7);
}

#[test]
fn the_attribute_names_the_job_and_the_body_overrules_it() {
    let mut named = message("a cat");
    named.attributes.insert(JOB_ID_ATTRIBUTE.into(), "from attribute".into());
    assert_eq!(decode(&named, BodyFormat::Auto).unwrap().head.id, "from%20attribute");
    named.body = r#"{"prompt":"x","job_id":"mine"}"#.into();
    let head = decode(&named, BodyFormat::Auto).unwrap().head;
    assert_eq!((head.id.as_str(), head.id_is_producers), ("mine", true));
}

#[test]
fn a_repeat_is_the_same_job_whatever_is_said_about_it() {
    let hash = |body: &str| auto(body).unwrap().head.input_sha256;
    let task = |retry: u32, steps: u32| {
        format!(
            r#"{{"entity_id":"e","task_name":"t","timestamp":1,"retry_count":{retry},"task_config":{{"prompt":"x","steps":{steps}}}}}"#
        )
    };
    assert_eq!(hash(&task(0, 4)), hash(&task(1, 4)));
    assert_ne!(hash(&task(0, 4)), hash(&task(0, 5)));
    assert_eq!(hash(r#"{"prompt":"x","steps":4}"#), hash(r#"{ "steps": 4, "prompt": "x" }"#));
    assert_eq!(hash("a cat"), hash(r#"{"job_id":"j","input":"a cat"}"#));
    assert_ne!(hash(r#"{"inputs":["a cat"]}"#), hash("a cat"));
    assert_eq!(hash("a cat"), hex::encode(Sha256::digest("a cat")));
}

#[test]
fn envelope_extras_are_given_back() {
    let body = r#"{"job_id":"j","input":"x","metadata":{"a":1},"trace":"t","deadline":"2026-11-23T10:00:00Z"}"#;
    let head = auto(body).unwrap().head;
    assert_eq!(Value::Object(head.metadata), json!({"a": 1, "trace": "t"}));
    assert_eq!(head.deadline, Some("2026-11-23T10:00:00Z".parse().unwrap()));
}

proptest! {
    #[test]
    fn no_body_panics_and_every_id_is_safe_for_a_key(body in ".{0,200}", id in ".{1,80}") {
        let mut any = message(&body);
        any.attributes.insert(JOB_ID_ATTRIBUTE.into(), id);
        let head = match decode(&any, BodyFormat::Auto) { Ok(job) => job.head, Err(rejected) => rejected.head };
        let safe = |c: char| c.is_ascii_alphanumeric() || "._:-%".contains(c);
        any.attributes.insert(JOB_ID_ATTRIBUTE.into(), head.raw_id.clone());
        let again = match decode(&any, BodyFormat::Auto) { Ok(job) => job.head, Err(rejected) => rejected.head };
        prop_assert_eq!(&again.id, &head.id, "sent on with its raw id, a message is the same job");
        prop_assert!(!head.id.is_empty() && head.id.len() <= MAX_JOB_ID && head.id.chars().all(safe), "{}", head.id);
    }
}
