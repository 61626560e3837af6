//! A message is delivered more than once, as SQS may: to two workers at a time, after its job was done, and because its
//! deletion never arrived. Each job has one record, and one that is done is not computed again.

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, scenario};
use serde_json::json;

#[tokio::test]
async fn one_record_however_often_it_is_delivered() {
    scenario("duplicate-delivery", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(
        async { to_two_at_a_time(lab).await.context("to two workers at a time") },
        async { after_it_was_done(lab).await.context("after it was done") },
        async { its_deletion_lost(lab).await.context("its deletion lost") },
    )?;
    Ok(())
}

/// The very same delivery, to another worker as well: both compute, one commits.
async fn to_two_at_a_time(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("twice").await?;
    let manifest = Manifest::echo(lab, "twice", &queue, 8_000).through(&proxy).replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(2).await?;
    let message = queue.send(&["a cat"]).await?.remove(0);
    consumer.await_holders(&message, 1).await?;
    let replay = proxy.inject(Rule::new(Target::Operation("ReceiveMessage"), Fault::Replay).once());
    consumer.await_holders(&message, 2).await?;
    ensure!(replay.hits() == 1, "delivered {} times more", replay.hits());

    let first = consumer.await_completed(std::slice::from_ref(&message)).await?.remove(0);
    eventually("neither worker holds it", async || {
        let holders = consumer.holders(&message).await?.len();
        ensure!(holders == 0, "{holders} do");
        Ok(())
    })
    .await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    ensure!(ledger.etag(&message)? == first.etag, "the record was written twice");
    ensure!(consumer.completed().await? == 1, "{} say that they completed it", consumer.completed().await?);
    Ok(())
}

/// The producer sends its job again.
async fn after_it_was_done(lab: &Lab) -> Result<()> {
    let queue = lab.queue("again").await?;
    let manifest = Manifest::echo(lab, "again", &queue, 10).with("/spec/worker/gpu/count", json!(0));
    let consumer = lab.apply(&manifest.replicas(1, 1)).await?;
    consumer.await_ready(1).await?;
    let job = r#"{"job_id":"order-7","input":"a dog"}"#;
    let first = queue.send(&[job]).await?.remove(0);
    let done = consumer.await_completed(&[first]).await?.remove(0);
    let more = queue.send(&[job, job, job]).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for message in &more {
        ensure!(ledger.etag(message)? == done.etag, "the record was written again");
    }
    ensure!(consumer.completed().await? == 1, "computed {} times", consumer.completed().await?);
    Ok(())
}

/// The record is there and SQS does not hear that the message may go: it comes again, and goes then.
async fn its_deletion_lost(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("lost").await?;
    let manifest = Manifest::echo(lab, "lost", &queue, 10)
        .through(&proxy)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(10))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(1).await?;
    let lost = proxy.inject(Rule::new(Target::Operation("DeleteMessageBatch"), Fault::Cut));
    let message = queue.send(&["a hen"]).await?.remove(0);
    let done = consumer.await_completed(std::slice::from_ref(&message)).await?.remove(0);
    eventually("the message comes again", async || {
        let receives = proxy.handles(&message).len();
        ensure!(receives > 1, "received {receives} times");
        Ok(())
    })
    .await?;
    ensure!(lost.hits() > 0, "no deletion was lost");
    proxy.mend();
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    ensure!(ledger.etag(&message)? == done.etag, "the record was written again");
    ensure!(consumer.completed().await? == 1, "computed {} times", consumer.completed().await?);
    Ok(())
}
