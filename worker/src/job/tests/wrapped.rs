//! What lies around a body: an SNS topic's envelope, a pointer to S3.

use super::*;

const EXTENDED: &str = include_str!("../../../tests/bodies/extended.json");

#[test]
fn what_came_through_a_topic_is_what_was_published() {
    let job_of = |message: &Message| job(open().decode(message));
    let body = include_str!("../../../tests/bodies/sns_text.json");
    let published = job_of(&message(body));
    assert_eq!((inputs(&published), published.head.id.as_str()), (&[text("a lighthouse at night")][..], "order-7"));
    // what SQS itself tells goes first
    assert_eq!(job_of(&with_attributes(body, &[(JOB_ID_ATTRIBUTE, "nearer")])).head.id, "nearer");
    let event = job_of(&message(include_str!("../../../tests/bodies/sns_s3.json")));
    assert_eq!(event.object().unwrap().to_string(), "s3://amzn-s3-demo-bucket/HappyFace.jpg");
    let mapped = forms(&json!({ "mapping": { "input": "/p" } })).unwrap();
    let wrapped = json!({ "Type": "Notification", "TopicArn": "arn", "Message": r#"{"p":"x"}"# }).to_string();
    assert_eq!(inputs(&job(mapped.decode(&message(&wrapped)))), [text("x")]);
}

#[test]
fn what_only_looks_like_a_topics_envelope_is_ones_own_object() {
    let own = [
        json!({ "Type": "Notification", "TopicArn": "arn" }),
        json!({ "Type": "Order", "TopicArn": "arn", "Message": "x" }),
        json!({ "Type": "Notification", "Message": "\"TopicArn\"" }),
    ];
    for body in own {
        assert_eq!(inputs(&job(auto(&body.to_string()))), [object(body)]);
    }
}

#[test]
fn a_pointer_leads_to_the_body() {
    let forms = forms(&json!({ "allow": { "inputBuckets": ["photos-bodies"] } })).unwrap();
    let table = [
        (EXTENDED, "ExtendedPayloadSize", "99040d79-b1db-4028-bd49-ef89e25d3ded"),
        (
            include_str!("../../../tests/bodies/extended_legacy.json"),
            "SQSLargePayloadSize",
            "7509c747-7307-4f93-87e3-a8a68e7929e2",
        ),
    ];
    for (body, attribute, key) in table {
        for (message, size) in [(with_attributes(body, &[(attribute, "21")]), Some(21)), (message(body), None)] {
            let Decoded::Elsewhere(object) = forms.decode(&message) else { panic!("{body}") };
            let wanted = ObjectRef { bucket: "photos-bodies".into(), key: key.into(), version: None, etag: None, size };
            assert_eq!(object, wanted);
            let job = job(forms.decode_body(&message, r#"{"job_id":"j","input":"a lighthouse at night"}"#));
            assert_eq!((inputs(&job), job.head.id.as_str()), (&[text("a lighthouse at night")][..], "j"));
            assert_eq!(job.head.input_sha256, hex::encode(Sha256::digest("a lighthouse at night")));
        }
    }
    let event = job(forms.decode_body(&message(EXTENDED), include_str!("../../../tests/bodies/s3_created.json")));
    assert!(event.object().is_some(), "an object's body may be an event");
}

#[test]
fn each_malformed_pointer_names_what_is_wrong() {
    let sized = |body: &str| with_attributes(body, &[("ExtendedPayloadSize", "21")]);
    let shape = "ExtendedPayloadSize: says that the body lies in S3, and the body is not \
                 [\"software.amazon.payloadoffloading.PayloadS3Pointer\",{\"s3BucketName\":…,\"s3Key\":…}]";
    let table = [
        (sized("a cat"), shape),
        (sized(r#"["some.Class",{"s3BucketName":"photos-bodies","s3Key":"k"}]"#), shape),
        (
            message(&EXTENDED.replace("s3Key", "key")),
            "the pointer to the body in S3 cannot be read: missing field `s3Key` at line 1 column 135",
        ),
        (
            sized(&EXTENDED.replace("photos-bodies", "theirs")),
            "s3BucketName: theirs is not allowed: it is not in queue.allow.inputBuckets",
        ),
    ];
    for (message, wanted) in table {
        assert_eq!(refused(open().decode(&message)).error.to_string(), wanted, "{}", message.body);
    }
    let rejected = refused(open().decode_body(&with_attributes(EXTENDED, &[(JOB_ID_ATTRIBUTE, "j")]), EXTENDED));
    assert_eq!(rejected.error.to_string(), "the body in S3 is itself a pointer to a body in S3");
    assert_eq!(rejected.head.id, "j");
}

#[test]
fn text_is_a_pointer_only_where_the_attribute_says_so() {
    let forms = forms(&json!({ "bodyFormat": "Text", "allow": { "inputBuckets": ["photos-bodies"] } })).unwrap();
    assert_eq!(inputs(&job(forms.decode(&message(EXTENDED)))), [text(EXTENDED)]);
    let sized = with_attributes(EXTENDED, &[("ExtendedPayloadSize", "21")]);
    assert!(matches!(forms.decode(&sized), Decoded::Elsewhere(_)));
    assert_eq!(inputs(&job(forms.decode_body(&sized, "a cat"))), [text("a cat")]);
}

#[test]
fn an_object_that_cannot_be_read_is_told_of_the_message_that_points_to_it() {
    let message = with_attributes(EXTENDED, &[(JOB_ID_ATTRIBUTE, "j 1")]);
    let rejected = open().reject(&message, InvalidInput::body("is not there"));
    assert_eq!(
        (rejected.head.id.as_str(), rejected.head.form, rejected.code),
        ("j%201", Form::Unknown, "InvalidInput")
    );
    assert_eq!(rejected.head.input_sha256, hex::encode(Sha256::digest(EXTENDED)));
}
