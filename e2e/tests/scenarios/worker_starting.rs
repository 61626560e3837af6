//! A worker is told to stop while it starts: it goes, rather than work on until its grace period is over.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use millrace_e2e::{Lab, Manifest, eventually, name_of, scenario};
use serde_json::json;

#[tokio::test]
async fn told_to_stop_as_it_starts_it_stops() {
    scenario("worker-starting", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 10)
        .with("/spec/worker/gpu/count", json!(0))
        // far more than this test waits
        .with("/spec/worker/terminationGracePeriodSeconds", json!(3600))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let mut stopped = BTreeSet::new();
    for _ in 0..3 {
        let pod = eventually("a worker is being started", async || {
            let pods = consumer.pods().await?;
            let new = pods.into_iter().find(|pod| {
                let on_a_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
                on_a_node && pod.metadata.deletion_timestamp.is_none()
            });
            new.context("no new pod on a node")
        })
        .await?;
        lab.api::<Pod>().delete(&name_of(&pod), &DeleteParams::default()).await?;
        stopped.insert(name_of(&pod));
    }
    eventually("they are gone, and another is ready", async || {
        let pods = consumer.pods().await?;
        let left: Vec<String> = pods.iter().map(name_of).filter(|name| stopped.contains(name)).collect();
        ensure!(left.is_empty(), "{left:?} are still there");
        Ok(())
    })
    .await?;
    consumer.await_ready(1).await?;
    Ok(())
}
