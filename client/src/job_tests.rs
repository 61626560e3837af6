//! How a job is read of a value, and what it is called.

use serde_json::json;

use super::*;

#[test]
fn a_value_is_read_as_a_worker_reads_a_body() {
    let fields = |value: Value| Input::One(value);
    let table = [
        (json!("a cat"), None, fields(json!("a cat"))),
        (json!(8), None, fields(json!("8"))),
        (json!({ "prompt": "x", "job_id": "j" }), Some("j"), fields(json!({ "prompt": "x" }))),
        // no job_id: an input whose own field is called so
        (json!({ "input": "x" }), None, fields(json!({ "input": "x" }))),
        (json!({ "input": "x", "job_id": "j" }), Some("j"), fields(json!("x"))),
        (json!({ "payload": { "a": 1 }, "job_id": "j" }), Some("j"), fields(json!({ "a": 1 }))),
        (json!({ "inputs": ["a", "b"] }), None, Input::Many(vec![json!("a"), json!("b")])),
    ];
    for (value, id, input) in table {
        let job = Job::from_value(value.clone()).unwrap();
        assert_eq!((job.id.as_deref(), job.input), (id, input), "{value}");
    }
    let job = Job::from_value(json!({ "job_id": "j", "input": "x", "team": "blue", "metadata": { "a": 1 } })).unwrap();
    assert_eq!(Value::Object(job.metadata), json!({ "a": 1, "team": "blue" }));
}

#[test]
fn what_is_wrong_is_named() {
    for (value, field) in [
        (json!([1]), "job"),
        (json!({ "job_id": 7 }), "job_id"),
        (json!({ "priority": "high" }), "priority"),
        (json!({ "deadline": "soon" }), "deadline"),
        (json!({ "metadata": [] }), "metadata"),
        (json!({ "inputs": "a" }), "inputs"),
        (json!({ "inputs": ["a"], "input": "b" }), "input"),
    ] {
        assert_eq!(Job::from_value(value.clone()).unwrap_err().field, field, "{value}");
    }
}

#[test]
fn the_same_input_is_the_same_job() {
    let id = |value| Job::from_value(value).unwrap().id();
    let one = id(json!({ "prompt": "x", "steps": 4 }));
    assert_eq!(one.len(), ID_DIGITS);
    assert_eq!(one, id(json!({ "steps": 4, "prompt": "x", "priority": 5 })));
    assert_ne!(one, id(json!({ "prompt": "x", "steps": 5 })));
}
