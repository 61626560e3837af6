//! A model in an OCI image, mounted as a volume: one that cannot be had is named as the model's; a new reference is a
//! rollout, and the prompt that waited becomes a picture.

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Lab, Manifest, Picture, scenario};
use serde_json::json;

/// What e2e/kind/load made: the tiny model in a folder of its own.
const IMAGE: &str = concat!("millrace-tiny-model:", env!("CARGO_PKG_VERSION"));
const FOLDER: &str = "tiny-sdxl";
const NOWHERE: &str = "millrace-no-such-model:1";

#[tokio::test]
async fn a_model_in_an_image_is_mounted_and_draws() {
    scenario("image-volume", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let source = json!({ "image": { "reference": NOWHERE, "pullPolicy": "Never", "path": FOLDER } });
    let manifest = Manifest::text_to_image_from(lab, "painter", &queue, &source);
    let consumer = lab.apply(&manifest.with("/spec/worker/gpu/count", json!(0))).await?;
    let message = queue.send(&["a lighthouse in a bottle"]).await?.remove(0);
    let words = [NOWHERE, "spec.model.source.image"];
    consumer.await_condition("WorkersAvailable", "False", "ErrImageNeverPull", &words).await?;
    consumer.await_condition("Ready", "False", "ErrImageNeverPull", &words).await?;

    consumer.change(json!({ "model": { "source": { "image": { "reference": IMAGE } } } })).await?;
    consumer.await_event("RolloutStarted: ", "model").await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    let record = ledger.record(&message)?;
    let model = (record.model.source.as_str(), record.model.revision.as_deref());
    ensure!(model == (format!("image:{IMAGE}/{FOLDER}").as_str(), Some(IMAGE)), "{:?}", record.model);
    let picture = lab.object(&format!("{}{message}.png", consumer.prefix())).await?;
    let decoded = Picture::decode(&picture.body).context("the picture")?;
    ensure!((decoded.width, decoded.height) == (64, 64), "{decoded:?}");
    consumer.await_condition("Ready", "True", "AsExpected", &[]).await?;

    let pod = consumer.pods().await?.pop().context("no worker")?;
    let volumes = pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    let mounted = volumes.into_iter().find_map(|volume| volume.image).context("no image volume")?;
    ensure!(mounted.reference.as_deref() == Some(IMAGE), "{mounted:?}");
    Ok(())
}
