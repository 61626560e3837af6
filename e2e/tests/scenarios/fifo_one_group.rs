//! 10,000 messages in one message group, which are done one after another: a second worker would only stand by, so there
//! is none, however many wait.

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

const MESSAGES: usize = 10_000;
/// LocalStack takes its time with so many of one group.
const DONE: u64 = 100;

#[tokio::test]
async fn one_worker_is_enough_for_one_group() {
    scenario("fifo-one-group", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.fifo_queue("jobs").await?;
    queue.flood("a goose", MESSAGES).await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 5)
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(0, 5);
    let consumer = lab.apply(&manifest).await?;
    let timeline = consumer.timeline();
    consumer.await_condition("ScalingActive", "True", "BlockedByMessageGroups", &["message groups"]).await?;
    eventually(format!("{DONE} jobs are done"), async || {
        let done = consumer.completed().await?;
        ensure!(done >= DONE, "{done}");
        Ok(())
    })
    .await?;
    ensure!(timeline.counts() == [0, 1], "worker counts {:?}", timeline.counts());
    queue.purge().await
}
