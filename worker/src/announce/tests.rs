//! Who is told, how often it is tried, and what a config must have.

use std::cell::Cell;

use serde_json::{Value, json};

use super::*;

/// A message with these attributes, at its first receive.
pub(super) fn message(id: &str, attributes: &[(&str, &str)]) -> Message {
    let sqs = aws_sdk_sqs::types::Message::builder().message_id(id).receipt_handle("handle").body("8").build();
    let mut message = Message::from_sqs(sqs, std::time::Instant::now()).unwrap();
    message.attributes = attributes.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    message
}

/// The record of job-7, COMPLETED, with these changes.
pub(super) fn record(changes: &Value) -> ResultRecord {
    let mut record = json!({
        "job_id": "job-7",
        "message_id": "m",
        "status": "COMPLETED",
        "consumer": "tests/echo",
        "attempt": 1,
        "worker": "w",
        "model": { "task": "Echo" },
        "input_sha256": "",
        "form": "text",
        "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
        "started_at": "2026-11-23T10:00:00.000Z",
        "finished_at": "2026-11-23T10:00:01.000Z",
    });
    let (object, changes) = (record.as_object_mut().unwrap(), changes.as_object().unwrap());
    object.extend(changes.iter().map(|(name, value)| (name.clone(), value.clone())));
    serde_json::from_value(record).unwrap()
}

fn config(output: &str, hosts: &str) -> WorkerConfig {
    let text = format!(
        "consumer: {{namespace: a, name: b}}\nqueue: {{url: 'http://h/0/q', region: r, allow: {{callbackHosts: [{hosts}]}}}}\nmodel: {{task: Echo}}\noutput: {{bucket: b{output}}}"
    );
    serde_yaml::from_str(&text).unwrap()
}

fn announcer(output: &str, hosts: &str, secret: Option<&str>) -> Result<Announcer, SetupError> {
    let sqs = aws_sdk_sqs::Config::builder().behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest());
    let config = config(output, hosts);
    let (metrics, state) = (Arc::new(Metrics::new(&config)), Arc::new(State::new("w".into(), 1)));
    Announcer::new(aws_sdk_sqs::Client::from_conf(sqs.build()), &config, secret.map(str::to_owned), metrics, state)
}

const REPLY: &str = ", reply: {queueUrl: 'http://h/0/own'}";
const CALLBACK: &str = ", callback: {secretRef: {name: s, key: k}}";

#[test]
fn whoever_is_named_is_told() {
    let nobody = Announce::default();
    let queue = Announce { reply_to: Some("http://h/0/theirs".into()), ..Announce::default() };
    let url = Announce { callback_url: Some("http://hooks.test/".into()), ..Announce::default() };
    for (output, announce, wanted, told) in [
        ("", &nobody, false, None),
        ("", &queue, true, Some("http://h/0/theirs")),
        ("", &url, true, None),
        (REPLY, &nobody, true, Some("http://h/0/own")),
        (REPLY, &queue, true, Some("http://h/0/theirs")),
    ] {
        let announcer = announcer(output, "", None).unwrap();
        assert_eq!(announcer.wanted(announce), wanted, "{output} {announce:?}");
        assert_eq!(announcer.replies.queue(announce.reply_to.as_deref()), told, "{output} {announce:?}");
    }
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let error = |output, hosts, secret| announcer(output, hosts, secret).unwrap_err().to_string();
    let said = error("", "'fine.test', 'http://a.test'", None);
    assert!(said.starts_with("queue.allow.callbackHosts[1]: \"http://a.test\" is not a host"), "{said}");
    for secret in [None, Some("")] {
        assert!(error(CALLBACK, "'a.test'", secret).contains(CallbackSpec::VARIABLE));
    }
    assert!(announcer(CALLBACK, "'a.test'", Some("x")).is_ok());
    assert!(announcer("", "'a.test'", None).is_ok());
}

#[tokio::test]
async fn nobody_may_be_called_where_no_host_is_allowed() {
    let announcer = announcer("", "", None).unwrap();
    let announce = Announce { callback_url: Some("http://hooks.test/".into()), ..Announce::default() };
    let give_up = CancellationToken::new();
    let told = announcer.result(&message("m", &[]), &announce, &record(&json!({})), "s3://b/k", &give_up).await;
    assert!(matches!(told, Err(AnnounceError::Refused(why)) if why.contains("hooks.test is not allowed")));
    assert_eq!(announcer.state.problems()[0].reason, "CallbackNotAllowed");
}

fn failure(passes: bool) -> Failure {
    Failure { reason: "CallbackRefused", message: "no".into(), passes, wait: None }
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_and_what_does_not_is_refused_at_once() {
    let announcer = announcer("", "", None).unwrap();
    for (answers, told, tries) in [
        (vec![Ok(())], true, 1),
        (vec![Err(failure(true)), Err(failure(true)), Ok(())], true, 3),
        (vec![Err(failure(false)), Ok(())], false, 1),
        (vec![Err(failure(true)), Err(failure(false)), Ok(())], false, 2),
        (vec![Err(failure(true)); 20], false, TRIES as usize),
    ] {
        let tried = Cell::new(0);
        let attempt = || {
            let answer = answers[tried.get()].clone();
            tried.set(tried.get() + 1);
            async { answer }
        };
        let result = announcer.persist(Channel::Callback, &CancellationToken::new(), attempt).await;
        assert_eq!((result.is_ok(), tried.get()), (told, tries), "{answers:?}");
        assert_eq!(announcer.state.problems().is_empty(), told, "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_the_tries() {
    let announcer = announcer("", "", None).unwrap();
    let give_up = CancellationToken::new();
    let attempt = async || {
        give_up.cancel();
        Err(failure(true))
    };
    let result = announcer.persist(Channel::Reply, &give_up, attempt).await;
    assert_eq!(result, Err(AnnounceError::GivenUp));
    assert!(announcer.state.problems().is_empty());
}
