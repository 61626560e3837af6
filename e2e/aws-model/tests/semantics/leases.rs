//! What a receipt handle is good for, and until when.

use aws_sdk_sqs::types::MessageSystemAttributeName as Name;
use millrace_aws_model::Event;

use crate::lab::{Lab, attribute, handle, id};

#[tokio::test]
async fn a_lease_runs_out_and_the_next_receive_counts() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    let first = queue.receive_one().await;
    assert_eq!((queue.counts(), queue.receive(1).await), ([0, 1, 0], vec![]));
    lab.advance(30);
    assert_eq!(queue.counts(), [1, 0, 0]);
    let second = queue.receive_one().await;
    assert_eq!(id(&first), id(&second));
    assert_ne!(handle(&first), handle(&second));
    assert_eq!(attribute(&second, &Name::ApproximateReceiveCount), "2");
    let since = Name::ApproximateFirstReceiveTimestamp;
    assert_eq!(attribute(&first, &since), attribute(&second, &since));
}

#[tokio::test]
async fn a_stale_handle_deletes_nothing_and_is_answered_well() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    let first = queue.receive_one().await;
    lab.advance(30);
    let second = queue.receive_one().await;
    queue.delete(&first).await.unwrap();
    assert_eq!(queue.counts(), [0, 1, 0]);
    queue.delete(&second).await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);
    queue.delete(&second).await.unwrap();
    let deletes: Vec<_> = lab.model.journal().into_iter().map(|entry| entry.event).skip(3).collect();
    assert!(
        matches!(&deletes[..], [Event::DeleteIgnored { .. }, Event::Deleted { .. }, Event::DeleteIgnored { .. }]),
        "{deletes:?}"
    );
}

#[tokio::test]
async fn a_handle_whose_lease_has_run_out_still_deletes_what_nobody_else_received() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    let received = queue.receive_one().await;
    lab.advance(30);
    queue.delete(&received).await.unwrap();
    assert_eq!(queue.counts(), [0, 0, 0]);
}

#[tokio::test]
async fn a_lease_can_be_made_longer_and_given_back() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    let received = queue.receive_one().await;
    lab.advance(29);
    queue.hide(&received, 30).await.unwrap();
    lab.advance(29);
    assert_eq!(queue.counts(), [0, 1, 0]);
    queue.hide(&received, 0).await.unwrap();
    assert_eq!(queue.counts(), [1, 0, 0]);
    assert_eq!(queue.hide(&received, 30).await.unwrap_err(), "AWS.SimpleQueueService.MessageNotInflight");
}

#[tokio::test]
async fn a_lease_that_is_lost_cannot_be_made_longer() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[]);
    queue.send("m").await;
    let first = queue.receive_one().await;
    lab.advance(30);
    assert_eq!(queue.hide(&first, 30).await.unwrap_err(), "AWS.SimpleQueueService.MessageNotInflight");
    let second = queue.receive_one().await;
    assert_eq!(queue.hide(&first, 30).await.unwrap_err(), "InvalidParameterValue");
    queue.delete(&second).await.unwrap();
    assert_eq!(queue.hide(&second, 30).await.unwrap_err(), "InvalidParameterValue");
}

#[tokio::test]
async fn nobody_holds_a_message_for_more_than_twelve_hours() {
    let lab = Lab::new().await;
    let queue = lab.queue("q", &[("VisibilityTimeout", "43200")]);
    queue.send("m").await;
    let received = queue.receive_one().await;
    lab.advance(3600);
    assert_eq!(queue.hide(&received, 40_000).await.unwrap_err(), "InvalidParameterValue");
    assert_eq!(queue.hide(&received, 43_201).await.unwrap_err(), "InvalidParameterValue");
    queue.hide(&received, 39_500).await.unwrap();
    lab.advance(39_500);
    assert_eq!(queue.counts(), [1, 0, 0]);
}

#[tokio::test]
async fn a_handle_is_of_its_queue_alone() {
    let lab = Lab::new().await;
    let (queue, other) = (lab.queue("q", &[]), lab.queue("other", &[]));
    queue.send("m").await;
    let received = queue.receive_one().await;
    assert_eq!(other.delete(&received).await.unwrap_err(), "ReceiptHandleIsInvalid");
    assert_eq!(other.hide(&received, 1).await.unwrap_err(), "ReceiptHandleIsInvalid");
}
