//! Three consumers share a budget of 8 GPUs by their weights. Together they never hold more, terminating pods counted; each
//! comes to its share; who is held back says so; and what one no longer needs goes to the others.

use anyhow::{Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, eventually, scenario};
use serde_json::json;

/// As e2e/kind/values.yaml has it, of GPUs that nobody else here asks for.
const RESOURCE: &str = "example.com/gpu";
const BUDGET: i32 = 8;
const WEIGHTS: [(&str, i32); 3] = [("small", 1), ("middle", 2), ("large", 5)];
/// More than eight workers do while this runs.
const JOBS: usize = 2_000;

#[tokio::test]
async fn it_is_never_exceeded_and_shared_by_weight() {
    scenario("gpu-budget", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let watch = lab.watch_pods();
    let (mut queues, mut consumers) = (Vec::new(), Vec::new());
    for (name, weight) in WEIGHTS {
        let queue = lab.queue(name).await?;
        let manifest = Manifest::echo(lab, name, &queue, 2_000)
            .with("/spec/worker/gpu/resourceName", json!(RESOURCE))
            .with("/spec/scaling/weight", json!(weight))
            .with("/spec/scaling/target", json!({ "messagesPerReplica": 1 }))
            .with("/spec/scaling/scaleDownStabilizationSeconds", json!(0))
            .replicas(0, BUDGET);
        consumers.push(lab.apply(&manifest).await?);
        queues.push(queue);
    }
    let [small, middle, large] = consumers.as_slice() else { unreachable!("there are three") };

    // alone it may have all
    queues[0].flood("a hen", JOBS).await?;
    small.await_ready(BUDGET as usize).await?;
    ensure!(small.condition("BudgetLimited").await.is_err(), "it has all that it may ask for");

    queues[1].flood("a cow", JOBS).await?;
    queues[2].flood("an owl", JOBS).await?;
    await_shares(&[(small, 1.0), (middle, 2.0), (large, 5.0)]).await?;
    for consumer in &consumers {
        let words = [format!("needs {BUDGET} workers"), format!("of {BUDGET} {RESOURCE}")];
        let words = words.each_ref().map(String::as_str);
        consumer.await_condition("BudgetLimited", "True", "GpuBudget", &words).await?;
        consumer.await_condition("ScalingActive", "True", "BudgetLimited", &[]).await?;
    }

    // the large one has nothing to do any more
    queues[2].purge().await?;
    await_shares(&[(small, 8.0 / 3.0), (middle, 16.0 / 3.0), (large, 0.0)]).await?;
    large.await_no_condition("BudgetLimited").await?;
    middle.await_condition("BudgetLimited", "True", "GpuBudget", &[]).await?;
    ensure!(watch.most() == BUDGET as usize, "{} pods held a GPU at a time", watch.most());
    Ok(())
}

/// Waits until all of the budget is used, and each consumer has its share within one worker.
async fn await_shares(shares: &[(&Consumer<'_>, f64)]) -> Result<()> {
    eventually(format!("the shares are {:?}", shares.iter().map(|(_, share)| share).collect::<Vec<_>>()), async || {
        let mut held = Vec::with_capacity(shares.len());
        for (consumer, _) in shares {
            held.push(consumer.pods().await?.len());
        }
        let fair = held.iter().zip(shares).all(|(held, (_, share))| (*held as f64 - share).abs() < 1.0);
        ensure!(fair && held.iter().sum::<usize>() == BUDGET as usize, "they hold {held:?}");
        Ok(())
    })
    .await
}
