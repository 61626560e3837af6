//! Queues, and what may be sent to them.

use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, MessageAttributeValue, MessageSystemAttributeName as Name,
    MessageSystemAttributeNameForSends, MessageSystemAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use millrace_aws_model::Event;

use crate::lab::{Lab, attribute, code, id};

fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

#[tokio::test]
async fn a_message_comes_out_as_it_went_in() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let binary = MessageAttributeValue::builder().data_type("Binary.png").binary_value(Blob::new([0, 255])).build();
    let number = MessageAttributeValue::builder().data_type("Number").string_value("1.5").build();
    let trace = MessageSystemAttributeValue::builder().data_type("String").string_value("Root=1").build();
    let call = lab.sqs.send_message().queue_url(&queue.url).message_body("héllo");
    let call = call.message_attributes("a.text", text("x")).message_attributes("a.binary", binary.unwrap());
    let call = call.message_attributes("number", number.unwrap());
    let call = call.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, trace.unwrap());
    let sent = call.send().await.unwrap();
    let received = queue.receive_one().await;
    assert_eq!((received.body(), received.message_id()), (Some("héllo"), sent.message_id()));
    assert_eq!(received.md5_of_body(), sent.md5_of_message_body());
    assert_eq!(received.md5_of_body(), Some("be50e8478cf24ff3595bc7307fb91b50"));
    assert_eq!(received.md5_of_message_attributes(), sent.md5_of_message_attributes());
    assert_eq!(received.message_attributes().unwrap()["a.binary"].binary_value(), Some(&Blob::new([0, 255])));
    assert_eq!(attribute(&received, &Name::AwsTraceHeader), "Root=1");
    assert_eq!(attribute(&received, &Name::ApproximateReceiveCount), "1");

    lab.advance(30);
    let call = lab.sqs.receive_message().queue_url(&queue.url).message_attribute_names("a.*");
    let mut named: Vec<String> =
        call.send().await.unwrap().messages()[0].message_attributes().unwrap().keys().cloned().collect();
    named.sort_unstable();
    assert_eq!(named, ["a.binary", "a.text"]);
}

#[tokio::test]
async fn what_sqs_would_not_take_is_refused() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let send = || lab.sqs.send_message().queue_url(&queue.url).message_body("b");
    let many = (0..11).fold(send(), |call, n| call.message_attributes(format!("a{n}"), text("v")));
    let largest = "x".repeat(1024 * 1024);
    for (call, wanted) in [
        (send().message_body(""), Err("MissingParameter")),
        (send().message_body("\u{1}"), Err("InvalidMessageContents")),
        (send().message_body(&largest), Ok(())),
        (send().message_body(&largest).message_attributes("a", text("v")), Err("InvalidParameterValue")),
        (send().message_attributes("a", text("")), Err("InvalidParameterValue")),
        (send().message_attributes("AWS.a", text("v")), Err("InvalidParameterValue")),
        (send().message_attributes("a b", text("v")), Err("InvalidParameterValue")),
        (many, Err("InvalidParameterValue")),
        (send().delay_seconds(901), Err("InvalidParameterValue")),
        (send().message_deduplication_id("d"), Err("InvalidParameterValue")),
        (send().message_group_id("g"), Ok(())),
        (send().queue_url("http://h/000000000000/none"), Err("AWS.SimpleQueueService.NonExistentQueue")),
    ] {
        let named = format!("{:?}", call.as_input()).chars().take(200).collect::<String>();
        assert_eq!(call.send().await.map(|_| ()).map_err(|e| code(&e)), wanted.map_err(str::to_owned), "{named}");
    }
    assert_eq!(queue.counts(), [2, 0, 0]);
}

