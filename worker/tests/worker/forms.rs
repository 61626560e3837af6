//! Messages of other systems, as they are: each becomes the record of its job, or is refused by name.

use aws_sdk_s3::types::{
    Event, FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter, QueueConfiguration,
    S3KeyFilter,
};
use aws_sdk_sqs::types::MessageAttributeValue;
use millrace_api::{JobStatus, ResultRecord};
use serde_json::{Value, json};

use crate::lab::{self, Lab, PREFIX, attribute, record_key};
use crate::program::{self, Worker};

const PROMPT: &str = "a lighthouse at night";

macro_rules! body {
    ($name:literal) => {
        include_str!(concat!("../bodies/", $name))
    };
}

/// A worker that may read its own bucket.
fn start(lab: &Lab) -> Worker {
    program::start(lab, "a", json!({ "queue": { "allow": { "inputBuckets": [lab.name] } } }))
}

async fn send(lab: &Lab, body: &str, attributes: &[(&str, &str)]) -> String {
    let mut send = lab.sqs.send_message().queue_url(lab.queue()).message_body(body);
    for (name, value) in attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(*value).build().unwrap();
        send = send.message_attributes(*name, value);
    }
    send.send().await.unwrap().message_id.unwrap()
}

/// Has S3 tell the queue of every object that is put under `prefix`. It sends a test event first.
async fn notify(lab: &Lab, prefix: &str) {
    let rule = FilterRule::builder().name(FilterRuleName::Prefix).value(prefix).build();
    let key = S3KeyFilter::builder().filter_rules(rule).build();
    let queue = QueueConfiguration::builder()
        .queue_arn(format!("arn:aws:sqs:us-east-1:000000000000:{}", lab.name))
        .events(Event::from("s3:ObjectCreated:*"))
        .filter(NotificationConfigurationFilter::builder().key(key).build())
        .build()
        .unwrap();
    let notification = NotificationConfiguration::builder().queue_configurations(queue).build();
    let put = lab.s3.put_bucket_notification_configuration().bucket(&lab.name);
    put.notification_configuration(notification).send().await.unwrap();
}

/// The id of an object's job: bucket, key and ETag.
async fn job_id(lab: &Lab, key: &str) -> String {
    let etag = lab.object(key).await.etag;
    format!("{}:{}:{}", lab.name, key.replace('/', "%2F").replace(' ', "%20"), etag.trim_matches('"'))
}

fn is_done(record: &ResultRecord, form: &str, value: &Value) {
    assert_eq!((record.status, record.error.as_ref()), (JobStatus::Completed, None));
    assert_eq!((record.form.as_str(), record.value.as_ref()), (form, Some(value)));
}

