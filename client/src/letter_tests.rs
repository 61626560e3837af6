//! What is sent, held against the worker's own reader of messages.

use std::time::Instant;

use millrace_api::WorkerConfig;
use millrace_worker::config;
use millrace_worker::job::{Decoded, Job as Read};
use millrace_worker::message::Message;
use proptest::prelude::*;

use super::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn config(queue: &str) -> config::Config {
    let text = format!(
        "consumer: {{namespace: a, name: b}}\nqueue: {queue}\nmodel: {{task: Echo}}\noutput: {{bucket: results}}"
    );
    config::parse(&text, std::path::Path::new("worker.yaml")).unwrap()
}

fn standard() -> config::Config {
    config(
        "{url: 'https://sqs.us-east-1.amazonaws.com/1/q', allow: {inputBuckets: [uploads], replyQueues: ['http://r/1/q'], callbackHosts: [hooks.example.com]}}",
    )
}

fn letter(job: &Job, config: &WorkerConfig) -> Result<Letter, InvalidJob> {
    Letter::new(job, &Consumer::from(config))
}

/// The letter as a worker receives it.
fn received(letter: &Letter) -> Message {
    let attributes = letter.attributes.iter().map(|a| (a.name.to_owned(), a.value.clone())).collect();
    Message {
        id: "m".into(),
        receipt_handle: "h".into(),
        body: letter.body.clone(),
        receive_count: 1,
        sent_at: Timestamp::UNIX_EPOCH,
        received_at: Timestamp::UNIX_EPOCH,
        polled: Instant::now(),
        poll_took: Duration::ZERO,
        attributes,
        group: letter.group.clone(),
        trace_header: None,
    }
}

fn read(decoded: Decoded) -> Read {
    match decoded {
        Decoded::Jobs(mut jobs) if jobs.len() == 1 => jobs.remove(0),
        other => panic!("{other:?}"),
    }
}

use jiff::Timestamp;

#[test]
fn a_worker_reads_all_that_was_said() {
    let config = standard();
    let line = json!({
        "job_id": "order 7", "input": { "prompt": "x" }, "priority": 5, "deadline": "2030-01-01T00:00:00Z",
        "reply_to": "http://r/1/q", "callback_url": "https://hooks.example.com/done",
        "output": { "key": "mine" }, "metadata": { "customer": "42" },
    });
    let job = Job { traceparent: Some(TRACE.into()), ..Job::from_value(line).unwrap() };
    let letter = letter(&job, &config.worker).unwrap();
    let head = read(config.forms.decode(&received(&letter))).head;
    assert_eq!((head.id.as_str(), &head.input_sha256), ("order%207", &job.input_sha256()));
    assert_eq!((&letter.job_id, &letter.input_sha256), (&head.id, &head.input_sha256));
    assert_eq!((head.priority, head.deadline), (5, job.deadline));
    assert_eq!(head.announce.reply_to, job.reply_to);
    assert_eq!(head.announce.callback_url, job.callback_url);
    assert_eq!((head.placement.key.as_deref(), head.metadata), (Some("mine"), job.metadata));
    assert_eq!(head.trace.unwrap().trace_id, TRACE[3..35]);
    assert_eq!((letter.group, letter.deduplication), (None, None));
}

#[test]
fn a_consumer_of_texts_gets_a_text_and_the_id_as_attribute() {
    let config = config("{url: 'https://sqs.us-east-1.amazonaws.com/1/q', bodyFormat: Text}");
    let job = Job { id: Some("j".into()), ..Job::text("{\"a\": lighthouse") };
    let letter = letter(&job, &config.worker).unwrap();
    assert_eq!(letter.body, "{\"a\": lighthouse");
    let head = read(config.forms.decode(&received(&letter))).head;
    assert_eq!((head.id.as_str(), head.input_sha256), ("j", job.input_sha256()));
    let wrong = Job { priority: 1, ..job.clone() };
    assert_eq!(super::Letter::new(&wrong, &Consumer::from(&config.worker)).unwrap_err().field, "priority");
    let wrong = Job::new(json!({ "prompt": "x" }));
    assert_eq!(super::Letter::new(&wrong, &Consumer::from(&config.worker)).unwrap_err().field, "input");
}

#[test]
fn a_body_in_s3_is_found_where_the_pointer_says() {
    let config = standard();
    let job = Job::new(json!({ "prompt": "x" }));
    let letter = letter(&job, &config.worker).unwrap();
    let (body, key) = (letter.body.clone(), letter.body_key());
    let pointing = letter.pointing_to("uploads");
    let message = received(&pointing);
    let Decoded::Elsewhere(object) = config.forms.decode(&message) else { panic!("no pointer") };
    assert_eq!((object.bucket.as_str(), object.key, object.size), ("uploads", key, Some(body.len() as u64)));
    let head = read(config.forms.decode_body(&message, &body)).head;
    assert_eq!((head.id, head.input_sha256), (job.id(), job.input_sha256()));
}