#[tokio::test]
async fn a_batch_has_limits_and_fails_by_the_entry() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let entry =
        |id: &str, body: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().unwrap();
    let half = "x".repeat(600 * 1024);
    for (entries, wanted) in [
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        ((0..11).map(|n| entry(&n.to_string(), "b")).collect(), "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"),
        (vec![entry("1", "b"), entry("1", "b")], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        (vec![entry("1 2", "b")], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec![entry("1", &half), entry("2", &half)], "AWS.SimpleQueueService.BatchRequestTooLong"),
    ] {
        let call = lab.sqs.send_message_batch().queue_url(&queue.url).set_entries(Some(entries));
        assert_eq!(code(&call.send().await.unwrap_err()), wanted);
    }
    let call =
        lab.sqs.send_message_batch().queue_url(&queue.url).entries(entry("good", "b")).entries(entry("bad", "\u{1}"));
    let answer = call.send().await.unwrap();
    assert_eq!(answer.successful()[0].id(), "good");
    let failed = &answer.failed()[0];
    assert_eq!((failed.id(), failed.code(), failed.sender_fault()), ("bad", "InvalidMessageContents", true));
    assert_eq!(queue.counts(), [1, 0, 0]);

    let received = queue.receive_one().await;
    let entry = |id: &str, handle: &str| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle).build().unwrap()
    };
    let call = lab.sqs.delete_message_batch().queue_url(&queue.url);
    let call = call.entries(entry("good", crate::lab::handle(&received))).entries(entry("bad", "none"));
    let answer = call.send().await.unwrap();
    assert_eq!((answer.successful()[0].id(), answer.failed()[0].id()), ("good", "bad"));
    assert_eq!(answer.failed()[0].code(), "ReceiptHandleIsInvalid");
    assert_eq!(queue.counts(), [0, 0, 0]);
}

#[tokio::test]
async fn a_delay_hides_a_message_and_a_long_poll_waits_for_it() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("DelaySeconds", "100"), ("ReceiveMessageWaitTimeSeconds", "20")]);
    queue.send("late").await;
    lab.sqs.send_message().queue_url(&queue.url).message_body("soon").delay_seconds(0).send().await.unwrap();
    assert_eq!(queue.counts(), [1, 0, 1]);
    let soon = queue.receive_one().await;
    assert_eq!(soon.body(), Some("soon"));
    queue.delete(&soon).await.unwrap();
    let (received, ()) = tokio::join!(queue.receive_one(), async {
        lab.until_they_wait().await;
        lab.advance(100);
    });
    assert_eq!(received.body(), Some("late"));
}

#[tokio::test]
async fn of_two_that_wait_one_wakes_at_a_send_and_the_other_at_the_end_of_the_lease() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("ReceiveMessageWaitTimeSeconds", "20"), ("VisibilityTimeout", "10")]);
    let mut polls = [Box::pin(queue.receive_one()), Box::pin(queue.receive_one())];
    let [one, other] = &mut polls;
    let mut both = futures::future::select(one, other);
    assert!(futures::poll!(&mut both).is_pending());
    lab.until_they_wait().await;
    queue.send("m").await;
    let (first, left) = both.await.factor_first();
    // it waits for ten more seconds, and would then have nothing had the lease not woken it
    lab.until_they_wait().await;
    lab.advance(10);
    assert_eq!(id(&left.await), id(&first));
}

#[tokio::test]
async fn a_poll_of_a_deleted_queue_ends() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("ReceiveMessageWaitTimeSeconds", "20")]);
    let (polled, ()) = tokio::join!(queue.try_receive(1), async {
        lab.until_they_wait().await;
        lab.sqs.delete_queue().queue_url(&queue.url).send().await.unwrap();
    });
    assert_eq!(polled.unwrap_err(), "AWS.SimpleQueueService.NonExistentQueue");
}

#[tokio::test]
async fn a_message_goes_when_its_time_is_up_and_a_purge_takes_all() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("MessageRetentionPeriod", "60")]);
    let sent = queue.send("old").await;
    lab.advance(60);
    assert_eq!(queue.counts(), [0, 0, 0]);
    let expired: Vec<_> = lab.model.journal().into_iter().map(|entry| entry.event).collect();
    assert!(matches!(&expired[..], [Event::Sent { .. }, Event::Expired { id, .. }] if **id == *sent), "{expired:?}");

    queue.send("a").await;
    queue.receive_one().await;
    queue.send("b").await;
    let purge = || lab.sqs.purge_queue().queue_url(&queue.url).send();
    purge().await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);
    assert_eq!(code(&purge().await.unwrap_err()), "AWS.SimpleQueueService.PurgeQueueInProgress");
    lab.advance(60);
    purge().await.unwrap();
}

