//! Calls of Celery tasks, by the bodies that Celery itself sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// A body that Celery sent.
macro_rules! sent {
    ($name:literal) => {
        include_str!(concat!("../../../tests/bodies/celery_", $name))
    };
}

/// A call with some of its parts changed; `body` as JSON.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut wire: Value = serde_json::from_str(sent!("unencoded.json")).unwrap();
    change(&mut wire);
    if !wire["body"].is_string() {
        wire["body"] = STANDARD.encode(wire["body"].to_string()).into();
    }
    wire.to_string()
}

#[test]
fn each_call_is_the_task_and_its_arguments() {
    let main = "a lighthouse at night";
    let call = Input::Call { text: main.into(), fields: crate::model::fields::object(json!({ "steps": 4 })) };
    let table = [
        (sent!("args.txt"), "images.draw", "ddeb12a1-9373-42f4-9d3d-c77fc3094ec1", text(main)),
        (sent!("unencoded.json"), "images.draw", "35175f18-4aea-460e-8b14-e66ff85234ab", text(main)),
        (
            sent!("kwargs.txt"),
            "images.draw",
            "49f5c727-1fd2-4885-bc62-3b77bd850133",
            object(json!({ "prompt": main, "steps": 4 })),
        ),
        (sent!("mixed.txt"), "images.draw", "order-7", call),
        (sent!("number.txt"), "fib", "4c2e1c90-f91d-4ce7-8011-cc31837a4d1f", text("8")),
        (
            sent!("object.txt"),
            "images.draw",
            "1cc07ba6-8c98-433b-9181-517f820348c9",
            object(json!({ "prompt": main, "seed": 7 })),
        ),
        (sent!("group.txt"), "images.draw", "7bd5a355-17b9-44bb-bf51-5776a63cc0d2", text(main)),
    ];
    for (body, route, id, input) in table {
        let job = job(auto(body));
        assert_eq!((job.head.form, job.head.route.as_deref()), (Form::Celery, Some(route)), "{id}");
        assert_eq!((inputs(&job), job.head.id_is_producers), (&[input][..], true), "{id}");
        assert_eq!(job.head.id, id);
    }
}

#[test]
fn what_else_a_call_says_is_honoured_or_given_back() {
    let head = job(auto(sent!("eta_expires.txt"))).head;
    assert_eq!(head.not_before, Some("2100-01-01T12:00:00Z".parse().unwrap()));
    assert_eq!(head.deadline, Some("2100-01-02T00:00:00Z".parse().unwrap()));
    assert_eq!(job(auto(sent!("mixed.txt"))).head.priority, 5);
    let head = job(auto(sent!("kwargs.txt"))).head;
    let wanted = json!({
        "retries": 0, "root_id": head.id, "origin": "gen2710@vm", "replaced_task_nesting": 0, "customer": "42",
    });
    assert_eq!(Value::Object(head.metadata), wanted);
    let zoned = job(auto(sent!("eta_zone.txt"))).head;
    assert_eq!(zoned.not_before, Some("2026-11-23T07:01:52.765139Z".parse().unwrap()));
    assert_eq!(zoned.deadline, Some("2026-11-23T08:00:52.765139Z".parse().unwrap()));
    assert_eq!(job(auto(sent!("group.txt"))).head.metadata["group_index"], 0);
    // a naive time is UTC, as Python means it in Celery; an offset counts
    for (eta, wanted) in [
        ("2026-11-23T08:00:02.405331", "2026-11-23T08:00:02.405331Z"),
        ("2026-11-23T08:00:02+01:00", "2026-11-23T07:00:02Z"),
    ] {
        let head = job(auto(&changed(|wire| wire["headers"]["eta"] = eta.into()))).head;
        assert_eq!(head.not_before, Some(wanted.parse().unwrap()));
    }
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let head = job(auto(&changed(|wire| wire["headers"]["traceparent"] = parent.into()))).head;
    assert_eq!(head.trace.unwrap().parent_id, "00f067aa0ba902b7");
}

