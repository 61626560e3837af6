//! Workers are told to stop (SIGTERM): what fits the grace period is finished, the rest is given back at once for another
//! to do. A lease here outlasts the scenario, so whatever is not given back is missed.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use millrace_api::ResultRecord;
use millrace_e2e::{Consumer, Lab, Manifest, eventually, name_of, scenario};
use serde_json::{Value, json};

#[tokio::test]
async fn what_fits_is_finished_and_the_rest_is_given_back() {
    scenario("worker-terminated", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(async { Box::pin(at_work(lab)).await.context("a worker with jobs") }, async {
        Box::pin(at_its_poll(lab)).await.context("a worker that polls")
    },)?;
    Ok(())
}

fn long_lease(manifest: Manifest) -> Manifest {
    manifest.with("/spec/queue/visibilityTimeoutSeconds", json!(900)).with("/spec/worker/gpu/count", json!(0))
}

async fn at_work(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = long_lease(Manifest::echo(lab, "busy", &queue, 10))
        // 15 seconds of these are for jobs
        .with("/spec/worker/terminationGracePeriodSeconds", json!(30))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let stopped = consumer.await_ready(2).await?;
    let sent = queue.send(&[job(8), job(25)]).await?;
    let [fits, does_not] = [&sent[0], &sent[1]];
    consumer.await_holders(does_not, 1).await?;
    let quick = consumer.await_holders(fits, 1).await?.remove(0);
    for pod in &stopped {
        stop(&consumer, pod).await?;
    }
    let after = queue.send(&[job(0)]).await?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    let (fits, does_not, after) = (ledger.record(fits)?, ledger.record(does_not)?, ledger.record(&after[0])?);
    let by_stopped = |record: &ResultRecord| stopped.iter().any(|pod| name_of(pod) == record.worker);
    ensure!((fits.attempt, &fits.worker) == (1, &name_of(&quick)), "not finished in the grace period: {fits:?}");
    ensure!(does_not.attempt == 2 && !by_stopped(does_not), "not given back: {does_not:?}");
    ensure!(after.attempt == 1 && !by_stopped(after), "received by one that stops: {after:?}");
    Ok(())
}

async fn at_its_poll(lab: &Lab) -> Result<()> {
    let queue = lab.queue("nothing").await?;
    let consumer = lab.apply(&long_lease(Manifest::echo(lab, "idle", &queue, 10)).replicas(2, 2)).await?;
    let stopped = consumer.await_ready(2).await?.remove(0);
    stop(&consumer, &stopped).await?;
    // its last poll may be under way still, and catch some of these
    queue.send(&[job(0), job(0), job(0), job(0)]).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    let stopped = name_of(&stopped);
    for (_, record) in ledger.records() {
        ensure!(record.worker != stopped && record.attempt <= 2, "done by one that stops: {record:?}");
    }
    Ok(())
}

fn job(seconds: u64) -> String {
    Value::to_string(&json!({ "milliseconds": seconds * 1000 }))
}

/// Deletes a worker's pod, and waits until the worker knows.
async fn stop(consumer: &Consumer<'_>, pod: &Pod) -> Result<()> {
    consumer.lab().api::<Pod>().delete(&name_of(pod), &DeleteParams::default()).await?;
    eventually("it is stopping, or gone", async || {
        let there = consumer.pods().await?.iter().any(|other| other.metadata.uid == pod.metadata.uid);
        ensure!(!there || consumer.state(pod).await?.draining, "it is not stopping yet");
        Ok(())
    })
    .await
}