#[tokio::test]
async fn a_queue_is_made_once_and_its_attributes_are_checked() {
    let lab = Lab::new().await;
    let create = |name: &str| lab.sqs.create_queue().queue_name(name);
    let url = create("q").attributes(QueueAttributeName::DelaySeconds, "5").send().await.unwrap().queue_url.unwrap();
    assert_eq!(create("q").send().await.unwrap().queue_url.unwrap(), url);
    for (call, wanted) in [
        (create("q").attributes(QueueAttributeName::DelaySeconds, "6"), "QueueAlreadyExists"),
        (create("a b"), "InvalidParameterValue"),
        (create("a.fifo"), "InvalidParameterValue"),
        (create("a").attributes(QueueAttributeName::FifoQueue, "true"), "InvalidAttributeValue"),
        (create("a").attributes(QueueAttributeName::VisibilityTimeout, "43201"), "InvalidAttributeValue"),
        (create("a").attributes(QueueAttributeName::from("Nonsense"), "1"), "InvalidAttributeName"),
        (create("a").attributes(QueueAttributeName::Policy, "{}"), "AWS.SimpleQueueService.UnsupportedOperation"),
        (create("a").attributes(QueueAttributeName::RedrivePolicy, "{}"), "InvalidParameterValue"),
    ] {
        let named = format!("{:?}", call.as_input());
        assert_eq!(code(&call.send().await.unwrap_err()), wanted, "{named}");
    }
    let set = lab.sqs.set_queue_attributes().queue_url(&url).attributes(QueueAttributeName::VisibilityTimeout, "7");
    set.send().await.unwrap();
    let get = lab.sqs.get_queue_attributes().queue_url(&url);
    let all = get.attribute_names(QueueAttributeName::All).send().await.unwrap().attributes.unwrap();
    for (name, value) in [
        (QueueAttributeName::VisibilityTimeout, "7"),
        (QueueAttributeName::DelaySeconds, "5"),
        (QueueAttributeName::QueueArn, "arn:aws:sqs:us-east-1:000000000000:q"),
    ] {
        assert_eq!(all[&name], value, "{name:?}");
    }
}

#[tokio::test]
async fn queues_are_listed_tagged_and_found() {
    let lab = Lab::new().await;
    for name in ["a-1", "a-2", "a-3", "b"] {
        lab.queue(name, &[]);
    }
    let pages = lab.sqs.list_queues().queue_name_prefix("a-").max_results(2).into_paginator().items().send();
    let urls: Vec<String> = pages.collect::<Result<_, _>>().await.unwrap();
    let url = |name: &str| format!("{}/000000000000/{name}", lab.model.endpoint());
    assert_eq!(urls, ["a-1", "a-2", "a-3"].map(url));
    assert_eq!(lab.sqs.get_queue_url().queue_name("b").send().await.unwrap().queue_url, Some(url("b")));
    lab.sqs.tag_queue().queue_url(url("b")).tags("team", "red").tags("x", "y").send().await.unwrap();
    lab.sqs.untag_queue().queue_url(url("b")).tag_keys("x").send().await.unwrap();
    let tags = lab.sqs.list_queue_tags().queue_url(url("b")).send().await.unwrap().tags.unwrap();
    assert_eq!(tags.into_iter().collect::<Vec<_>>(), [("team".to_owned(), "red".to_owned())]);
    lab.sqs.delete_queue().queue_url(url("b")).send().await.unwrap();
    let gone = lab.sqs.get_queue_url().queue_name("b").send().await.unwrap_err();
    assert!(gone.into_service_error().is_queue_does_not_exist());
}

#[tokio::test]
async fn what_the_model_does_not_have_is_refused_by_its_name() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    let call = lab.sqs.add_permission().queue_url(&queue.url).label("l").aws_account_ids("1").actions("*");
    let error = call.send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidAction");
    let message = error.into_service_error();
    assert!(message.message().unwrap().contains("AddPermission"), "{message:?}");
}
