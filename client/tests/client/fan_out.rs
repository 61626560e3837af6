//! A fan-out tells what was sent, and its repeat sends nothing twice.

use millrace_client::{Error, FanOut};
use serde_json::{Map, json};

use crate::lab::Lab;

fn event() -> FanOut {
    let task = |n: usize| (format!("task-{n}"), json!({ "prompt": n.to_string() }));
    let mut tasks: Vec<_> = (0..14).map(task).collect();
    tasks[5].1 = json!(7);
    FanOut { entity_id: "user-17".into(), timestamp: "2026-11-23T10:00:00".into(), metadata: Map::new(), tasks }
}

#[tokio::test]
async fn a_producer_that_tries_again_makes_no_second_task() {
    let lab = Lab::fifo().await;
    for _ in 0..2 {
        let report = lab.client.fan_out(&event()).await.unwrap();
        assert_eq!(report.sent.len(), 13);
        let (place, error) = &report.not_sent[0];
        assert!(*place == 5 && report.not_sent.len() == 1 && error.to_string().contains("task_config"), "{error}");
    }
    let bodies = lab.bodies("jobs.fifo");
    assert_eq!(bodies.len(), 13);
    assert!(bodies.iter().all(|body| body["total_tasks"] == 14 && body["entity_id"] == "user-17"));
    let message = lab.take(&lab.url).await.unwrap();
    let attributes = message.message_attributes.unwrap();
    assert_eq!(attributes["entity_id"].string_value(), Some("user-17"));
    assert_eq!(attributes["task_name"].string_value(), Some("task-0"));
}

#[tokio::test]
async fn it_needs_a_fifo_queue() {
    let lab = Lab::standard().await;
    let error = lab.client.fan_out(&event()).await.unwrap_err();
    assert!(matches!(&error, Error::Job(job) if job.field == "queue.url"), "{error}");
}

#[tokio::test]
async fn a_name_that_comes_twice_is_refused() {
    let lab = Lab::fifo().await;
    let mut twice = event();
    twice.tasks[7].0 = "task-0".into();
    let error = lab.client.fan_out(&twice).await.unwrap_err();
    assert!(matches!(&error, Error::Job(job) if job.field == "task_name"), "{error}");
    assert!(lab.bodies("jobs.fifo").is_empty());
}
