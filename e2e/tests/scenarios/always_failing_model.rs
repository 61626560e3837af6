//! 10,000 messages and a model that fails every one of them: within five minutes one GPU is left that goes on trying, the
//! consumer says why, and once the model is mended the others come by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, eventually, scenario};
use serde_json::json;

const MESSAGES: usize = 10_000;
const WORKERS: i32 = 3;
const LIMIT: Duration = Duration::from_mins(5);

#[tokio::test]
async fn one_goes_on_trying_and_the_others_come_back() {
    scenario("always-failing-model", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let model = lab.spoiled_model().await?;
    queue.flood("a cat", MESSAGES).await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        // what no picture is to show makes NaN of every picture
        .with("/spec/model/parameters/guidance_scale", json!(5))
        .with("/spec/model/parameters/negative_prompt", json!("z"))
        .replicas(0, WORKERS);
    let consumer = lab.apply(&manifest).await?;
    let (began, timeline) = (Instant::now(), consumer.timeline());

    consumer.await_condition("Degraded", "True", "JobsFailing", &["ModelError", "NaN"]).await?;
    consumer.await_ready(1).await?;
    ensure!(began.elapsed() < LIMIT, "one worker is left after {:?}", began.elapsed());
    consumer.await_condition("ScalingActive", "True", "JobsFailing", &["one worker goes on trying"]).await?;
    consumer.await_event("JobsFailing: ", "NaN").await?;
    let counts = timeline.counts();
    let watch = lab.watch_pods();
    let failed = attempts(&consumer).await?;
    eventually("it goes on trying", async || {
        let now = attempts(&consumer).await?;
        ensure!(now > failed + 50, "{now} attempts failed in a row, of which {failed} are old");
        Ok(())
    })
    .await?;
    ensure!(watch.most() == 1 && timeline.counts() == counts, "{counts:?}, then {:?}", timeline.counts());

    consumer.change(json!({ "model": { "parameters": { "negative_prompt": null } } })).await?;
    consumer.await_no_condition("Degraded").await?;
    consumer.await_ready(WORKERS as usize).await?;
    queue.purge().await
}

/// That failed in a row.
async fn attempts(consumer: &Consumer<'_>) -> Result<u64> {
    let pods = consumer.pods().await?;
    let state = consumer.state(pods.first().context("no worker")?).await?;
    Ok(state.failing.context("it does not fail")?.attempts)
}