#[test]
fn on_a_fifo_queue_a_repeat_is_the_same_message() {
    let config = config("{url: 'https://sqs.us-east-1.amazonaws.com/1/q.fifo'}");
    let job = Job::text("x");
    let one = letter(&job, &config.worker).unwrap();
    assert_eq!(one.group.as_deref(), Some(job.id().as_str()));
    assert_eq!(one, letter(&job, &config.worker).unwrap());
    let other = letter(&Job { priority: 1, ..job.clone() }, &config.worker).unwrap();
    assert_ne!(one.deduplication, other.deduplication);
    let grouped = letter(&Job { group: Some("g".into()), ..job }, &config.worker).unwrap();
    assert_eq!(grouped.group(), Some("g"));
}

#[test]
fn another_job_or_attempt_is_not_a_repeat() {
    for format in ["Text", "Auto"] {
        let queue = format!("{{url: 'https://sqs.us-east-1.amazonaws.com/1/q.fifo', bodyFormat: {format}}}");
        let config = config(&queue);
        let id = |id: &str, attempt: Option<&str>| {
            let job = Job { id: Some(id.into()), attempt: attempt.map(Into::into), ..Job::text("the same text") };
            letter(&job, &config.worker).unwrap().deduplication.unwrap()
        };
        assert_ne!(id("x", None), id("x-2", None), "{format}");
        assert_ne!(id("x", None), id("x", Some("m1")), "{format}");
        assert_eq!(id("x", Some("m1")), id("x", Some("m1")), "{format}");
    }
}

#[test]
fn a_job_id_that_is_too_long_for_a_group_has_one_all_the_same() {
    let config = config("{url: 'https://sqs.us-east-1.amazonaws.com/1/q.fifo'}");
    let groups = ["a", "b"].map(|end| {
        let job = Job { id: Some("x".repeat(200) + end), ..Job::text("x") };
        letter(&job, &config.worker).unwrap().group.unwrap()
    });
    assert!(groups.iter().all(|group| group.len() <= 128) && groups[0] != groups[1], "{groups:?}");
}

#[test]
fn what_a_worker_or_sqs_would_refuse_is_named() {
    let minute = Duration::from_mins(1);
    let url = "url: 'https://sqs.us-east-1.amazonaws.com/1/q";
    let (plain, fifo) = (format!("{{{url}'}}"), format!("{{{url}.fifo'}}"));
    let mapped = format!("{{{url}', mapping: {{input: /payload}}}}");
    let x = || Job::text("x");
    let table = [
        (&plain, Job::text(" \n"), "input"),
        (&plain, Job::new(7), "input"),
        (&plain, Job::of(Input::Many(vec![])), "inputs"),
        (&plain, Job::of(Input::Many(vec!["a".into(), 7.into()])), "inputs[1]"),
        (&plain, Job { id: Some("é".repeat(43)), ..x() }, "job_id"),
        (&plain, Job { id: Some(String::new()), ..x() }, "job_id"),
        (&plain, Job { delay: 16 * minute, ..x() }, "delay"),
        (&fifo, Job { delay: minute, ..x() }, "delay"),
        (&plain, Job { traceparent: Some("00-a-b-01".into()), ..x() }, "traceparent"),
        (&fifo, Job { group: Some("my group".into()), ..x() }, "group"),
        (&plain, Job { group: Some("x".repeat(129)), ..x() }, "group"),
        (&plain, Job::text("x".repeat(MAX_OBJECT)), "job"),
        (&mapped, x(), "queue.mapping.input"),
    ];
    for (queue, job, field) in table {
        assert_eq!(letter(&job, &config(queue).worker).unwrap_err().field, field);
    }
}

proptest! {
    #[test]
    fn id_and_hash_are_the_workers(id in "\\PC{1,20}", text in "\\PC*[a-z]\\PC*", number: f64, listed: bool) {
        let config = standard();
        let fields = json!({ "z": text, "a": { "number": number, "list": [text, null] } });
        let input = if listed { Input::Many(vec![text.clone().into(), fields]) } else { Input::One(fields) };
        let job = Job { id: Some(id), ..Job::of(input) };
        let letter = letter(&job, &config.worker).unwrap();
        let head = read(config.forms.decode(&received(&letter))).head;
        prop_assert_eq!((head.id, head.input_sha256), (letter.job_id, letter.input_sha256));
    }
}
