//! Text, objects, envelopes, task envelopes, and what is said about the job.

use super::*;

#[test]
fn each_form_is_told_by_its_keys() {
    let table: Vec<(&str, Form, &str, Vec<Input>)> = vec![
        ("a cat", Form::Text, "m-1", vec![text("a cat")]),
        ("8", Form::Text, "m-1", vec![text("8")]),
        ("{cat} on a mat", Form::Text, "m-1", vec![text("{cat} on a mat")]),
        ("eyes of a cat", Form::Text, "m-1", vec![text("eyes of a cat")]),
        (r#"["a","b"]"#, Form::Text, "m-1", vec![text(r#"["a","b"]"#)]),
        (r#"{"prompt":"a cat"}"#, Form::Object, "m-1", vec![object(json!({"prompt": "a cat"}))]),
        (r#"{"prompt":"a cat","job_id":"j 1"}"#, Form::Object, "j%201", vec![object(json!({"prompt": "a cat"}))]),
        (r#"{"job_id":"j","input":"a cat"}"#, Form::Envelope, "j", vec![text("a cat")]),
        (r#"{"job_id":"j","payload":{"prompt":"x"}}"#, Form::Envelope, "j", vec![object(json!({"prompt": "x"}))]),
        (r#"{"inputs":["a",{"prompt":"b"}]}"#, Form::Envelope, "m-1", vec![text("a"), object(json!({"prompt": "b"}))]),
        (
            include_str!("../../../tests/bodies/fan_out_task.json"),
            Form::TaskEnvelope,
            "user-17-portrait-2026-11-23T10:00:00.123456",
            vec![object(json!({"prompt": "a portrait", "steps": 4}))],
        ),
    ];
    for (body, form, id, wanted) in table {
        let job = job(auto(body));
        assert_eq!((job.head.form, job.head.id.as_str()), (form, id), "{body}");
        assert_eq!(inputs(&job), wanted, "{body}");
    }
}

#[test]
fn each_malformed_form_names_its_field() {
    let long = format!(r#"{{"prompt":"x","job_id":"{}"}}"#, "j".repeat(257));
    let table = [
        (r#"{"prompt": "a cat""#, "the body is not JSON: EOF while parsing an object at line 1 column 18"),
        ("  ", "the body is blank: send a text or a JSON object"),
        (r#"{"inputs":[]}"#, "inputs: must have 1 to 256 entries, has 0"),
        (r#"{"inputs":"x"}"#, "inputs: must be a list, is a text"),
        (r#"{"inputs":[1]}"#, "inputs[0]: must be an object or a text, is a number"),
        (r#"{"inputs":["x"],"input":"y"}"#, "input: must not stand beside inputs: give one of them"),
        (r#"{"job_id":"j","input":null}"#, "input: must be an object or a text, is null"),
        (r#"{"job_id":7,"prompt":"x"}"#, "job_id: must be a text, is a number"),
        (r#"{"job_id":"","prompt":"x"}"#, "job_id: must have 1 to 256 characters once encoded, has 0"),
        (long.as_str(), "job_id: must have 1 to 256 characters once encoded, has 257"),
        (
            r#"{"prompt":"x","deadline":"tomorrow"}"#,
            "deadline: must be a time such as 2026-11-23T10:00:00Z: failed to parse four digit integer as year: invalid digit, expected 0-9 but got t",
        ),
        (r#"{"prompt":"x","deadline":7}"#, "deadline: must be a text, is a number"),
        (r#"{"prompt":"x","metadata":[]}"#, "metadata: must be an object, is a list"),
        (r#"{"prompt":"x","priority":"high"}"#, "priority: must be an integer, is a text"),
        (r#"{"prompt":"x","priority":1.5}"#, "priority: must be an integer, is 1.5"),
        (r#"{"prompt":"x","reply_to":7}"#, "reply_to: must be a text, is a number"),
        (
            r#"{"prompt":"x","reply_to":"http://h/0/theirs"}"#,
            "reply_to: http://h/0/theirs is not allowed: it is not in queue.allow.replyQueues",
        ),
        (
            r#"{"prompt":"x","callback_url":"https://theirs.example/"}"#,
            "callback_url: host theirs.example is not allowed; the consumer's queue.allow.callbackHosts must list it",
        ),
        (r#"{"prompt":"x","output":"thumbs"}"#, "output: must be an object, is a text"),
        (
            r#"{"prompt":"x","output":{"bucket":"theirs"}}"#,
            "output.bucket: theirs is not allowed: it is not in queue.allow.outputBuckets",
        ),
        (
            r#"{"entity_id":"e","task_name":"t","task_config":{}}"#,
            "timestamp: is missing; a task envelope needs it for the job's id",
        ),
        (
            r#"{"entity_id":[],"task_name":"t","task_config":{},"timestamp":1}"#,
            "entity_id: must be a text or a number, is a list",
        ),
        (
            r#"{"entity_id":"e","task_name":"t","task_config":3,"timestamp":1}"#,
            "task_config: must be an object or a text, is a number",
        ),
    ];
    for (body, wanted) in table {
        let rejected = refused(auto(body));
        assert_eq!((rejected.error.to_string().as_str(), rejected.code), (wanted, "InvalidInput"), "{body}");
    }
}

#[test]
fn body_format_overrules_the_guess() {
    let of = |format: &str, body: &str| forms(&json!({ "bodyFormat": format })).unwrap().decode(&message(body));
    for body in [r#"{"prompt":"x"}"#, include_str!("../../../tests/bodies/celery_args.txt")] {
        assert_eq!(inputs(&job(of("Text", body))), [text(body)]);
    }
    for (body, wanted) in [
        ("a cat", "the body is not JSON: expected value at line 1 column 1"),
        ("8", "the body is a number, and queue.bodyFormat Json takes only a JSON object such as {\"prompt\":\"…\"}"),
        (" ", "the body is blank: send a text or a JSON object"),
    ] {
        assert_eq!(refused(of("Json", body)).error.to_string(), wanted, "{body}");
    }
}

#[test]
fn what_is_said_about_a_job_is_taken_from_every_form_of_ones_own() {
    let forms = forms(&json!({
        "allow": { "replyQueues": ["http://h/0/theirs"], "callbackHosts": ["*.example.com"], "outputBuckets": ["thumbs"] },
    }))
    .unwrap();
    let about = json!({
        "metadata": { "user": 7 }, "deadline": "2026-11-23T10:00:00+01:00", "priority": 9,
        "reply_to": "http://h/0/theirs", "callback_url": "https://hooks.example.com/done?x=1",
        "output": { "bucket": "thumbs", "prefix": "a/", "key": "b.png" },
    });
    for input in [
        json!({ "prompt": "x" }),
        json!({ "job_id": "j", "input": "x" }),
        json!({ "entity_id": "e", "task_name": "t", "task_config": "x", "timestamp": 1 }),
    ] {
        let mut body = input.clone();
        body.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
        let head = job(forms.decode(&message(&body.to_string()))).head;
        assert_eq!(head.metadata["user"], 7, "{body}");
        assert_eq!(head.deadline, Some("2026-11-23T09:00:00Z".parse().unwrap()));
        assert_eq!(head.priority, 9);
        assert_eq!(head.announce.reply_to.as_deref(), Some("http://h/0/theirs"));
        assert_eq!(head.announce.callback_url.as_deref(), Some("https://hooks.example.com/done?x=1"));
        let (bucket, prefix, key) = (Some("thumbs".into()), Some("a/".into()), Some("b.png".into()));
        assert_eq!(head.placement, Placement { bucket, prefix, key });
        let bare = job(forms.decode(&message(&input.to_string()))).head;
        assert_eq!(head.input_sha256, bare.input_sha256, "what is said about a job does not make it another");
    }
}

#[test]
fn null_says_nothing() {
    let body = r#"{"prompt":"x","job_id":null,"metadata":null,"deadline":null,"priority":null,"reply_to":null,"callback_url":null,"output":null}"#;
    let job = job(auto(body));
    assert_eq!(
        (job.head.id.as_str(), job.head.id_is_producers, inputs(&job)),
        ("m-1", false, &[object(json!({"prompt": "x"}))][..])
    );
}

#[test]
fn what_is_known_of_a_bad_job_is_kept_for_its_record() {
    let rejected = refused(auto(r#"{"job_id":"j","input":3,"metadata":{"user":7}}"#));
    assert_eq!((rejected.head.id.as_str(), rejected.head.form), ("j", Form::Envelope));
    assert_eq!(rejected.head.metadata["user"], 7);
}

#[test]
fn a_job_that_was_sent_again_goes_by_its_first_message_unless_it_has_a_name() {
    let head = |body: &str, more: &[(&str, &str)]| {
        let all = [&[(FIRST_MESSAGE_ATTRIBUTE, "m-0")], more].concat();
        job(open().decode(&with_attributes(body, &all))).head
    };
    let first = head("a cat", &[]);
    assert_eq!((first.id.as_str(), first.raw_id.as_str(), first.id_is_producers), ("m-0", "m-0", false));
    assert_eq!(head(r#"{"prompt":"x","job_id":"mine"}"#, &[]).id, "mine");
    assert_eq!(head("a cat", &[(JOB_ID_ATTRIBUTE, "named")]).id, "named");
    let task = include_str!("../../../tests/bodies/fan_out_task.json");
    assert_eq!(head(task, &[]).id, job(open().decode(&message(task))).head.id, "a task has a name of its own");
    let topic = include_str!("../../../tests/bodies/sns_text.json");
    assert_eq!(head(topic, &[]).id, "order-7");
    assert_eq!(head("a cat", &[(FIRST_MESSAGE_ATTRIBUTE, "")]).id, "m-1");
}

#[test]
fn the_attribute_names_the_job_and_the_body_overrules_it() {
    let id = |body: &str| {
        let head = job(open().decode(&with_attributes(body, &[(JOB_ID_ATTRIBUTE, "from attribute")]))).head;
        assert!(head.id_is_producers);
        (head.id, head.raw_id)
    };
    assert_eq!(id("a cat"), ("from%20attribute".into(), "from attribute".into()));
    assert_eq!(id(r#"{"prompt":"x","job_id":"mine"}"#).0, "mine");
    assert_eq!(id(include_str!("../../../tests/bodies/fan_out_task.json")).0, "from%20attribute");
    let bad = refused(open().decode(&with_attributes("a cat", &[(JOB_ID_ATTRIBUTE, &"é".repeat(43))])));
    let wanted = "millrace-job-id: must have 1 to 256 characters once encoded, has 258";
    assert_eq!((bad.error.to_string().as_str(), bad.head.id.as_str()), (wanted, "m-1"));
}

#[test]
fn a_repeat_is_the_same_job_whatever_is_said_about_it() {
    let hash = |body: &str| job(auto(body)).head.input_sha256;
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
fn a_task_envelope_is_seen_whole_and_names_its_route() {
    let body = include_str!("../../../tests/bodies/fan_out_task.json");
    let task = job(auto(body));
    let about = task.about();
    assert_eq!((about.route, about.seed), (Some("portrait"), seed_of(&task.head.id)));
    assert_eq!(about.envelope.map(|whole| Value::Object(whole.clone())), serde_json::from_str(body).ok());
    let plain = job(auto(r#"{"job_id":"j","input":"x"}"#));
    assert_eq!((plain.about().route, plain.about().envelope), (None, None));
}

#[test]
fn envelope_extras_are_given_back() {
    let body = r#"{"job_id":"j","input":"x","metadata":{"a":1},"shard":"t","a":2}"#;
    assert_eq!(Value::Object(job(auto(body)).head.metadata), json!({"a": 1, "shard": "t"}));
    let body = include_str!("../../../tests/bodies/fan_out_task.json");
    let wanted = json!({
        "source": "signup", "entity_id": "user-17", "task_name": "portrait", "timestamp": "2026-11-23T10:00:00.123456",
        "retry_count": 0, "total_tasks": 3,
    });
    assert_eq!(Value::Object(job(auto(body)).head.metadata), wanted);
}

#[test]
fn an_error_of_a_listed_input_says_which() {
    let error = InvalidInput::field("steps", "is wrong");
    assert_eq!(job(auto(r#"{"inputs":["a","b"]}"#)).at(1, error.clone()).field.as_deref(), Some("inputs[1].steps"));
    assert_eq!(job(auto("a")).at(0, error).field.as_deref(), Some("steps"));
}

#[test]
fn a_message_belongs_to_its_senders_trace() {
    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{ID}-00f067aa0ba902b7-01");
    let both = Message {
        trace_header: Some("Root=1-5759e988-bd862e3fe1be46a994272793".into()),
        ..with_attributes("a cat", &[("traceparent", &parent)])
    };
    let trace = |message: &Message| job(open().decode(message)).head.trace.map(|trace| trace.trace_id);
    assert_eq!(trace(&both).as_deref(), Some(ID));
    let broken = Message { attributes: BTreeMap::from([("traceparent".into(), "00-x".into())]), ..both };
    assert_eq!(trace(&broken).as_deref(), Some("5759e988bd862e3fe1be46a994272793"));
    assert_eq!(trace(&message("a cat")), None);
    assert!(refused(open().decode(&Message { body: " ".into(), ..broken })).head.trace.is_some());
}
