//! Uploads take longer than inference, and than a lease: the model goes on with the next jobs meanwhile, leases are
//! renewed, and nothing is lost or received again.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, scenario};
use serde_json::json;

const PROMPTS: usize = 5;
/// Of an upload; an output and a record make two of them.
const UPLOAD: Duration = Duration::from_secs(8);
/// Of a lease, in seconds: less than the two.
const LEASE: u64 = 12;

#[tokio::test]
async fn the_model_goes_on_and_leases_are_renewed() {
    scenario("slow-s3", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("prompts").await?;
    let model = lab.model().await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        .through(&proxy)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(LEASE))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let pod = consumer.await_ready(1).await?.remove(0);
    let slow = proxy.inject(Rule::new(Target::Operation("PutObject"), Fault::Slow(UPLOAD)));
    let prompts: Vec<String> = (0..PROMPTS).map(|n| format!("a snail, number {n}")).collect();
    queue.send(&prompts).await?;
    eventually("the only slot went on to the last job while the first result is put", async || {
        let state = consumer.state(&pod).await?;
        ensure!(state.capacity == 1 && state.jobs.len() == PROMPTS, "{state:?}");
        ensure!(consumer.records().await?.is_empty(), "a record is there");
        Ok(())
    })
    .await?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for (_, record) in ledger.records() {
        ensure!(record.attempt == 1, "received again: {record:?}");
        ensure!(record.timings.upload_seconds >= UPLOAD.as_secs_f64(), "not slow: {record:?}");
    }
    ensure!(slow.hits() == 2 * PROMPTS, "{} slow puts of {PROMPTS} outputs and records", slow.hits());
    ensure!(proxy.calls("ChangeMessageVisibilityBatch") > 0, "no lease was renewed");
    Ok(())
}
