//! A change of the model mid-load replaces every worker and loses nothing; a change of scaling replaces none.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

const PROMPTS: usize = 40;

#[tokio::test]
async fn a_new_model_loses_nothing_and_a_new_scaling_restarts_nobody() {
    scenario("rollout", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let (model, other) = (lab.model().await?, lab.other_model().await?);
    let consumer = lab.apply(&Manifest::text_to_image(lab, "painter", &queue, &model).replicas(2, 2)).await?;
    let before = consumer.await_ready(2).await?;

    let prompts: Vec<String> = (0..PROMPTS).map(|n| format!("a paper boat, number {n}")).collect();
    queue.send(&prompts).await?;
    eventually("some pictures are there", async || {
        let done = consumer.records().await?.len();
        ensure!(done >= 3, "{done}");
        Ok(())
    })
    .await?;
    consumer.change(json!({ "model": { "source": { "s3": { "uri": other.uri() } } } })).await?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    let sources: BTreeSet<&str> = ledger.records().map(|(_, record)| record.model.source.as_str()).collect();
    ensure!(sources == BTreeSet::from([model.uri(), other.uri()]), "not mid-load: {sources:?}");
    let after = consumer.await_ready(2).await?;
    ensure!(uids(&before).is_disjoint(&uids(&after)), "a worker was not replaced");
    consumer.await_event("RolloutStarted: ", "model").await?;
    consumer.await_condition("Ready", "True", "AsExpected", &[]).await?;

    // every field of scaling, with the same count as its result
    let generation = consumer.deployment().await?.metadata.generation;
    let scaling = json!({
        "minReplicas": 1,
        "target": { "messagesPerReplica": 7 },
        "scaleToZeroAfterSeconds": 600,
        "scaleDownStabilizationSeconds": 3600,
    });
    consumer.change(json!({ "scaling": scaling })).await?;
    ensure!(consumer.deployment().await?.metadata.generation == generation, "the Deployment's spec was changed");
    ensure!(uids(&consumer.pods().await?) == uids(&after), "a worker was replaced");

    // one worker fewer: the other stays, and is of the same template
    consumer.change(json!({ "scaling": { "maxReplicas": 1 } })).await?;
    let left = consumer.await_ready(1).await?;
    ensure!(uids(&left).is_subset(&uids(&after)), "the worker was replaced");
    let hash = |pod: &Pod| pod.labels().get("pod-template-hash").cloned().context("no pod-template-hash");
    ensure!(hash(&left[0])? == hash(&after[0])?, "another template");
    Ok(())
}

fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect()
}
