//! Two operators, and the one that leads dies or stands still: within 15 s the other does its work, and no count is ever
//! written twice. One that stood still and wakes up again has lost its lease: it ends before it writes anything.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, Operator, Queue, Timeline, eventually, name_of, scenario};
use serde_json::json;

/// From the last sign of life to the first act of the other.
const FAILOVER: Duration = Duration::from_secs(15);

#[tokio::test]
async fn another_goes_on_within_fifteen_seconds() {
    scenario("operator-ha", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let operator = lab.operator();
    let replicas = operator.scale(2).await?;
    let result = Box::pin(fails_over(lab, &operator)).await;
    // whatever became of the scenario: others expect as many as were installed
    operator.scale(replicas).await?;
    result
}

async fn fails_over(lab: &Lab, operator: &Operator<'_>) -> Result<()> {
    operator.await_ready(2).await?;
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 1_000).with("/spec/worker/gpu/count", json!(0));
    let consumer = lab.apply(&manifest.replicas(0, 4)).await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    let timeline = consumer.timeline();
    let writes = consumer.deployment().await?.metadata.generation.context("no generation")?;

    let (holder, leader) = (operator.holder().await?, operator.leader().await?);
    lab.kill(&leader)?;
    burst(&queue, &timeline, 40, Instant::now()).await?;
    operator.await_other(&holder).await?;
    consumer.ledger(&queue).await?.all_completed()?;
    back_to_zero(&consumer, &timeline).await?;

    operator.await_ready(2).await?;
    let (holder, leader, restarts) = (operator.holder().await?, operator.leader().await?, operator.restarts().await?);
    lab.freeze(&leader)?;
    let result = async {
        burst(&queue, &timeline, 20, Instant::now()).await?;
        operator.await_other(&holder).await
    }
    .await;
    lab.thaw(&leader)?;
    let other = result?;
    eventually(format!("{} has ended itself", name_of(&leader)), async || {
        let now = operator.restarts().await?;
        ensure!(now > restarts, "{now} restarts");
        Ok(())
    })
    .await?;
    consumer.ledger(&queue).await?.all_completed()?;
    back_to_zero(&consumer, &timeline).await?;
    ensure!(operator.holder().await? == other, "the one that woke up leads again");

    let changes = i64::try_from(timeline.counts().len() - 1)?;
    let writes = consumer.deployment().await?.metadata.generation.context("no generation")? - writes;
    ensure!(writes == changes, "{writes} writes for {:?}", timeline.counts());
    eventually(format!("{changes} changes are told"), async || {
        let told = consumer.told("Scaled").await?;
        ensure!(i64::from(told) == changes, "{told} are: {:#?}", consumer.events().await?);
        Ok(())
    })
    .await
}

/// Messages that come as nobody leads, and when the workers for them are asked for.
async fn burst(queue: &Queue<'_>, timeline: &Timeline, messages: usize, since: Instant) -> Result<()> {
    let jobs: Vec<String> = (0..messages).map(|n| format!("job {n} of {messages}")).collect();
    queue.send(&jobs).await?;
    let asked = eventually("workers are asked for", async || {
        let found = timeline.changes().into_iter().find(|(at, count)| *at > since && *count > 0);
        found.map(|(at, _)| at).with_context(|| format!("worker counts {:?}", timeline.counts()))
    })
    .await?;
    let took = asked - since;
    eprintln!("the other acted after {:.1} s", took.as_secs_f64());
    ensure!(took <= FAILOVER, "the other acted after {took:?}");
    Ok(())
}

async fn back_to_zero(consumer: &Consumer<'_>, timeline: &Timeline) -> Result<()> {
    eventually("the workers are gone", async || {
        ensure!(timeline.counts().last() == Some(&0), "worker counts {:?}", timeline.counts());
        ensure!(consumer.pods().await?.is_empty(), "pods are there");
        Ok(())
    })
    .await
}
