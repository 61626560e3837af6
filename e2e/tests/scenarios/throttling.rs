//! SQS and S3 both ask for fewer calls, two times out of three: jobs take longer, and each is done once.

use anyhow::{Result, ensure};
use millrace_e2e::{Fault, Lab, Manifest, Rule, Target, scenario};
use serde_json::{Value, json};

/// Every one that a worker makes of a job, in the order in which it makes them.
const OPERATIONS: [&str; 4] = ["ReceiveMessage", "ChangeMessageVisibilityBatch", "PutObject", "DeleteMessageBatch"];

#[tokio::test]
async fn jobs_take_longer_and_are_done_once() {
    scenario("throttling", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let proxy = lab.proxy().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 100)
        .through(&proxy)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(30))
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(2).await?;
    let rules = OPERATIONS.map(|name| {
        let rule = Rule::new(Target::Operation(name), Fault::Throttled);
        proxy.inject(rule.share(2, 3))
    });

    // the first needs its lease renewed
    let mut jobs = vec![Value::to_string(&json!({ "milliseconds": 20_000 }))];
    jobs.extend((1..20).map(|n| format!("job {n}")));
    queue.send(&jobs).await?;
    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    for (_, record) in ledger.records() {
        ensure!(record.attempt == 1, "received again: {record:?}");
    }
    for (name, rule) in OPERATIONS.iter().zip(&rules) {
        ensure!(rule.hits() > 0, "{name} was never throttled");
    }
    Ok(())
}
