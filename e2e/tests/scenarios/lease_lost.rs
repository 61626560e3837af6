//! SQS takes a message away from the worker that works on it: that one gives its work up and commits nothing, the one that
//! has the message now does.

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, name_of, scenario};
use serde_json::json;

#[tokio::test]
async fn the_loser_commits_nothing() {
    scenario("lease-lost", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 25_000)
        .through(&proxy)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(12))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(2).await?;
    let message = queue.send(&["a cat"]).await?.remove(0);
    let loser = consumer.await_holders(&message, 1).await?.remove(0);

    // only the other has a free slot; LocalStack would go on taking the old handle, AWS would not
    let handle = proxy.handles(&message).pop().context("the proxy saw no receive")?;
    let stale =
        proxy.inject(Rule::new(Target::Operation("ChangeMessageVisibilityBatch"), Fault::StaleHandle(handle.clone())));
    queue.show(&handle).await?;
    eventually("only the other holds it", async || {
        let holders: Vec<String> = consumer.holders(&message).await?.iter().map(name_of).collect();
        ensure!(holders.len() == 1 && holders[0] != name_of(&loser), "held by {holders:?}");
        Ok(())
    })
    .await?;
    ensure!(stale.hits() == 1, "{} heartbeats with the stale handle", stale.hits());
    ensure!(consumer.records().await?.is_empty(), "the loser committed");

    // the loser is at work again
    queue.send(&[r#"{"milliseconds":10}"#]).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    let record = ledger.record(&message)?;
    ensure!(record.attempt == 2 && record.worker != name_of(&loser), "not by the winner: {record:?}");
    ensure!(consumer.state(&loser).await?.completed == 1, "the loser did not go on");
    Ok(())
}
