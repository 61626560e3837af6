//! FIFO queues: groups, order, repeats.

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as Name};

use crate::lab::{Lab, Queue, attribute, code, handle, id};

async fn filled(lab: &Lab) -> Queue<'_> {
    let queue = lab.queue("q.fifo", &[]);
    for (group, body) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("b", "5")] {
        queue.send_to(group, body).await;
    }
    queue
}

#[tokio::test]
async fn a_receive_fills_from_one_group_first_and_then_from_the_next() {
    let lab = Lab::new().await;
    let queue = filled(&lab).await;
    assert_eq!(queue.receive_bodies(10).await, ["1", "3", "4", "2", "5"]);
}

#[tokio::test]
async fn a_group_with_a_message_in_flight_gives_no_other() {
    let lab = Lab::new().await;
    let queue = filled(&lab).await;
    let first = queue.receive(1).await.remove(0);
    assert_eq!(queue.receive_bodies(1).await, ["2"]);
    assert_eq!(queue.receive_bodies(10).await, [""; 0]);
    assert_eq!(queue.counts(), [3, 2, 0]);
    queue.delete(&first).await.unwrap();
    assert_eq!(queue.receive_bodies(1).await, ["3"]);
    lab.advance(30);
    assert_eq!(queue.receive_bodies(10).await, ["2", "5", "3", "4"]);
}

#[tokio::test]
async fn a_message_given_back_comes_before_those_behind_it() {
    let lab = Lab::new().await;
    let queue = filled(&lab).await;
    let [first, second]: [Message; 2] = queue.receive(2).await.try_into().unwrap();
    queue.hide(&first, 0).await.unwrap();
    assert_eq!(queue.receive_bodies(10).await, ["2", "5"]);
    queue.hide(&second, 0).await.unwrap();
    assert_eq!(queue.receive_bodies(10).await, ["1", "3", "4"]);
}

#[tokio::test]
async fn a_poll_wakes_when_a_group_is_free_again() {
    let lab = Lab::new().await;
    let queue = lab.queue("q.fifo", &[("ReceiveMessageWaitTimeSeconds", "20")]);
    queue.send_to("a", "1").await;
    queue.send_to("a", "2").await;
    let first = queue.receive(1).await.remove(0);
    let (received, ()) = tokio::join!(queue.receive_bodies(1), async {
        lab.until_they_wait().await;
        queue.delete(&first).await.unwrap();
    });
    assert_eq!(received, ["2"]);
}

#[tokio::test]
async fn an_expired_handle_is_refused() {
    let lab = Lab::new().await;
    let queue = filled(&lab).await;
    let first = queue.receive(1).await.remove(0);
    lab.advance(30);
    assert_eq!(queue.delete(&first).await.unwrap_err(), "InvalidParameterValue");
    let again = queue.receive(1).await.remove(0);
    assert_eq!(queue.delete(&first).await.unwrap_err(), "InvalidParameterValue");
    queue.delete(&again).await.unwrap();
    // it is gone, and to delete it again is no error
    queue.delete(&again).await.unwrap();
}

#[tokio::test]
async fn a_repeat_within_five_minutes_is_kept_once() {
    let lab = Lab::new().await;
    let queue = lab.queue("q.fifo", &[("ContentBasedDeduplication", "true")]);
    let send = |body: &str, id: Option<&str>| {
        let call = lab.sqs.send_message().queue_url(&queue.url).message_body(body).message_group_id("g");
        call.set_message_deduplication_id(id.map(str::to_owned)).send()
    };
    let first = send("m", None).await.unwrap();
    let repeat = send("m", None).await.unwrap();
    assert_eq!((repeat.message_id(), repeat.sequence_number()), (first.message_id(), first.sequence_number()));
    send("m", Some("d")).await.unwrap();
    send("other", Some("d")).await.unwrap();
    assert_eq!(queue.counts(), [2, 0, 0]);
    // deleted or not, it is known
    let received = queue.receive(1).await.remove(0);
    assert_eq!(attribute(&received, &Name::MessageGroupId), "g");
    assert_eq!(attribute(&received, &Name::SequenceNumber), first.sequence_number().unwrap());
    queue.delete(&received).await.unwrap();
    send("m", None).await.unwrap();
    assert_eq!(queue.counts(), [1, 0, 0]);
    lab.advance(300);
    let later = send("m", None).await.unwrap();
    assert_ne!(later.message_id(), first.message_id());
    assert_eq!(queue.counts(), [2, 0, 0]);
}

