//! A FIFO queue: within a message group jobs are done in order, whoever dies meanwhile; groups run side by side; a head that
//! fails holds up its own group and no other.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use millrace_api::{JobStatus, ResultRecord};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::{Value, json};

const GROUPS: [&str; 3] = ["red", "green", "blue"];
const JOBS: usize = 5;

#[tokio::test]
async fn groups_keep_their_order_and_run_side_by_side() {
    scenario("fifo-order", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(async { through_a_kill(lab).await.context("a worker is killed") }, async {
        past_a_failing_head(lab).await.context("a head fails")
    },)?;
    Ok(())
}

async fn through_a_kill(lab: &Lab) -> Result<()> {
    let queue = lab.fifo_queue("groups").await?;
    let manifest = Manifest::echo(lab, "groups", &queue, 1_500)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(10))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(3, 3);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(GROUPS.len()).await?;
    let mut sent = Vec::new();
    for group in GROUPS {
        // heads take so long that a kill meets them
        let mut jobs = vec![Value::to_string(&json!({ "milliseconds": 8_000, "group": group }))];
        jobs.extend((1..JOBS).map(|n| format!("{group} {n}")));
        sent.push(queue.send_group(group, &jobs).await?);
    }
    eventually("each worker holds the head of one group, side by side", async || {
        let mut held = BTreeSet::new();
        for pod in &pods {
            held.extend(consumer.state(pod).await?.jobs.into_iter().map(|job| job.message_id));
        }
        let heads: BTreeSet<String> = sent.iter().map(|group| group[0].clone()).collect();
        ensure!(held == heads, "held are {held:?}, not exactly the heads {heads:?}");
        Ok(())
    })
    .await?;
    lab.kill(&pods[0])?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for group in &sent {
        ledger.in_order(group)?;
    }
    let heads: Vec<&ResultRecord> = sent.iter().map(|group| ledger.record(&group[0])).collect::<Result<_>>()?;
    ensure!(heads.iter().any(|head| head.attempt > 1), "the kill killed nobody: {heads:?}");
    Ok(())
}

async fn past_a_failing_head(lab: &Lab) -> Result<()> {
    let queue = lab.fifo_queue("heads").await?;
    let model = lab.spoiled_model().await?;
    let manifest = Manifest::text_to_image(lab, "heads", &queue, &model)
        .with("/spec/queue/retry", json!({ "initialSeconds": 4, "maxSeconds": 8 }))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let failing = queue.send_group("failing", &["z", "a cat", "a dog"]).await?;
    let good = queue.send_group("good", &["a hen", "a cow", "an owl"]).await?;
    let ledger = consumer.ledger(&queue).await?;

    let head = ledger.record(&failing[0])?;
    ensure!((head.status, head.attempt) == (JobStatus::Failed, 5), "{head:?}");
    ledger.dead(&failing[0])?;
    for message in failing[1..].iter().chain(&good) {
        ensure!(ledger.record(message)?.status == JobStatus::Completed, "{:?}", ledger.record(message)?);
    }
    ledger.in_order(&failing)?;
    ledger.in_order(&good)?;
    let last = ledger.record(&good[good.len() - 1])?;
    ensure!(last.finished_at < head.finished_at, "the other group waited for {head:?}: {last:?}");
    Ok(())
}
