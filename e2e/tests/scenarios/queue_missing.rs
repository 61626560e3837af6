//! A queue that is not there: the consumer says so, keeps its worker count, and recovers by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

#[tokio::test]
async fn it_is_named_and_the_count_stays() {
    scenario("queue-missing", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.missing_queue("late");
    let consumer = lab.apply(&Manifest::echo(lab, "echo", &queue, 10)).await?;
    let timeline = consumer.timeline();
    let name = [queue.name()];
    consumer.await_condition("QueueAccessible", "False", "QueueNotFound", &name).await?;
    consumer.await_condition("Ready", "False", "QueueNotFound", &name).await?;
    consumer.await_condition("ScalingActive", "False", "QueueNotFound", &[]).await?;
    ensure!(timeline.counts().iter().all(|count| *count == 0), "worker counts {:?}", timeline.counts());

    queue.create().await?;
    consumer.await_condition("QueueAccessible", "True", "AsExpected", &[]).await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    queue.send(&["a cat"]).await?;
    consumer.ledger(&queue).await?.all_completed()?;

    // now with a worker up
    consumer.change(json!({ "scaling": { "minReplicas": 1 } })).await?;
    consumer.await_ready(1).await?;
    let before = timeline.counts();
    queue.delete().await?;
    consumer.await_condition("QueueAccessible", "False", "QueueNotFound", &name).await?;
    consumer.await_condition("Ready", "False", "QueueNotFound", &name).await?;
    // long past every window in which an empty queue would have lowered the count
    tokio::time::sleep(Duration::from_secs(20)).await;
    ensure!(timeline.counts() == before, "worker counts {:?}, then {:?}", before, timeline.counts());
    consumer.await_ready(1).await?;
    consumer.await_event("QueueNotFound: ", queue.name()).await?;
    consumer.await_event("QueueAccessible: ", "can be read again").await?;
    eventually("the worker says so as well", async || {
        let pods = consumer.pods().await?;
        let state = consumer.state(&pods[0]).await?;
        ensure!(state.problems.iter().any(|p| p.reason == "QueueNotFound"), "{:?}", state.problems);
        ensure!(state.ready, "an outage of SQS made it unready");
        Ok(())
    })
    .await
}