#[tokio::test]
async fn a_job_services_message_is_read_by_its_mapping() {
    lab::with("mapped", async |lab| {
        let mapping = json!({
            "jobId": "attribute:job_id", "input": "/payload/prompt_spec/description", "route": "/payload/asset_type",
            "priority": "/payload/priority",
        });
        let _worker = program::start(lab, "a", json!({ "queue": { "mapping": mapping } }));
        send(lab, body!("job_service.json"), &[("job_id", "asset-7"), ("world_id", "w-42")]).await;
        let record = lab.record("asset-7").await;
        is_done(&record, "mapped", &json!("a mossy stone wall"));
        assert_eq!(record.route.as_deref(), Some("texture"));
        assert_eq!(record.metadata["payload"]["requested_by"], "ana");
        assert_eq!(record.attributes["world_id"], "w-42");

        let message_id = send(lab, r#"{"payload":{}}"#, &[]).await;
        let error = lab.record(&message_id).await.error.unwrap();
        assert_eq!(error.field.as_deref(), Some("/payload/prompt_spec/description"));
        assert!(error.message.contains("/payload is empty"), "{}", error.message);
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn celerys_calls_are_jobs_and_what_cannot_be_done_is_refused() {
    lab::with("celery", async |lab| {
        let _worker = start(lab);
        send(lab, body!("celery_args.txt"), &[]).await;
        let record = lab.record("ddeb12a1-9373-42f4-9d3d-c77fc3094ec1").await;
        is_done(&record, "celery", &json!(PROMPT));
        assert_eq!((record.route.as_deref(), &record.metadata["retries"]), (Some("images.draw"), &json!(0)));
        send(lab, body!("celery_mixed.txt"), &[]).await;
        is_done(&lab.record("order-7").await, "celery", &json!([PROMPT, { "steps": 4 }]));
        send(lab, body!("celery_unencoded.json"), &[]).await;
        is_done(&lab.record("35175f18-4aea-460e-8b14-e66ff85234ab").await, "celery", &json!(PROMPT));

        send(lab, body!("celery_pickle.txt"), &[]).await;
        let record = lab.record("940d0e88-74a0-4f49-8315-9af58f1a1c6c").await;
        assert_eq!(record.error.unwrap().field.as_deref(), Some("content-type"));
        let letter = lab.take(&lab.dead_letters()).await;
        assert_eq!(letter.body(), Some(body!("celery_pickle.txt")));
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn an_object_that_s3_tells_of_is_a_job() {
    lab::with("s3-event", async |lab| {
        notify(lab, "in/").await;
        let mut worker = start(lab);
        lab.put("in/a lighthouse.txt", PROMPT.as_bytes(), &[]).await;
        let record = lab.record(&job_id(lab, "in/a lighthouse.txt").await).await;
        is_done(&record, "s3_event", &json!(PROMPT));
        assert_eq!(record.metadata["key"], "in/a lighthouse.txt");
        lab.put("in/b.json", br#"{"prompt":"x","milliseconds":1}"#, &[]).await;
        let record = lab.record(&job_id(lab, "in/b.json").await).await;
        is_done(&record, "s3_event", &json!({ "prompt": "x", "milliseconds": 1 }));
        // the test event is gone too, and left nothing
        lab.drained().await;
        let state = worker.until_state("nothing held", |state| state.busy == 0).await;
        assert_eq!((state.completed, state.failed), (2, 0));
        assert_eq!(lab.keys().await.iter().filter(|key| key.starts_with(PREFIX)).count(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_event_of_two_objects_is_done_when_both_are() {
    lab::with("two-objects", async |lab| {
        lab.put("in/1", b"one", &[]).await;
        lab.put("in/2", b"two", &[]).await;
        let _worker = start(lab);
        let record = |key: &str, etag: &str| {
            let object = json!({ "key": key, "eTag": etag, "size": 3 });
            let s3 = json!({ "bucket": { "name": lab.name }, "object": object });
            json!({ "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3 })
        };
        let (one, two) = (lab.object("in/1").await.etag, lab.object("in/2").await.etag);
        let records = [record("in/1", one.trim_matches('"')), record("in/2", two.trim_matches('"'))];
        let published = json!({ "Records": records }).to_string();
        send(lab, &json!({ "Type": "Notification", "TopicArn": "arn", "Message": published }).to_string(), &[]).await;
        is_done(&lab.record(&job_id(lab, "in/1").await).await, "s3_event", &json!("one"));
        is_done(&lab.record(&job_id(lab, "in/2").await).await, "s3_event", &json!("two"));
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn an_event_of_the_consumers_own_output_is_refused_once() {
    lab::with("output-loop", async |lab| {
        let mut worker = start(lab);
        worker.until_ready().await;
        notify(lab, PREFIX).await;
        lab.put(&format!("{PREFIX}picture.png"), b"not really", &[]).await;
        let letter = lab.take(&lab.dead_letters()).await;
        assert_eq!(attribute(&letter, "millrace-error-code"), Some("OutputLoop"));
        let record = lab.record(attribute(&letter, "millrace-job-id").unwrap()).await;
        assert_eq!(record.error.unwrap().field.as_deref(), Some("Records[0].s3.object.key"));
        // that record is an object under the output too, and ends there
        lab.drained().await;
        let state = worker.until_state("nothing held", |state| state.busy == 0).await;
        assert_eq!((state.completed, state.failed, lab.count(&lab.dead_letters()).await), (0, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_lies_in_s3_is_read_from_there() {
    lab::with("pointer", async |lab| {
        let _worker = start(lab);
        let pointer = |class: &str, key: &str| json!([class, { "s3BucketName": lab.name, "s3Key": key }]).to_string();
        lab.put("large/1", br#"{"job_id":"large-1","input":"a lighthouse at night"}"#, &[]).await;
        let new = pointer("software.amazon.payloadoffloading.PayloadS3Pointer", "large/1");
        send(lab, &new, &[("ExtendedPayloadSize", "52")]).await;
        is_done(&lab.record("large-1").await, "envelope", &json!(PROMPT));
        lab.put("large/2", PROMPT.as_bytes(), &[]).await;
        let old = pointer("com.amazon.sqs.javamessaging.MessageS3Pointer", "large/2");
        let message_id = send(lab, &old, &[("SQSLargePayloadSize", "21")]).await;
        is_done(&lab.record(&message_id).await, "text", &json!(PROMPT));
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_an_invalid_input() {
    lab::with("unreadable", async |lab| {
        let _worker = start(lab);
        lab.put("in/bytes", b"\xff\xfe", &[]).await;
        let pointer = |bucket: &str, key: &str| {
            let class = "software.amazon.payloadoffloading.PayloadS3Pointer";
            json!([class, { "s3BucketName": bucket, "s3Key": key }]).to_string()
        };
        let place = format!("s3://{}/in", lab.name);
        for (body, size, wanted) in [
            (pointer(&lab.name, "in/missing"), "1", format!("{place}/missing is not there (NoSuchKey: ")),
            (pointer(&lab.name, "in/bytes"), "2", format!("{place}/bytes is not UTF-8 text")),
            (
                pointer(&lab.name, "in/large"),
                "67108865",
                format!("{place}/large has 67108865 bytes; an input has at most 67108864"),
            ),
            (pointer("theirs", "x"), "1", "theirs is not allowed: it is not in queue.allow.inputBuckets".to_owned()),
        ] {
            let message_id = send(lab, &body, &[("ExtendedPayloadSize", size)]).await;
            let record = lab.record(&message_id).await;
            let error = record.error.unwrap();
            assert_eq!((record.status, error.code.as_str()), (JobStatus::Failed, "InvalidInput"), "{body}");
            assert!(error.message.starts_with(&wanted), "{:?} does not begin with {wanted:?}", error.message);
            assert_eq!(lab.take(&lab.dead_letters()).await.body(), Some(body.as_str()));
        }
        lab.drained().await;
    })
    .await;
}

#[tokio::test]
async fn an_object_that_was_replaced_is_not_read_as_what_it_was() {
    lab::with("replaced", async |lab| {
        lab.put("in/1", b"one", &[]).await;
        let etag = lab.object("in/1").await.etag;
        lab.put("in/1", b"two", &[]).await;
        let _worker = start(lab);
        let object = json!({ "key": "in/1", "etag": etag.trim_matches('"'), "size": 3 });
        let detail = json!({ "bucket": { "name": lab.name }, "object": object });
        let event = json!({ "source": "aws.s3", "detail-type": "Object Created", "detail": detail });
        send(lab, &event.to_string(), &[]).await;
        let old = format!("{}:in%2F1:{}", lab.name, etag.trim_matches('"'));
        let error = lab.record(&old).await.error.unwrap();
        assert!(error.message.contains("was replaced before it was read"), "{}", error.message);
        lab.drained().await;
        assert!(lab.find(&record_key(&job_id(lab, "in/1").await)).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn an_allow_list_or_mapping_that_cannot_be_meant_is_told_at_start() {
    lab::with("bad-lists", async |lab| {
        let queue = json!({ "mapping": { "jobId": "job_id" }, "allow": { "callbackHosts": ["http://hooks.test"] } });
        let mut worker = program::start(lab, "a", json!({ "queue": queue }));
        assert!(!worker.ended().await.success());
        for wanted in ["queue.mapping.jobId: must be attribute:NAME", "queue.allow.callbackHosts[0]: "] {
            assert!(worker.log().contains(wanted), "{}", worker.log());
        }
    })
    .await;
}
