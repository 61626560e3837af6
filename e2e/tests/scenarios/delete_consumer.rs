//! A QueueConsumer is deleted mid-load: what its workers hold is finished, the rest stays in the queue.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use millrace_api::QueueConsumer;
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

const JOBS: usize = 20;

#[tokio::test]
async fn what_is_held_is_finished_and_the_rest_stays() {
    scenario("delete-consumer", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 10_000).with("/spec/model/batch", json!({ "maxSize": 2 }));
    let consumer = lab.apply(&manifest.replicas(2, 2)).await?;
    consumer.await_ready(2).await?;
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    let sent = queue.send(&jobs).await?;
    let held = eventually("both workers are at work", async || {
        let mut held = BTreeSet::new();
        for pod in consumer.pods().await? {
            held.extend(consumer.state(&pod).await?.jobs.into_iter().map(|job| job.message_id));
        }
        ensure!(held.len() == 4, "{} jobs are held", held.len());
        Ok(held)
    })
    .await?;
    consumer.delete().await?;

    eventually("nothing of it is left", async || {
        ensure!(lab.api::<QueueConsumer>().get_opt("echo").await?.is_none(), "the QueueConsumer is");
        ensure!(lab.api::<Deployment>().get_opt("echo").await?.is_none(), "the Deployment is");
        ensure!(lab.api::<ConfigMap>().get_opt("echo").await?.is_none(), "the ConfigMap is");
        ensure!(lab.api::<ServiceAccount>().get_opt("echo").await?.is_none(), "the ServiceAccount is");
        ensure!(lab.api::<PodDisruptionBudget>().get_opt("echo").await?.is_none(), "the PodDisruptionBudget is");
        let pods = consumer.pods().await?.len();
        ensure!(pods == 0, "{pods} pods are");
        Ok(())
    })
    .await?;

    let records = consumer.records().await?;
    let done: BTreeSet<String> =
        records.iter().filter(|r| r.is_completed()).map(|r| r.content.message_id.clone()).collect();
    ensure!(done.len() == records.len(), "some are not COMPLETED, or twice: {records:?}");
    ensure!(held.is_subset(&done), "held and not finished: {:?}", held.difference(&done));
    ensure!(done.iter().all(|id| sent.contains(id)), "records of other messages: {done:?}");
    ensure!(done.len() < JOBS, "it was not mid-load");
    let left = i64::try_from(JOBS - done.len())?;
    eventually(format!("the other {left} messages wait in the queue"), async || {
        let counts = queue.counts().await?;
        ensure!((counts.visible, counts.in_flight) == (left, 0), "{counts:?}");
        Ok(())
    })
    .await?;
    ensure!(queue.dead().await? == 0, "messages are in the dead-letter queue");
    Ok(())
}
