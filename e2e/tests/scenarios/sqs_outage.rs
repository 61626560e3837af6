//! SQS is out of reach for longer than a lease: jobs that are held are finished and committed, nobody is scaled away, the
//! consumer says what is wrong, and afterwards nothing is computed again.

use anyhow::{Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, eventually, scenario};
use serde_json::json;

const WORKERS: i32 = 2;
/// Of a lease, in seconds.
const LEASE: i64 = 12;

#[tokio::test]
async fn what_is_held_is_committed_and_nothing_is_computed_twice() {
    scenario("sqs-outage", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 6_000)
        .with("/spec/queue/endpoint", json!(proxy.endpoint()))
        .with("/spec/queue/visibilityTimeoutSeconds", json!(LEASE))
        .replicas(WORKERS, WORKERS);
    let consumer = lab.apply(&manifest).await?;
    let pods = consumer.await_ready(WORKERS as usize).await?;
    consumer.await_condition("QueueAccessible", "True", "AsExpected", &[]).await?;
    let timeline = consumer.timeline();
    let held = queue.send(&["held 1", "held 2"]).await?;
    for message in &held {
        consumer.await_holders(message, 1).await?;
    }

    let outage = proxy.inject(Rule::new(Target::Sqs, Fault::Cut));
    let began = Timestamp::now();
    queue.send(&["later 1", "later 2", "later 3"]).await?;
    let committed = consumer.await_completed(&held).await?;
    consumer.await_condition("QueueAccessible", "False", "QueueUnreachable", &[proxy.endpoint()]).await?;
    eventually("the workers say so, stay ready, and the leases are over", async || {
        for pod in &pods {
            let state = consumer.state(pod).await?;
            ensure!(state.problems.iter().any(|p| p.reason == "QueueUnreachable"), "{:?}", state.problems);
            ensure!(state.ready, "an outage of SQS made it unready");
        }
        let lasted = Timestamp::now().duration_since(began);
        ensure!(lasted > SignedDuration::from_secs(LEASE), "it lasts for {lasted:?}");
        Ok(())
    })
    .await?;
    ensure!(outage.hits() > 0, "there was no outage");
    proxy.mend();

    consumer.await_condition("QueueAccessible", "True", "AsExpected", &[]).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for record in committed {
        ensure!(ledger.etag(&record.content.message_id)? == record.etag, "computed again: {record:?}");
        ensure!(record.content.attempt == 1, "not by the one that held it: {record:?}");
    }
    ensure!(consumer.completed().await? == 5, "5 jobs, and {} completed", consumer.completed().await?);
    ensure!(timeline.counts().iter().all(|count| *count == WORKERS), "scaled: {:?}", timeline.counts());
    Ok(())
}
