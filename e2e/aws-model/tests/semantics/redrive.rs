//! Dead letters, there and back.

use aws_sdk_sqs::types::MessageSystemAttributeName as Name;
use millrace_aws_model::Event;

use crate::lab::{Lab, attribute, code, id};

const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:";

#[tokio::test]
async fn a_message_received_in_vain_is_moved_by_the_receive_after() {
    let lab = Lab::new().await;
    let dead = lab.queue("dead", &[]);
    let queue = lab.queue_with_dead_letters("q", &dead, 2);
    let sent = queue.send("m").await;
    let first = queue.receive_one().await;
    for _ in 0..2 {
        lab.advance(30);
        assert_eq!((queue.counts(), dead.counts()), ([1, 0, 0], [0, 0, 0]));
        queue.receive(1).await;
    }
    assert_eq!((queue.counts(), dead.counts()), ([0, 0, 0], [1, 0, 0]));
    let moved = dead.receive_one().await;
    assert_eq!((id(&moved), moved.body()), (sent.as_str(), Some("m")));
    assert_eq!(attribute(&moved, &Name::ApproximateReceiveCount), "3");
    assert_eq!(attribute(&moved, &Name::DeadLetterQueueSourceArn), format!("{ARN}q"));
    assert_eq!(attribute(&moved, &Name::SentTimestamp), attribute(&first, &Name::SentTimestamp));
}

#[tokio::test]
async fn a_poll_of_the_dead_letter_queue_wakes() {
    let lab = Lab::new().await;
    let dead = lab.queue("dead", &[("ReceiveMessageWaitTimeSeconds", "20")]);
    let queue = lab.queue_with_dead_letters("q", &dead, 1);
    let sent = queue.send("m").await;
    let received = queue.receive_one().await;
    queue.hide(&received, 0).await.unwrap();
    let (moved, left) = tokio::join!(dead.receive_one(), async {
        lab.until_they_wait().await;
        queue.receive(1).await
    });
    assert_eq!((id(&moved), left), (sent.as_str(), vec![]));
}

#[tokio::test]
async fn a_redriven_message_is_new() {
    let lab = Lab::new().await;
    let dead = lab.queue("dead", &[]);
    let queue = lab.queue_with_dead_letters("q", &dead, 1);
    let sent = queue.send("m").await;
    let first = queue.receive_one().await;
    queue.hide(&first, 0).await.unwrap();
    assert_eq!(queue.receive(1).await, []);
    lab.advance(100);
    let call = lab.sqs.start_message_move_task().source_arn(format!("{ARN}dead"));
    call.send().await.unwrap();
    assert_eq!((queue.counts(), dead.counts()), ([1, 0, 0], [0, 0, 0]));
    let again = queue.receive_one().await;
    assert_ne!(id(&again), sent);
    assert_eq!((again.body(), attribute(&again, &Name::ApproximateReceiveCount).as_str()), (Some("m"), "1"));
    assert_ne!(attribute(&again, &Name::SentTimestamp), attribute(&first, &Name::SentTimestamp));
    let redriven = lab.model.journal().into_iter().filter_map(|entry| match entry.event {
        Event::Redriven { from, to, id, new_id } => Some((from.to_string(), to.to_string(), id == new_id)),
        _ => None,
    });
    let wanted = [("q".to_owned(), "dead".to_owned(), true), ("dead".to_owned(), "q".to_owned(), false)];
    assert_eq!(redriven.collect::<Vec<_>>(), wanted);
    let tasks = lab.sqs.list_message_move_tasks().source_arn(format!("{ARN}dead")).send().await.unwrap();
    assert_eq!(tasks.results()[0].approximate_number_of_messages_moved(), 1);
}

#[tokio::test]
async fn a_redrive_needs_a_dead_letter_queue_and_a_queue_to_go_to() {
    let lab = Lab::new().await;
    let (dead, other) = (lab.queue("dead", &[]), lab.queue("other", &[]));
    let queue = lab.queue_with_dead_letters("q", &dead, 1);
    let start = || lab.sqs.start_message_move_task();
    for (call, wanted) in [
        (start().source_arn(format!("{ARN}q")), "InvalidParameterValue"),
        (start().source_arn(format!("{ARN}none")), "ResourceNotFoundException"),
        (start().source_arn(format!("{ARN}dead")).destination_arn(format!("{ARN}none")), "ResourceNotFoundException"),
    ] {
        assert_eq!(code(&call.send().await.unwrap_err()), wanted);
    }
    queue.send("m").await;
    let received = queue.receive_one().await;
    queue.hide(&received, 0).await.unwrap();
    queue.receive(1).await;
    start().source_arn(format!("{ARN}dead")).destination_arn(format!("{ARN}other")).send().await.unwrap();
    assert_eq!([queue.counts(), dead.counts(), other.counts()], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]);
}

#[tokio::test]
async fn with_its_dead_letter_queue_gone_a_queue_goes_on_giving_a_message_out() {
    let lab = Lab::new().await;
    let dead = lab.queue("dead", &[]);
    let queue = lab.queue_with_dead_letters("q", &dead, 1);
    queue.send("m").await;
    lab.sqs.delete_queue().queue_url(&dead.url).send().await.unwrap();
    for count in ["1", "2", "3"] {
        assert_eq!(attribute(&queue.receive_one().await, &Name::ApproximateReceiveCount), count);
        lab.advance(30);
    }
}
