//! Messages that SQS gave up go back by `kubectl millrace dlq redrive`, each as the job that it was: under the id that its
//! first message had, though AWS gives it another one.

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::{Value, json};

/// A text, an object and an envelope; only the last names its job.
const BODIES: [&str; 3] = ["a cat", r#"{"prompt":"a dog"}"#, r#"{"job_id":"order-7","input":"a hen"}"#];

#[tokio::test]
async fn each_is_the_job_that_it_was() {
    scenario("dlq-redrive", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue_with_receives("jobs", 1).await?;
    let sent = queue.send(&BODIES).await?;
    queue.give_up().await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 10).with("/spec/worker/gpu/count", json!(0)).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;

    let list = consumer.cli(&["dlq", "list"]).await?;
    ensure!(list.code == 0 && list.answer.as_array().is_some_and(|letters| letters.len() == 3), "{list:?}");
    let redriven = consumer.cli(&["dlq", "redrive", "--all"]).await?;
    ensure!(redriven.code == 0, "{redriven:?}");

    let ids = [sent[0].as_str(), sent[1].as_str(), "order-7"];
    eventually("each is done under its own id", async || {
        let records = consumer.records().await?;
        for id in ids {
            ensure!(records.iter().any(|r| r.is_completed() && r.content.job_id == id), "{id} is not: {records:?}");
        }
        ensure!(records.len() == ids.len(), "there are others: {records:?}");
        Ok(())
    })
    .await?;
    let status = consumer.cli(&["status", ids[0], ids[1], ids[2]]).await?;
    let values: Vec<&Value> = status.answer.as_array().into_iter().flatten().map(|job| &job["value"]).collect();
    ensure!(values == [&json!("a cat"), &json!({ "prompt": "a dog" }), &json!("a hen")], "{status:?}");
    ensure!(queue.dead().await? == 0, "some are still dead letters");
    Ok(())
}
