//! `kill -9` for a worker in the middle of its jobs: after the lease another does them, once.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
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
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, MILLISECONDS)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(12))
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(2).await?;
    let jobs: Vec<String> = (0..6).map(|n| format!("job {n}")).collect();
    let messages = queue.send(&jobs).await?;

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

    let records = consumer.await_completed(&messages).await?;
    queue.await_empty().await?;
    ensure!(queue.dead().await? == 0, "messages are in the dead-letter queue");
    for record in &records {
        let record = &record.content;
        let attempts = if held.contains(&record.message_id) { 2 } else { 1 };
        ensure!(record.attempt == attempts, "message {}: attempt {}", record.message_id, record.attempt);
    }
    let pods = consumer.await_ready(2).await?;
    let restarts =
        pods.iter().filter_map(|p| Some(p.status.as_ref()?.container_statuses.as_ref()?.first()?.restart_count));
    ensure!(restarts.sum::<i32>() == 1, "the kill killed nobody, or more than one");
    Ok(())
}
