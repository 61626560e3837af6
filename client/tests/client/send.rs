//! What is sent arrives, once each, whatever SQS does to a batch.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::{Client, Error, Job, Outcome, Trouble};
use serde_json::json;

use crate::lab::{BUCKET, Lab, QUEUE};
use crate::strict::Strict;

async fn send_all(client: &Client, jobs: Vec<Job>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = client.send_all(jobs).await.collect().await;
    outcomes.sort_by_key(|outcome| outcome.index);
    outcomes
}

fn numbered(count: usize) -> Vec<Job> {
    (0..count).map(|n| Job { id: Some(format!("job-{n:03}")), ..Job::text(format!("text {n}")) }).collect()
}

#[tokio::test]
async fn each_is_there_with_its_id() {
    let lab = Lab::standard().await;
    let outcomes = send_all(&lab.client, numbered(25)).await;
    let sent: Vec<String> = outcomes.into_iter().map(|outcome| outcome.result.unwrap().job_id).collect();
    let there: BTreeSet<String> =
        lab.bodies(QUEUE).iter().map(|body| body["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sent, there.into_iter().collect::<Vec<_>>());
    assert_eq!(sent.len(), 25);
}

#[tokio::test]
async fn of_a_batch_only_what_failed_is_sent_again() {
    let lab = Lab::standard().await;
    lab.inject(vec![Rule::on(Operation::SendMessageBatch, Effect::FailEntries { share: 0.5, done: 0.0 }).calls(1..=6)]);
    let outcomes = send_all(&lab.client, numbered(60)).await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    assert!(lab.model.injected()[0] > 0, "the seed strikes none");
    let ids: Vec<String> = lab.bodies(QUEUE).iter().map(|body| body["job_id"].to_string()).collect();
    assert_eq!(ids.len(), 60, "an entry that was taken was sent again");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 60);
}

#[tokio::test]
async fn a_network_that_comes_back_is_waited_for() {
    let lab = Lab::fifo().await;
    // the first batch arrives; the second is dropped as often as the SDK tries it, and once more
    lab.inject(vec![Rule::on(Operation::SendMessageBatch, Effect::DropBefore).calls(2..=6)]);
    let outcomes = send_all(&lab.client, numbered(30)).await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    assert_eq!((lab.model.injected()[0], lab.bodies("jobs.fifo").len()), (5, 30));
}

#[tokio::test]
async fn what_no_call_may_do_is_tried_once() {
    let lab = Lab::fifo().await;
    lab.inject(vec![Rule::on(Operation::SendMessageBatch, Effect::Refuse(Refusal::AccessDenied))]);
    let outcomes = send_all(&lab.client, numbered(30)).await;
    let denied =
        |outcome: &Outcome| outcome.result.as_ref().is_err_and(|error| error.trouble() == Some(Trouble::AccessDenied));
    assert!(outcomes.len() == 30 && outcomes.iter().all(denied), "{outcomes:?}");
    assert_eq!(lab.model.injected()[0], 1);
}

#[tokio::test]
async fn what_is_refused_as_a_batch_goes_one_by_one() {
    let lab = Lab::standard().await;
    let strict = Strict::before(&lab).await;
    let client = Client::new(lab.client.consumer().clone(), strict.sqs(&lab), lab.s3.clone());
    let outcomes = send_all(&client, numbered(12)).await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    assert_eq!(lab.bodies(QUEUE).len(), 12);
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_and_holds_up_nobody() {
    let lab = Lab::standard().await;
    let jobs = vec![Job::text("good"), Job::text(" "), Job { delay: Duration::from_hours(1), ..Job::text("x") }];
    let outcomes = send_all(&lab.client, jobs).await;
    assert!(outcomes[0].result.is_ok());
    for (outcome, field) in outcomes[1..].iter().zip(["input", "delay"]) {
        let Err(Error::Job(error)) = &outcome.result else { panic!("{outcome:?}") };
        assert_eq!(error.field, field);
    }
    assert_eq!(lab.bodies(QUEUE).len(), 1);
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_named_with_the_fix() {
    let lab = Lab::standard().await;
    lab.sqs.delete_queue().queue_url(&lab.url).send().await.unwrap();
    let error = lab.client.send(&Job::text("x")).await.unwrap_err().to_string();
    for part in ["sqs:SendMessage", &lab.url, "create it, or correct its name and region"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_the_queue_does_not_take_lies_in_s3() {
    let lab = Lab::new("", &[("MaximumMessageSize", "2048")]).await;
    let large = Job::new(json!({ "prompt": "x".repeat(3000) }));
    lab.client.send(&large).await.unwrap();
    lab.client.send(&Job::text("small")).await.unwrap();
    let bodies = lab.bodies(QUEUE);
    let pointer = bodies.iter().find(|body| body.is_array()).unwrap();
    assert_eq!(pointer[0], "software.amazon.payloadoffloading.PayloadS3Pointer");
    assert_eq!(pointer[1]["s3BucketName"], BUCKET);
    let objects = lab.model.objects(BUCKET).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&objects[pointer[1]["s3Key"].as_str().unwrap()].body).unwrap();
    assert_eq!(body["job_id"], json!(large.id()));
}

#[tokio::test]
async fn on_a_fifo_queue_the_order_stays_and_a_repeat_is_dropped() {
    let lab = Lab::fifo().await;
    let jobs: Vec<Job> = numbered(12).into_iter().map(|job| Job { group: Some("g".into()), ..job }).collect();
    for _ in 0..2 {
        assert!(send_all(&lab.client, jobs.clone()).await.iter().all(|outcome| outcome.result.is_ok()));
    }
    let ids: Vec<String> =
        lab.bodies("jobs.fifo").iter().map(|body| body["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, jobs.iter().map(Job::id).collect::<Vec<_>>());
}

#[tokio::test]
async fn on_a_fifo_queue_another_attempt_arrives_though_it_comes_at_once() {
    let lab = Lab::fifo().await;
    let job = |attempt: Option<&str>| Job { attempt: attempt.map(Into::into), ..Job::text("x") };
    for attempt in [None, Some("m1"), Some("m1")] {
        lab.client.send(&job(attempt)).await.unwrap();
    }
    assert_eq!(lab.bodies("jobs.fifo").len(), 2);
}

#[tokio::test]
async fn on_a_fifo_queue_a_job_of_the_longest_id_arrives() {
    let lab = Lab::fifo().await;
    lab.client.send(&Job { id: Some("x".repeat(256)), ..Job::text("x") }).await.unwrap();
    assert_eq!(lab.bodies("jobs.fifo").len(), 1);
}