#[tokio::test]
async fn deduplication_can_be_of_each_group() {
    let lab = Lab::new().await;
    let queue = lab.queue("q.fifo", &[("DeduplicationScope", "messageGroup")]);
    for group in ["a", "b", "a"] {
        let call = lab.sqs.send_message().queue_url(&queue.url).message_body("m").message_group_id(group);
        call.message_deduplication_id("d").send().await.unwrap();
    }
    assert_eq!(queue.counts(), [2, 0, 0]);
}

#[tokio::test]
async fn what_a_fifo_queue_would_not_take_is_refused() {
    let lab = Lab::new().await;
    let queue = lab.queue("q.fifo", &[]);
    let send = || lab.sqs.send_message().queue_url(&queue.url).message_body("m");
    for (call, wanted) in [
        (send().message_deduplication_id("d"), "MissingParameter"),
        (send().message_group_id("g"), "InvalidParameterValue"),
        (send().message_group_id("g h").message_deduplication_id("d"), "InvalidParameterValue"),
        (send().message_group_id("g").message_deduplication_id("d").delay_seconds(1), "InvalidParameterValue"),
    ] {
        assert_eq!(code(&call.send().await.unwrap_err()), wanted);
    }
    let plain = lab.queue("q", &[]);
    let call = lab.sqs.receive_message().queue_url(&plain.url).receive_request_attempt_id("r");
    assert_eq!(code(&call.send().await.unwrap_err()), "InvalidParameterValue");
}

#[tokio::test]
async fn an_attempt_that_is_repeated_gets_what_it_still_holds() {
    let lab = Lab::new().await;
    let queue = filled(&lab).await;
    let attempt = async |id: &str| {
        let call = lab.sqs.receive_message().queue_url(&queue.url).max_number_of_messages(2);
        let answer = call.receive_request_attempt_id(id).send().await.unwrap();
        answer.messages.unwrap_or_default()
    };
    let first = attempt("r").await;
    lab.advance(20);
    // the same messages and handles, for as long again
    assert_eq!(attempt("r").await, first);
    lab.advance(20);
    assert_eq!(attempt("r").await, first);
    queue.delete(&first[0]).await.unwrap();
    assert_eq!(attempt("r").await, first[1..]);
    queue.delete(&first[1]).await.unwrap();
    let next = attempt("r").await;
    assert_eq!(next.iter().map(|message| message.body().unwrap()).collect::<Vec<_>>(), ["2", "5"]);
    // another's attempt is another
    assert_ne!(attempt("s").await.iter().map(handle).collect::<Vec<_>>(), next.iter().map(handle).collect::<Vec<_>>());
    lab.advance(300);
    let late = attempt("r").await;
    assert_ne!(late.iter().map(handle).collect::<Vec<_>>(), next.iter().map(handle).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_poisonous_head_goes_to_the_dead_letters_and_frees_its_group() {
    let lab = Lab::new().await;
    let dead = lab.queue("dead.fifo", &[]);
    let queue = lab.queue_with_dead_letters("q.fifo", &dead, 1);
    let poison = queue.send_to("a", "poison").await;
    queue.send_to("a", "next").await;
    let received = queue.receive(1).await.remove(0);
    queue.hide(&received, 0).await.unwrap();
    assert_eq!(queue.receive_bodies(1).await, ["next"]);
    let moved = dead.receive_one().await;
    assert_eq!((id(&moved), attribute(&moved, &Name::MessageGroupId).as_str()), (poison.as_str(), "a"));
    assert_eq!(attribute(&moved, &Name::MessageDeduplicationId), "apoison");
}

#[tokio::test]
async fn a_dead_letter_queue_is_of_the_same_sort() {
    let lab = Lab::new().await;
    lab.queue("dead", &[]);
    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"3"}"#;
    let error = lab.model.create_queue("q.fifo", &[("RedrivePolicy", policy)]).unwrap_err();
    assert!(error.to_string().contains("same type"), "{error}");
}
