//! Dead letters go back as the jobs that they were.

use std::time::Duration;

use aws_sdk_sqs::types::MessageAttributeValue;
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::{DeadLetter, Job};

use crate::lab::{DEAD, Lab, QUEUE};

const HIDDEN: Duration = Duration::from_secs(30);

impl Lab {
    async fn dead(&self) -> Vec<DeadLetter> {
        self.client.dead_letters().await.unwrap().take(100, HIDDEN).await.unwrap()
    }
}

fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

#[tokio::test]
async fn a_message_without_a_name_keeps_the_one_that_it_had() {
    let lab = Lab::standard().await;
    let send =
        lab.sqs.send_message().queue_url(&lab.url).message_body("a cat").message_attributes("team", text("blue"));
    let id = send.send().await.unwrap().message_id.unwrap();
    lab.give_up().await;
    let letters = lab.dead().await;
    assert_eq!((letters[0].job_id.as_str(), letters[0].error_code.as_deref()), (id.as_str(), None));
    lab.client.dead_letters().await.unwrap().redrive(&letters[0]).await.unwrap();
    assert!(lab.model.queue(DEAD).unwrap().messages.is_empty());
    let message = lab.take(&lab.url).await.unwrap();
    assert_eq!(message.body(), Some("a cat"));
    let attributes = message.message_attributes.unwrap();
    assert_eq!(attributes["millrace-message-id"].string_value(), Some(id.as_str()));
    assert_eq!(attributes["team"].string_value(), Some("blue"));
}

#[tokio::test]
async fn what_a_worker_said_of_the_failure_stays_behind() {
    let lab = Lab::standard().await;
    let send = lab.sqs.send_message().queue_url(&lab.dead_url).message_body("a cat");
    let named =
        [("millrace-job-id", "order 7"), ("millrace-error-code", "InvalidInput"), ("millrace-error-field", "f")];
    let send = named.iter().fold(send, |send, (name, value)| send.message_attributes(*name, text(value)));
    send.send().await.unwrap();
    let letter = lab.dead().await.remove(0);
    assert_eq!((letter.job_id.as_str(), letter.error_code.as_deref()), ("order 7", Some("InvalidInput")));
    assert_eq!((letter.error_field.as_deref(), letter.attributes.len()), (Some("f"), 0));
    lab.client.dead_letters().await.unwrap().redrive(&letter).await.unwrap();
    let attributes = lab.take(&lab.url).await.unwrap().message_attributes.unwrap();
    assert_eq!(attributes.keys().collect::<Vec<_>>(), ["millrace-job-id"]);
}

#[tokio::test]
async fn a_body_that_names_its_job_is_sent_as_it_is_beside_its_first_id() {
    let lab = Lab::standard().await;
    lab.client.send(&Job { id: Some("j".into()), ..Job::text("x") }).await.unwrap();
    lab.give_up().await;
    let letter = lab.dead().await.remove(0);
    assert_eq!(letter.job_id, "j");
    lab.client.dead_letters().await.unwrap().redrive(&letter).await.unwrap();
    let message = lab.take(&lab.url).await.unwrap();
    assert_eq!(message.body(), Some(letter.body.as_str()));
    let attributes = message.message_attributes.unwrap();
    // its worker alone knows for certain what names it, and takes this only where nothing does
    assert_eq!(attributes.keys().collect::<Vec<_>>(), ["millrace-message-id"]);
    assert_eq!(attributes["millrace-message-id"].string_value(), Some(letter.message_id.as_str()));
}

#[tokio::test]
async fn on_a_fifo_queue_it_goes_back_into_its_group_though_it_was_sent_just_now() {
    let lab = Lab::fifo().await;
    lab.client.send(&Job { group: Some("g".into()), ..Job::text("x") }).await.unwrap();
    lab.give_up().await;
    let letter = lab.dead().await.remove(0);
    lab.client.dead_letters().await.unwrap().redrive(&letter).await.unwrap();
    let queue = lab.model.queue("jobs.fifo").unwrap();
    assert_eq!(queue.messages.len(), 1);
    assert_eq!(queue.messages[0].group.as_deref(), Some("g"));
}

#[tokio::test]
async fn a_delete_that_fails_for_a_while_is_tried_again() {
    let lab = Lab::standard().await;
    lab.sqs.send_message().queue_url(&lab.dead_url).message_body("a cat").send().await.unwrap();
    let letter = lab.dead().await.remove(0);
    // as often as the SDK tries it
    let fails = Rule::on(Operation::DeleteMessage, Effect::Refuse(Refusal::InternalError)).calls(1..=4);
    lab.inject(vec![fails]);
    lab.client.dead_letters().await.unwrap().redrive(&letter).await.unwrap();
    assert_eq!(lab.model.injected()[0], 4);
    assert!(lab.model.queue(DEAD).unwrap().messages.is_empty());
    assert_eq!(lab.model.queue(QUEUE).unwrap().messages.len(), 1);
}

#[tokio::test]
async fn what_is_released_can_be_taken_at_once() {
    let lab = Lab::standard().await;
    for n in 0..12 {
        lab.sqs.send_message().queue_url(&lab.dead_url).message_body(n.to_string()).send().await.unwrap();
    }
    let dead = lab.client.dead_letters().await.unwrap();
    let letters = dead.take(100, HIDDEN).await.unwrap();
    assert_eq!(letters.len(), 12);
    assert_eq!(dead.take(100, HIDDEN).await.unwrap().len(), 0);
    dead.release(&letters).await;
    assert_eq!(dead.take(5, HIDDEN).await.unwrap().len(), 5);
}

#[tokio::test]
async fn sqs_moves_all_of_them() {
    let lab = Lab::standard().await;
    for n in 0..3 {
        lab.sqs.send_message().queue_url(&lab.url).message_body(n.to_string()).send().await.unwrap();
    }
    lab.give_up().await;
    assert_eq!(lab.client.queue_stats().await.unwrap().dead_letters, Some(3));
    lab.client.dead_letters().await.unwrap().redrive_all_by_sqs().await.unwrap();
    while !lab.model.queue(DEAD).unwrap().messages.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lab.model.queue(QUEUE).unwrap().messages.len(), 3);
}
