//! SQS throttles what the operator asks: meanwhile nobody knows whether the queue is empty, so the count holds; the
//! consumer says so after a while, and goes on afterwards.

use anyhow::{Result, ensure};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, scenario};
use serde_json::json;

const WORKERS: i32 = 3;
const JOBS: usize = 30;

#[tokio::test]
async fn the_count_holds_until_the_queue_can_be_read() {
    scenario("throttled-sqs", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 1_500)
        .with("/spec/queue/endpoint", json!(proxy.endpoint()))
        .with("/spec/worker/gpu/count", json!(0))
        .with("/spec/scaling/scaleDownStabilizationSeconds", json!(0))
        .replicas(1, WORKERS);
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;
    // the first look at the queue sees all of them
    let consumer = lab.apply(&manifest).await?;
    let timeline = consumer.timeline();
    consumer.await_ready(WORKERS as usize).await?;

    // workers receive as before, and soon nothing is left
    let rule = proxy.inject(Rule::new(Target::Operation("GetQueueAttributes"), Fault::Throttled));
    let before = timeline.counts();
    consumer.ledger(&queue).await?.all_completed()?;
    consumer.await_condition("QueueAccessible", "False", "QueueThrottled", &[queue.name()]).await?;
    consumer.await_condition("ScalingActive", "False", "QueueThrottled", &["stays as it is"]).await?;
    let hits = rule.hits();
    eventually("it was refused again", async || {
        ensure!(rule.hits() > hits + 1, "{} times, then {}", hits, rule.hits());
        Ok(())
    })
    .await?;
    ensure!(timeline.counts() == before, "worker counts {before:?}, then {:?}", timeline.counts());
    proxy.mend();

    consumer.await_condition("QueueAccessible", "True", "AsExpected", &[]).await?;
    eventually("what is not needed goes", async || {
        ensure!(timeline.counts().last() == Some(&1), "worker counts {:?}", timeline.counts());
        Ok(())
    })
    .await
}
