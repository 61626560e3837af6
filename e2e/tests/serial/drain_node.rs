//! `kubectl drain` for a node with a worker in the middle of its jobs: it finishes them or gives them back, and its
//! replacement works on the other node.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Lab, Manifest, eventually, node_of, scenario};
use serde_json::json;
use tokio::process::Command;

const JOBS: usize = 40;

#[tokio::test]
async fn jobs_are_finished_or_done_elsewhere() {
    scenario("drain-node", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 1_500)
        // what is not given back is missed
        .with("/spec/queue/visibilityTimeoutSeconds", json!(900))
        .spread()
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(2).await?;
    let nodes: BTreeSet<&str> = pods.iter().filter_map(node_of).collect();
    ensure!(nodes.len() == 2, "both workers are on {nodes:?}");
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;
    let (drained, stays) = (node_of(&pods[0]).context("no node")?, node_of(&pods[1]).context("no node")?);
    eventually("both are at work", async || {
        for pod in &pods {
            let state = consumer.state(pod).await?;
            ensure!(state.completed > 0 && !state.jobs.is_empty(), "{state:?}");
        }
        Ok(())
    })
    .await?;

    let ended = drain(drained).await;
    let result = async {
        ended?;
        let now = consumer.await_ready(2).await?;
        ensure!(now.iter().all(|pod| node_of(pod) == Some(stays)), "a worker is on {drained}");
        let done = consumer.records().await?.len();
        ensure!(done < JOBS, "it was not mid-load");
        let ledger = consumer.ledger(&queue).await?;
        ledger.all_completed()?;
        for (_, record) in ledger.records() {
            ensure!(record.attempt == 1, "its jobs fit the grace period: {record:?}");
        }
        Ok(())
    }
    .await;
    // whatever became of the scenario: others need the node
    lab.free(drained).await?;
    result
}

/// Not by the API: what drains a node in real life is this command, or asks as it does.
async fn drain(node: &str) -> Result<()> {
    let mut drain = Command::new("kubectl");
    drain.args(["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s"]);
    let output = drain.stdin(Stdio::null()).kill_on_drop(true).output().await.context("kubectl")?;
    ensure!(output.status.success(), "{drain:?}: {}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
