//! `scaling.mode`: DryRun says what it would do and leaves the count alone, also where somebody sets it by hand; Active
//! does it; Paused holds.

use anyhow::{Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, Timeline, eventually, scenario};
use serde_json::json;

/// Ten for a worker.
const JOBS: usize = 40;
const WORKERS: i32 = 4;

#[tokio::test]
async fn it_says_what_it_would_do() {
    scenario("dry-run", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 30_000)
        .with("/spec/worker/gpu/count", json!(0))
        .with("/spec/scaling/mode", json!("DryRun"))
        .replicas(0, WORKERS + 1);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_condition("ScalingActive", "False", "DryRun", &["it would be 0 workers"]).await?;
    let timeline = consumer.timeline();
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;
    let words = [format!("it would be {WORKERS} workers"), "MessagesPerReplica".to_owned()];
    let words = words.each_ref().map(String::as_str);
    consumer.await_condition("ScalingActive", "False", "DryRun", &words).await?;
    asked_and_there(&consumer, WORKERS, 0).await?;
    ensure!(timeline.counts() == [0], "worker counts {:?}", timeline.counts());

    consumer.scale_by_hand(1).await?;
    asked_and_there(&consumer, WORKERS, 1).await?;
    consumer.await_condition("ScalingActive", "False", "DryRun", &words).await?;
    ensure!(timeline.counts() == [0, 1], "worker counts {:?}", timeline.counts());

    consumer.change(json!({ "scaling": { "mode": "Active" } })).await?;
    consumer.await_condition("ScalingActive", "True", "MessagesPerReplica", &[]).await?;
    counts(&timeline, &[0, 1, WORKERS]).await?;
    consumer.change(json!({ "scaling": { "mode": "Paused" } })).await?;
    consumer.await_condition("ScalingActive", "False", "Paused", &[]).await?;
    consumer.scale_by_hand(2).await?;
    asked_and_there(&consumer, 2, 2).await?;
    // what would need more is no reason now
    queue.send(&jobs).await?;
    consumer.change(json!({ "scaling": { "maxReplicas": WORKERS } })).await?;
    ensure!(timeline.counts() == [0, 1, WORKERS, 2], "worker counts {:?}", timeline.counts());
    consumer.change(json!({ "scaling": { "mode": "Active" } })).await?;
    counts(&timeline, &[0, 1, WORKERS, 2, WORKERS]).await
}

/// Waits until the status says that so many workers are asked for, and that so many are there.
async fn asked_and_there(consumer: &Consumer<'_>, asked: i32, there: i32) -> Result<()> {
    eventually(format!("{asked} workers are desired, and {there} there"), async || {
        let status = consumer.status().await?;
        let found = (status.desired_replicas, status.replicas);
        ensure!(found == (asked, there), "{found:?}");
        Ok(())
    })
    .await
}

async fn counts(timeline: &Timeline, wanted: &[i32]) -> Result<()> {
    eventually(format!("the worker counts are {wanted:?}"), async || {
        ensure!(timeline.counts() == wanted, "{:?}", timeline.counts());
        Ok(())
    })
    .await
}
