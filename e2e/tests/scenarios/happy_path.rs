//! 50 plain-text prompts land on an idle consumer: workers come, each prompt gives one picture, workers go.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use millrace_e2e::{Consumer, Lab, Manifest, Picture, Timeline, eventually, scenario};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const PROMPTS: usize = 50;
const WORKERS: i32 = 3;

#[tokio::test]
async fn fifty_prompts_become_fifty_pictures() {
    scenario("happy-path", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let model = lab.model().await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        .with("/spec/output/keyTemplate", json!("image_{message_id}.{extension}"))
        .with("/spec/scaling/target", json!({ "messagesPerReplica": 20 }))
        .replicas(0, WORKERS);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_condition("QueueAccessible", "True", "AsExpected", &[]).await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    let timeline = consumer.timeline();
    eventually("the idle consumer has a Deployment without workers", async || {
        ensure!(timeline.counts() == [0], "{:?}", timeline.counts());
        Ok(())
    })
    .await?;

    let prompts: Vec<String> = (0..PROMPTS).map(|n| format!("a lighthouse on cliff {n}, à l'aube")).collect();
    let messages = queue.send(&prompts).await?;
    gpus_are_asked_for(&consumer).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;

    for (message, prompt) in messages.iter().zip(&prompts) {
        let record = ledger.record(message)?;
        ensure!((record.attempt, record.form.as_str(), record.job_id == *message) == (1, "text", true), "{record:?}");
        let key = format!("{}image_{message}.png", consumer.prefix());
        let picture = lab.object(&key).await?;
        ensure!(picture.content_type == "image/png", "{key} is {}", picture.content_type);
        let [output] = record.outputs.as_slice() else { anyhow::bail!("not one output: {record:?}") };
        ensure!(output.uri == format!("s3://{}/{key}", lab.name), "{}", output.uri);
        ensure!(output.sha256 == hex::encode(Sha256::digest(&picture.body)), "{key} is not what its record says");
        let decoded = Picture::decode(&picture.body).with_context(|| key.clone())?;
        ensure!((decoded.width, decoded.height) == (64, 64), "{key}: {decoded:?}");
        ensure!(decoded.parameters["prompt"] == json!(prompt), "{key}: {decoded:?}");
    }
    let keys = lab.keys(&consumer.prefix()).await?;
    let pictures = keys.iter().filter(|key| key.rsplit('.').next() == Some("png")).count();
    ensure!(pictures == PROMPTS, "{pictures} pictures");

    back_to_zero(&consumer, &timeline).await?;
    told_in_order(&consumer, &timeline).await?;
    decisions_are_measured(lab).await
}

/// Each worker holds a GPU of the node.
async fn gpus_are_asked_for(consumer: &Consumer<'_>) -> Result<()> {
    let pods = eventually(format!("{WORKERS} workers are there"), async || {
        let pods = consumer.pods().await?;
        ensure!(pods.len() == WORKERS as usize, "{} pods", pods.len());
        Ok(pods)
    })
    .await?;
    let one = Some(Quantity("1".into()));
    for pod in pods {
        let resources = pod.spec.and_then(|s| s.containers.into_iter().next()?.resources).context("no resources")?;
        let gpus = |amounts: Option<std::collections::BTreeMap<String, Quantity>>| amounts?.remove("nvidia.com/gpu");
        ensure!(gpus(resources.requests) == one && gpus(resources.limits) == one, "the pod asks for no GPU");
    }
    Ok(())
}

async fn back_to_zero(consumer: &Consumer<'_>, timeline: &Timeline) -> Result<()> {
    eventually("the workers are gone", async || {
        ensure!(timeline.counts().last() == Some(&0), "worker counts {:?}", timeline.counts());
        let pods = consumer.pods().await?.len();
        ensure!(pods == 0, "{pods} pods");
        Ok(())
    })
    .await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    let counts = timeline.counts();
    ensure!(counts.iter().max() == Some(&WORKERS), "worker counts {counts:?}");
    Ok(())
}

/// `kubectl describe` explains each change of the count, and each went to the rule's answer in one write.
async fn told_in_order(consumer: &Consumer<'_>, timeline: &Timeline) -> Result<()> {
    consumer.await_event("Scaled: ", "to 0 workers").await?;
    let events = consumer.events().await?;
    let counts = timeline.counts();
    let mut last = None;
    for step in counts.windows(2) {
        let (from, to) = (step[0], step[1]);
        let told = format!("Scaled: Scaled from {from} to {to} workers: ");
        let at = events.iter().position(|event| event.starts_with(&told));
        let at = at.with_context(|| format!("no Event {told:?} in {events:#?}"))?;
        ensure!(last < Some(at), "Events in another order than {counts:?}: {events:#?}");
        last = Some(at);
        if to > from {
            ensure!(events[at].contains(&format!("in flight) / 20 = {to}")), "not the rule's answer: {}", events[at]);
        }
    }
    let scale = consumer.status().await?.last_scale.context("no lastScale")?;
    ensure!((scale.to, scale.reason.as_str()) == (0, "QueueEmpty"), "{scale:?}");
    Ok(())
}

/// From reading the queue to the accepted patch is measured, over all changes of this run that a reading led to at once.
async fn decisions_are_measured(lab: &Lab) -> Result<()> {
    let operator = lab.operator();
    let count = operator.metric("millrace_scale_latency_seconds_count").await?;
    let sum = operator.metric("millrace_scale_latency_seconds_sum").await?;
    ensure!(count >= 1.0, "no change was measured");
    // how quick they are is no matter for a test on a machine that does other things too
    eprintln!("from reading the queue to the accepted count: {sum:.3} s for {count} changes");
    Ok(())
}
