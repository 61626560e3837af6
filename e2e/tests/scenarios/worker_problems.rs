//! Workers that cannot start: the consumer names what is wrong and what to do, and recovers once it is mended.

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, eventually, scenario};
use serde_json::{Value, json};

#[tokio::test]
async fn each_names_the_thing_and_the_fix() {
    scenario("worker-problems", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(
        async { missing_bucket(lab).await.context("missing bucket") },
        async { corrupt_model(lab).await.context("corrupt model") },
        async { unreachable_endpoint(lab).await.context("unreachable endpoint") },
        async { missing_credentials(lab).await.context("missing credentials") },
        async { unreachable_queue(lab).await.context("unreachable queue") },
        async { bad_image(lab).await.context("bad image") },
        async { unschedulable(lab).await.context("unschedulable") },
    )?;
    Ok(())
}

/// One worker without a GPU, since only a few are there.
fn on_cpu(manifest: Manifest) -> Manifest {
    manifest.with("/spec/worker/gpu/count", json!(0)).replicas(1, 1)
}

/// The worker is up, not ready, and every place that a user looks at says the same.
async fn reported(consumer: &Consumer<'_>, reason: &str, words: &[&str]) -> Result<()> {
    consumer.await_condition("Ready", "False", reason, words).await?;
    consumer.await_condition("WorkersAvailable", "False", reason, words).await?;
    consumer.await_condition("Degraded", "True", reason, words).await?;
    consumer.await_event(&format!("{reason}: "), words[0]).await?;
    eventually("the worker says so itself", async || {
        let pods = consumer.pods().await?;
        let state = consumer.state(&pods[0]).await?;
        ensure!(!state.ready && state.problems.iter().any(|p| p.reason == reason), "{state:?}");
        let container = pods[0].status.as_ref().and_then(|s| s.container_statuses.as_ref()?.first());
        ensure!(container.is_some_and(|c| c.restart_count == 0 && !c.ready), "{container:?}");
        Ok(())
    })
    .await
}

async fn recovered(consumer: &Consumer<'_>) -> Result<()> {
    consumer.await_ready(1).await?;
    consumer.await_condition("Ready", "True", "AsExpected", &[]).await?;
    consumer.await_no_condition("Degraded").await
}

async fn missing_bucket(lab: &Lab) -> Result<()> {
    let queue = lab.queue("no-bucket").await?;
    let bucket = format!("{}-results", lab.name);
    let manifest =
        Manifest::echo(lab, "no-bucket", &queue, 10).with("/spec/output/bucket", json!(bucket)).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    reported(&consumer, "BucketNotFound", &[&bucket, "create it"]).await?;
    lab.create_bucket(&bucket).await?;
    recovered(&consumer).await
}

async fn corrupt_model(lab: &Lab) -> Result<()> {
    let queue = lab.queue("corrupt").await?;
    let model = lab.model().await?;
    let whole = lab.model_folder()?;
    let file = whole.path().join("unet/diffusion_pytorch_model.safetensors");
    let weights = std::fs::read(&file)?;
    std::fs::write(&file, &weights[..weights.len() / 2])?;
    lab.upload_folder(&lab.name, "corrupt/", whole.path()).await?;
    let uri = format!("s3://{}/corrupt/", lab.name);
    let manifest = Manifest::text_to_image(lab, "corrupt", &queue, &model);
    let manifest = manifest.with("/spec/model/source/s3/uri", json!(uri)).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    reported(&consumer, "ModelCorrupt", &["unet/diffusion_pytorch_model.safetensors"]).await?;
    std::fs::write(&file, &weights)?;
    lab.upload(&lab.name, "corrupt/unet/diffusion_pytorch_model.safetensors", &file).await?;
    recovered(&consumer).await
}

async fn unreachable_endpoint(lab: &Lab) -> Result<()> {
    let queue = lab.queue("nobody").await?;
    let nobody = json!("http://127.0.0.1:9");
    let manifest = on_cpu(Manifest::echo(lab, "nobody", &queue, 10)).with("/spec/output/endpoint", nobody);
    let consumer = lab.apply(&manifest).await?;
    reported(&consumer, "BucketUnreachable", &[&lab.name, "check output.endpoint"]).await
}

async fn missing_credentials(lab: &Lab) -> Result<()> {
    let queue = lab.queue("anonymous").await?;
    let manifest = on_cpu(Manifest::echo(lab, "anonymous", &queue, 10)).with("/spec/worker/envFrom", Value::Null);
    let consumer = lab.apply(&manifest).await?;
    reported(&consumer, "CredentialsMissing", &["ServiceAccount", "role"]).await
}

/// Here it is the operator that cannot work: no worker is started.
async fn unreachable_queue(lab: &Lab) -> Result<()> {
    let queue = lab.queue("away").await?;
    let nobody = json!("http://127.0.0.1:9");
    let manifest = Manifest::echo(lab, "away", &queue, 10).with("/spec/queue/endpoint", nobody);
    let consumer = lab.apply(&manifest.with("/spec/worker/gpu/count", json!(0))).await?;
    let words = [queue.name(), "http://127.0.0.1:9", "spec.queue.endpoint"];
    consumer.await_condition("QueueAccessible", "False", "QueueUnreachable", &words).await?;
    consumer.await_condition("Ready", "False", "QueueUnreachable", &words).await?;
    ensure!(consumer.pods().await?.is_empty(), "a worker was started");
    Ok(())
}

async fn bad_image(lab: &Lab) -> Result<()> {
    let queue = lab.queue("typo").await?;
    let image = "registry.invalid/millrace-worker:typo";
    let manifest = on_cpu(Manifest::echo(lab, "typo", &queue, 10)).with("/spec/worker/image", json!(image));
    let consumer = lab.apply(&manifest).await?;
    consumer.await_condition("WorkersAvailable", "False", "ImagePullBackOff", &[image]).await?;
    consumer.await_condition("Ready", "False", "ImagePullBackOff", &[image]).await?;
    Ok(())
}

async fn unschedulable(lab: &Lab) -> Result<()> {
    let queue = lab.queue("elsewhere").await?;
    let gpu = json!({ "count": 1, "resourceName": "example.com/none" });
    let manifest = Manifest::echo(lab, "elsewhere", &queue, 10).with("/spec/worker/gpu", gpu).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let words = ["Insufficient example.com/none"];
    consumer.await_condition("WorkersAvailable", "False", "Unschedulable", &words).await?;
    consumer.await_condition("Ready", "False", "Unschedulable", &words).await?;
    Ok(())
}
