//! queue.mapping: somebody else's messages, as they are.

use super::*;

const JOB_SERVICE: &str = include_str!("../../../tests/bodies/job_service.json");

fn mapped(mapping: &Value) -> Forms {
    forms(&json!({ "mapping": mapping })).unwrap()
}

/// A job service's message with its attributes.
fn job_service() -> Message {
    with_attributes(
        JOB_SERVICE,
        &[("job_id", "9b2f6c1e"), ("job_type", "asset_generation"), ("priority", "7"), ("world_id", "w-42")],
    )
}

#[test]
fn a_job_services_message_is_read_as_it_is() {
    let common = |input| json!({ "jobId": "attribute:job_id", "input": input, "route": "/payload/asset_type", "priority": "/payload/priority" });
    let whole = job(mapped(&common("/payload/prompt_spec")).decode(&job_service()));
    assert_eq!(inputs(&whole), [object(json!({ "description": "a mossy stone wall" }))]);
    let job = job(mapped(&common("/payload/prompt_spec/description")).decode(&job_service()));
    assert_eq!(inputs(&job), [text("a mossy stone wall")]);
    let head = job.head;
    assert_eq!((head.id.as_str(), head.id_is_producers, head.form), ("9b2f6c1e", true, Form::Mapped));
    assert_eq!((head.route.as_deref(), head.priority), (Some("texture"), 5));
    // the rest of the body
    let mut rest: Value = serde_json::from_str(JOB_SERVICE).unwrap();
    rest["payload"]["prompt_spec"] = json!({});
    assert_eq!(Value::Object(head.metadata), rest);
}