#[test]
fn a_call_that_is_sent_again_is_the_same_job() {
    let of = |change: fn(&mut Value)| job(auto(&changed(change))).head;
    let (first, retried) = (of(|_| ()), of(|wire| wire["headers"]["retries"] = 1.into()));
    assert_eq!((&first.id, &first.input_sha256), (&retried.id, &retried.input_sha256));
    // text and fields are not what a list of both would be
    let call = job(auto(sent!("mixed.txt"))).head.input_sha256;
    assert_ne!(call, job(auto(r#"{"inputs":["a lighthouse at night",{"steps":4}]}"#)).head.input_sha256);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let follow = "is not followed: no Celery task is called after a job; read its record or an announcement";
    let json_only = "and only JSON is taken: set task_serializer = \"json\", Celery's default";
    let table = [
        (sent!("pickle.txt"), format!("content-type: is pickle, which runs code when it is read, {json_only}")),
        (sent!("yaml.txt"), format!("content-type: is YAML, {json_only}")),
        (sent!("msgpack.txt"), format!("content-type: is MessagePack, {json_only}")),
        (
            sent!("gzip.txt"),
            "headers.compression: application/x-gzip is not taken: leave task_compression and compression out".into(),
        ),
        (
            sent!("limits.txt"),
            "headers.timelimit: no job is ended by a time limit here: leave time_limit and soft_time_limit out; expires \
             is honoured"
                .into(),
        ),
        (sent!("link.txt"), format!("embed.callbacks: link {follow}")),
        (sent!("chain.txt"), format!("embed.chain: a chain {follow}")),
        (sent!("chord.txt"), format!("embed.chord: a chord {follow}")),
        (
            sent!("three_args.txt"),
            "args: must be one text (the task's main field), one object or nothing, are 3: give fields as keyword arguments"
                .into(),
        ),
        (
            sent!("protocol_1.txt"),
            "headers.id: is missing: a Celery message must be of protocol 2 (task_protocol = 2, which is Celery's default)"
                .into(),
        ),
    ];
    for (body, wanted) in table {
        let rejected = refused(auto(body));
        assert_eq!((rejected.error.to_string(), rejected.head.form), (wanted, Form::Celery));
        assert_eq!(rejected.head.id_is_producers, rejected.error.field.as_deref() != Some("headers.id"));
    }
}

#[test]
fn each_malformed_call_names_its_field() {
    let list = "body: must be the JSON list [args, kwargs, embed]: ";
    let table: Vec<(String, String)> = vec![
        (changed(|w| w["headers"]["id"] = 7.into()), "headers.id: must be a text, is a number".into()),
        (
            changed(|w| w["headers"]["task"] = Value::Null),
            "headers.task: is missing: a Celery message must be of protocol 2 (task_protocol = 2, which is Celery's default)"
                .into(),
        ),
        (
            changed(|w| w["headers"]["expires"] = 3600.into()),
            "headers.expires: must be a text, is a number".into(),
        ),
        (
            changed(|w| w["properties"]["priority"] = "high".into()),
            "properties.priority: must be an integer, is a text".into(),
        ),
        (
            changed(|w| w["content-type"] = "text/plain".into()),
            "content-type: is text/plain, and only JSON is taken: set task_serializer = \"json\", Celery's default".into(),
        ),
        (changed(|w| w["body"] = "%".into()), format!("{list}it is not base64: Invalid symbol 37, offset 0.")),
        (changed(|w| w["body"] = json!([["x"], {}])), format!("{list}the list has 2 entries")),
        (changed(|w| w["body"] = json!({})), format!("{list}it is an object")),
        (
            changed(|w| w["body"] = json!([{}, [], 1])),
            format!("{list}args is an object, kwargs is a list, embed is a number"),
        ),
        (
            changed(|w| w["body"] = json!([[null], {}, null])),
            "args[0]: must be an object or a text, is null".into(),
        ),
        (
            changed(|w| w["body"] = json!([[{}], { "steps": 4 }, null])),
            "args[0]: an object must not stand beside kwargs: give all fields in one of them".into(),
        ),
    ];
    for (body, wanted) in table {
        assert_eq!(refused(auto(&body)).error.to_string(), wanted, "{body}");
    }
    let soon = refused(auto(&changed(|w| w["headers"]["eta"] = "soon".into()))).error.to_string();
    assert!(soon.starts_with("headers.eta: must be a time such as 2026-11-23T10:00:00+00:00: "), "{soon}");
}

#[test]
fn base64_of_something_else_is_text() {
    for json in [r#"{"prompt":"x"}"#, r#"{"body":1,"headers":1,"properties":1,"content-type":1}"#, "{ not json"] {
        let body = STANDARD.encode(json);
        assert_eq!(inputs(&job(auto(&body))), [text(&body)]);
    }
    let strict = forms(&json!({ "bodyFormat": "Json" })).unwrap();
    assert_eq!(job(strict.decode(&message(sent!("args.txt")))).head.form, Form::Celery);
}
