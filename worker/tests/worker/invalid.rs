//! A message that can never run is recorded, leaves the queue at once, and holds up nobody.

use aws_sdk_sqs::types::Message;
use millrace_api::{JobStatus, ResultRecord};
use serde_json::json;

use crate::lab::{self, Lab, attribute};
use crate::program;

/// A body, the field at fault, and what the error says.
const MALFORMED: &[(&str, Option<&str>, &str)] = &[
    (r#"{"prompt": "a cat""#, None, "not JSON"),
    ("  \n", None, "blank"),
    (r#"{"job_id":7,"prompt":"x"}"#, Some("job_id"), "must be a text, is a number"),
    (r#"{"inputs":[]}"#, Some("inputs"), "1 to 256 entries"),
    (r#"{"job_id":"j","input":3}"#, Some("input"), "must be an object or a text"),
    (r#"{"prompt":"x","deadline":"soon"}"#, Some("deadline"), "must be a time such as"),
    (r#"{"prompt":"x","milliseconds":"soon"}"#, Some("milliseconds"), "must be an integer from 0 to 3600000"),
    (r#"{"inputs":["a",{"milliseconds":-1}]}"#, Some("inputs[1].milliseconds"), "must be an integer"),
    (
        r#"{"prompt":"x","reply_to":"http://q"}"#,
        Some("reply_to"),
        "is not allowed: it is not in queue.allow.replyQueues",
    ),
];

#[tokio::test]
async fn each_malformed_message_is_recorded_and_goes_to_the_dead_letter_queue() {
    lab::with("malformed", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        for (body, field, says) in MALFORMED {
            let message_id = lab.send_with(body, "team", "blue").await;
            let letter = lab.take(&lab.dead_letters()).await;
            let job_id = attribute(&letter, "millrace-job-id").unwrap();
            let record = lab.record(job_id).await;
            assert_eq!(record.message_id, message_id, "{body}");
            is_refused(&record, body, *field, says);
            is_explained(&letter, body, &record);
            assert_eq!(lab.record(&lab.send("good").await).await.status, JobStatus::Completed);
        }
        lab.drained().await;
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
        let state = worker.until_state("nothing held", |state| state.busy == 0).await;
        let count = MALFORMED.len() as u64;
        assert_eq!((state.failed, state.completed, state.problems), (count, count, vec![]));
    })
    .await;
}

#[tokio::test]
async fn with_invalid_input_delete_the_record_is_all_that_stays() {
    lab::with("delete", async |lab| {
        let settings = json!({ "queue": { "invalidInput": "Delete" } });
        let _worker = program::start(lab, "a", settings);
        record_without_letter(lab).await;
        assert_eq!(lab.count(&lab.dead_letters()).await, 0);
    })
    .await;
}

#[tokio::test]
async fn without_a_dead_letter_queue_the_record_is_all_that_stays() {
    lab::bare("no-dlq", async |lab| {
        lab.create_plain_queue().await;
        lab.create_bucket().await;
        let _worker = program::start(lab, "a", json!({}));
        record_without_letter(lab).await;
    })
    .await;
}

async fn record_without_letter(lab: &Lab) {
    let (body, field, says) = MALFORMED[0];
    let message_id = lab.send(body).await;
    is_refused(&lab.record(&message_id).await, body, field, says);
    lab.drained().await;
}

fn is_refused(record: &ResultRecord, body: &str, field: Option<&str>, says: &str) {
    assert_eq!(record.status, JobStatus::Failed, "{body}");
    assert_eq!(record.body.as_deref(), Some(body));
    assert_eq!((record.value.as_ref(), record.outputs.len()), (None, 0), "{body}");
    let error = record.error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("InvalidInput", field), "{body}");
    assert!(error.message.contains(says), "{body}: {:?} does not say {says:?}", error.message);
}

/// The letter says what the record says, and is the message that was sent.
fn is_explained(letter: &Message, body: &str, record: &ResultRecord) {
    assert_eq!(letter.body(), Some(body));
    assert_eq!(attribute(letter, "team"), Some("blue"), "{body}");
    let error = record.error.as_ref().unwrap();
    assert_eq!(attribute(letter, "millrace-error-code"), Some(error.code.as_str()), "{body}");
    assert_eq!(attribute(letter, "millrace-error-message"), Some(error.message.as_str()), "{body}");
    assert_eq!(attribute(letter, "millrace-error-field"), error.field.as_deref(), "{body}");
}
