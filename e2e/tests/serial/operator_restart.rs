//! `kill -9` for the operator in the middle of a scale-up: the next one goes on from what it finds.

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, eventually, scenario};
use serde_json::json;

const JOBS: usize = 40;

#[tokio::test]
async fn the_next_one_goes_on_and_workers_never_notice() {
    scenario("operator-restart", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let operator = lab.operator();
    let restarts = operator.restarts().await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 2_000)
        .with("/spec/scaling/target", json!({ "messagesPerReplica": 10 }))
        .replicas(0, 4);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    let timeline = consumer.timeline();
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("job {n}")).collect();
    queue.send(&jobs).await?;

    // the count is written and no worker is ready yet
    eventually("workers were asked for", async || {
        ensure!(timeline.counts().iter().any(|count| *count > 0), "worker counts {:?}", timeline.counts());
        Ok(())
    })
    .await?;
    let first = operator.holder().await?;
    lab.kill(&operator.leader().await?)?;
    eventually("the operator was started anew", async || {
        let now = operator.restarts().await?;
        ensure!(now > restarts, "{now} restarts");
        Ok(())
    })
    .await?;
    // and once more while workers are at work
    eventually("some jobs are done", async || {
        let done = consumer.records().await?.len();
        ensure!(done >= 5, "{done}");
        Ok(())
    })
    .await?;
    operator.await_other(&first).await?;
    lab.kill(&operator.leader().await?)?;

    consumer.ledger(&queue).await?.all_completed()?;
    let counts = timeline.counts();
    let woken = counts.iter().position(|count| *count > 0).unwrap_or_default();
    ensure!(!counts[woken..].contains(&0), "no worker was left while there was work: {counts:?}");
    ensure!(counts.iter().max() <= Some(&4), "more workers than allowed: {counts:?}");
    // to zero takes a minute more; operator_ha goes on to that
    eventually("there are fewer workers", async || {
        ensure!(timeline.counts().last() < counts.iter().max(), "worker counts {:?}", timeline.counts());
        Ok(())
    })
    .await?;
    Ok(())
}