#[test]
fn a_mapped_part_may_be_an_attribute_a_number_or_far_down() {
    let table = [
        (json!({ "input": "/payload" }), r#"{"payload":8}"#, text("8"), 0),
        (json!({ "input": "/a~1b/1/~0c" }), r#"{"a/b":[0,{"~c":"x"}]}"#, text("x"), 0),
        (
            json!({ "input": "attribute:prompt", "priority": "attribute:urgency" }),
            "see the attributes",
            text("a cat"),
            -3,
        ),
        (json!({ "input": "attribute:prompt" }), " ", text("a cat"), 0),
        (json!({ "input": "/p", "priority": "/priority" }), r#"{"p":"x","priority":" 4"}"#, text("x"), 4),
    ];
    for (mapping, body, input, priority) in table {
        let message = with_attributes(body, &[("prompt", "a cat"), ("urgency", "-3")]);
        let job = job(mapped(&mapping).decode(&message));
        assert_eq!((inputs(&job), job.head.priority), (&[input][..], priority), "{mapping}");
    }
    let text =
        job(mapped(&json!({ "input": "attribute:prompt" })).decode(&with_attributes("more", &[("prompt", "x")])));
    assert_eq!(Value::Object(text.head.metadata), json!({ "body": "more" }));
}

#[test]
fn what_is_missing_or_wrong_is_named_with_what_is_there() {
    let table = [
        (
            json!({ "input": "/payload/prompt" }),
            "/payload/prompt: is missing: queue.mapping.input says that the input is there, but /payload has asset_job_id, \
             world_id, asset_type, provider, model_id, prompt_spec, priority, requested_by",
        ),
        (
            json!({ "input": "/data" }),
            "/data: is missing: queue.mapping.input says that the input is there, but the body has job_type, payload, \
             message_id, retry_count, max_retries",
        ),
        (
            json!({ "input": "/job_type/name" }),
            "/job_type/name: is missing: queue.mapping.input says that the input is there, but /job_type is a text",
        ),
        (
            json!({ "input": "/~1/0" }),
            "/~1/0: is missing: queue.mapping.input says that the input is there, but the body has job_type, payload, \
             message_id, retry_count, max_retries",
        ),
        (
            json!({ "input": "attribute:prompt" }),
            "attribute:prompt: is missing: queue.mapping.input says that the input is there, but the message has the \
             attributes job_id, job_type, priority, world_id",
        ),
        (json!({ "input": "/payload", "priority": "/job_type" }), "/job_type: must be an integer, is a text"),
        (json!({ "input": "/payload", "priority": "/payload" }), "/payload: must be an integer, is an object"),
        (json!({ "input": "/payload", "route": "/payload" }), "/payload: must be a text or a number, is an object"),
        (json!({ "jobId": "/payload" }), "/payload: must be a text or a number, is an object"),
    ];
    for (mapping, wanted) in table {
        assert_eq!(refused(mapped(&mapping).decode(&job_service())).error.to_string(), wanted, "{mapping}");
    }
    let of = |body| refused(mapped(&json!({ "input": "/p" })).decode(&message(body))).error.to_string();
    let missing = "/p: is missing: queue.mapping.input says that the input is there, but ";
    for (body, there) in
        [("a cat", "the body is not a JSON object"), ("{}", "the body is empty"), (r#"{"p":null}"#, "/p is null")]
    {
        assert_eq!(of(body), format!("{missing}{there}"));
    }
    assert_eq!(of(r#"{"p":[1]}"#), "/p: must be an object or a text, is a list");
    let none = refused(mapped(&json!({ "input": "attribute:p" })).decode(&message("x"))).error.to_string();
    assert!(none.ends_with("but the message has no attributes"), "{none}");
}

#[test]
fn a_job_that_is_refused_keeps_its_mapped_id() {
    let rejected = refused(mapped(&json!({ "jobId": "attribute:job_id", "input": "/nothing" })).decode(&job_service()));
    assert_eq!((rejected.head.id.as_str(), rejected.head.form), ("9b2f6c1e", Form::Mapped));
    let form = mapped(&json!({ "jobId": "attribute:job_id" }));
    let rejected = refused(form.decode(&with_attributes(r#"{"job_id":"own","input":3}"#, &[("job_id", "mapped")])));
    assert_eq!(rejected.head.id, "mapped");
}

#[test]
fn without_a_mapped_input_the_bodys_own_form_is_read() {
    let forms =
        mapped(&json!({ "jobId": "attribute:id", "route": "attribute:kind", "priority": "attribute:priority" }));
    let attributes = [("id", "mapped"), ("kind", "portrait"), ("priority", "3")];
    let body = r#"{"job_id":"own","input":"x","priority":1}"#;
    let job_of = |attributes: &[(&str, &str)]| job(forms.decode(&with_attributes(body, attributes)));
    let all = job_of(&attributes);
    assert_eq!((all.head.id.as_str(), all.head.form, inputs(&all)), ("mapped", Form::Envelope, &[text("x")][..]));
    assert_eq!((all.head.route.as_deref(), all.head.priority), (Some("portrait"), 3));
    assert_eq!(all.head.metadata["job_id"], "own");
    // what a message does not have is as if it were not mapped
    let none = job_of(&[]).head;
    assert_eq!((none.id.as_str(), none.route, none.priority), ("own", None, 1));
    assert!(none.metadata.is_empty());
}

#[test]
fn a_mapping_that_cannot_be_read_is_told_at_start() {
    let mapping = json!({ "jobId": "job_id", "input": "attribute:", "route": "/a~2", "priority": "attribute:a b" });
    let shape = "must be attribute:NAME or a JSON pointer such as /payload/id, is";
    let wanted =
        ["jobId: {} \"job_id\"", "input: {} \"attribute:\"", "route: {} \"/a~2\"", "priority: {} \"attribute:a b\""];
    let wanted = wanted.map(|text| format!("queue.mapping.{}", text.replace("{}", shape)));
    assert_eq!(forms(&json!({ "mapping": mapping })).unwrap_err(), wanted);
    let text = forms(&json!({ "bodyFormat": "Text", "mapping": { "jobId": "attribute:id", "input": "/a" } }));
    let wanted = "queue.mapping.input: a JSON pointer needs queue.bodyFormat Auto or Json, not Text";
    assert_eq!(text.unwrap_err(), [wanted]);
}
