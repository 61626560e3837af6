//! `kill -9` for a worker in the middle of its jobs: after the lease another does them, once. On the last allowed receive
//! there is no other: the message goes to the dead-letter queue without a record.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

/// Long enough that a job which has just begun cannot be done before its worker is killed.
const MILLISECONDS: u64 = 20_000;

#[tokio::test]
async fn another_does_the_job_once() {
    scenario("worker-killed", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(async { Box::pin(mid_job(lab)).await.context("in the middle of its jobs") }, async {
        Box::pin(on_the_last_receive(lab)).await.context("on the last receive")
    },)?;
    Ok(())
}

async fn mid_job(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, MILLISECONDS)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(12))
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(2).await?;
    let jobs: Vec<String> = (0..6).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;

    let victim = &pods[0];
    let held = eventually("a worker has just begun its jobs", async || {
        let jobs = consumer.state(victim).await?.jobs;
        let young = |started: &str| -> Result<bool> {
            Ok(Timestamp::now().duration_since(started.parse()?) < SignedDuration::from_secs(5))
        };
        ensure!(jobs.len() == 2, "it holds {} jobs", jobs.len());
        for job in &jobs {
            ensure!(young(&job.started_at)?, "job {} began at {}", job.job_id, job.started_at);
        }
        Ok(jobs.into_iter().map(|job| job.message_id).collect::<BTreeSet<_>>())
    })
    .await?;
    lab.kill(victim)?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for (_, record) in ledger.records() {
        let attempts = if held.contains(&record.message_id) { 2 } else { 1 };
        ensure!(record.attempt == attempts, "message {}: attempt {}", record.message_id, record.attempt);
    }
    let pods = consumer.await_ready(2).await?;
    let restarts =
        pods.iter().filter_map(|p| Some(p.status.as_ref()?.container_statuses.as_ref()?.first()?.restart_count));
    ensure!(restarts.sum::<i32>() == 1, "the kill killed nobody, or more than one");
    Ok(())
}

async fn on_the_last_receive(lab: &Lab) -> Result<()> {
    let queue = lab.queue_with_receives("once", 1).await?;
    let manifest = Manifest::echo(lab, "once", &queue, MILLISECONDS)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(10))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(1).await?;
    let killed = queue.send(&["a moth"]).await?;
    let pod = consumer.await_holders(&killed[0], 1).await?.remove(0);
    lab.kill(&pod)?;
    let after = queue.send(&[r#"{"milliseconds":10}"#]).await?;
    let ledger = consumer.ledger_except(&queue, &killed).await?;
    ensure!(ledger.record(&killed[0]).is_err(), "it was done nevertheless");
    ensure!(ledger.dead(&killed[0])?.body == "a moth" && ledger.record(&after[0])?.attempt == 1, "{ledger:?}");
    Ok(())
}
