//! S3 is out of reach for longer than a lease: jobs are still computed, their results wait, and once S3 is back each is
//! put without being computed again. Meanwhile the consumer says what is wrong.

use anyhow::{Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, scenario};
use serde_json::json;

const JOBS: usize = 6;
/// Of a lease, in seconds.
const LEASE: i64 = 12;

#[tokio::test]
async fn results_wait_and_nothing_is_computed_twice() {
    scenario("s3-outage", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 500)
        .with("/spec/output/endpoint", json!(proxy.endpoint()))
        .with("/spec/queue/visibilityTimeoutSeconds", json!(LEASE))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let pod = consumer.await_ready(1).await?.remove(0);
    consumer.await_condition("Ready", "True", "AsExpected", &[]).await?;

    let outage = proxy.inject(Rule::new(Target::S3, Fault::Cut));
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;
    // one at a time is computed: that all are held means that all but one wait for S3
    eventually("all jobs are held, by leases that were renewed", async || {
        let state = consumer.state(&pod).await?;
        ensure!(state.jobs.len() == JOBS, "{} jobs are held", state.jobs.len());
        for job in &state.jobs {
            let (from, to): (Timestamp, Timestamp) = (job.started_at.parse()?, job.lease_expires_at.parse()?);
            ensure!(to.duration_since(from) > SignedDuration::from_secs(LEASE + 1), "not renewed: {job:?}");
        }
        ensure!(state.ready, "an outage of S3 made it unready");
        Ok(())
    })
    .await?;
    let words = [lab.name.as_str(), "check output.endpoint"];
    consumer.await_condition("Degraded", "True", "BucketUnreachable", &words).await?;
    ensure!(outage.hits() > 0, "there was no outage");
    ensure!(consumer.records().await?.is_empty(), "there are records");
    proxy.mend();

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for (_, record) in ledger.records() {
        ensure!(record.attempt == 1, "received again: {record:?}");
    }
    ensure!(consumer.completed().await? == JOBS as u64, "{} jobs were completed", consumer.completed().await?);
    consumer.await_no_condition("Degraded").await
}
