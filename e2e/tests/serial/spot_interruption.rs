//! A node is about to be interrupted: its worker in the middle of a job is drained at once, finishes it, and is replaced on
//! the other node. While they were at work both were protected against consolidation, and that one no longer is.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use millrace_e2e::{Consumer, Lab, Manifest, PodWatch, eventually, name_of, node_of, scenario};
use serde_json::json;

const JOBS: usize = 8;
/// Long enough to see what becomes of a worker in the middle of one.
const MILLISECONDS: u64 = 15_000;
const PROTECTION: [(&str, &str); 2] =
    [("karpenter.sh/do-not-disrupt", "true"), ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false")];

#[tokio::test]
async fn its_worker_is_drained_and_replaced_elsewhere() {
    scenario("spot-interruption", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, MILLISECONDS)
        // what is not given back is missed
        .with("/spec/queue/visibilityTimeoutSeconds", json!(900))
        .spread()
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(2).await?;
    let (leaves, stays) = (node_of(&pods[0]).context("no node")?, node_of(&pods[1]).context("no node")?);
    ensure!(leaves != stays, "both workers are on {leaves}");
    let idle = pods.iter().filter(|pod| is_protected(pod)).map(name_of).collect::<Vec<_>>();
    ensure!(idle.is_empty(), "idle and protected: {idle:?}");
    let watch = lab.watch_pods();
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;
    eventually("both are at work and protected", async || {
        for pod in consumer.pods().await? {
            ensure!(!consumer.state(&pod).await?.jobs.is_empty(), "{} has no job", name_of(&pod));
            ensure!(is_protected(&pod), "{} is not protected: {:?}", name_of(&pod), pod.annotations());
        }
        Ok(())
    })
    .await?;

    lab.taint(leaves, "karpenter.sh/disrupted").await?;
    let result = drained_and_replaced(&consumer, &watch, &pods[0], stays).await;
    // whatever became of the scenario: others need the node
    lab.free(leaves).await?;
    result?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for (_, record) in ledger.records() {
        ensure!(record.attempt == 1, "its job had all the time that it needed: {record:?}");
    }
    Ok(())
}

async fn drained_and_replaced(consumer: &Consumer<'_>, watch: &PodWatch, victim: &Pod, stays: &str) -> Result<()> {
    let name = name_of(victim);
    eventually("it drains in the middle of its job, unprotected", async || {
        let now = consumer.pods().await?.into_iter().find(|pod| name_of(pod) == name).context("it is gone")?;
        let state = consumer.state(&now).await?;
        ensure!(state.draining && !state.jobs.is_empty(), "{state:?}");
        ensure!(PROTECTION.iter().all(|(key, _)| !now.annotations().contains_key(*key)), "{:?}", now.annotations());
        Ok(())
    })
    .await?;
    eventually("both workers are on the other node", async || {
        let pods = consumer.pods().await?;
        let nodes: Vec<Option<&str>> = pods.iter().map(node_of).collect();
        ensure!(nodes == [Some(stays); 2], "workers are on {nodes:?}");
        Ok(())
    })
    .await?;
    consumer.await_ready(2).await?;
    let gone = watch.deletions().into_iter().find(|gone| name_of(&gone.pod) == name).context("it was not deleted")?;
    for record in consumer.records().await?.into_iter().filter(|record| record.content.worker == name) {
        let finished = record.content.finished_at.parse()?;
        ensure!(gone.at >= finished, "deleted at {} in the middle of a job: {record:?}", gone.at);
    }
    Ok(())
}

fn is_protected(pod: &Pod) -> bool {
    PROTECTION.iter().all(|(key, value)| pod.annotations().get(*key).is_some_and(|found| found == value))
}
