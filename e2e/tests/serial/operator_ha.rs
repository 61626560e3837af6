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
    let (first, second) = (Asleep::new(lab, "first").await?, Asleep::new(lab, "second").await?);

    let (holder, leader) = (operator.holder().await?, operator.leader().await?);
    lab.kill(&leader)?;
    first.burst(40, Instant::now()).await?;
    operator.await_other(&holder).await?;

    operator.await_ready(2).await?;
    let (holder, leader, restarts) = (operator.holder().await?, operator.leader().await?, operator.restarts().await?);
    lab.freeze(&leader)?;
    let result = async {
        second.burst(20, Instant::now()).await?;
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
    for each in [&first, &second] {
        each.back_to_zero().await?;
    }
    ensure!(operator.holder().await? == other, "the one that woke up leads again");
    for each in [&first, &second] {
        each.written_once().await?;
    }
    Ok(())
}

/// A consumer at zero that is to be woken.
struct Asleep<'a> {
    consumer: Consumer<'a>,
    queue: Queue<'a>,
    timeline: Timeline,
    /// Writes of its Deployment before.
    writes: i64,
}

impl<'a> Asleep<'a> {
    async fn new(lab: &'a Lab, name: &str) -> Result<Self> {
        let queue = lab.queue(name).await?;
        let manifest = Manifest::echo(lab, name, &queue, 1_000).with("/spec/worker/gpu/count", json!(0));
        let consumer = lab.apply(&manifest.replicas(0, 4)).await?;
        consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
        let timeline = consumer.timeline();
        let writes = consumer.deployment().await?.metadata.generation.context("no generation")?;
        Ok(Self { consumer, queue, timeline, writes })
    }

    /// Messages that come as nobody leads, and when the workers for them are asked for.
    async fn burst(&self, messages: usize, since: Instant) -> Result<()> {
        let jobs: Vec<String> = (0..messages).map(|n| format!("job {n}")).collect();
        self.queue.send(&jobs).await?;
        let asked = eventually("workers are asked for", async || {
            let found = self.timeline.changes().into_iter().find(|(at, count)| *at > since && *count > 0);
            found.map(|(at, _)| at).with_context(|| format!("worker counts {:?}", self.timeline.counts()))
        })
        .await?;
        let took = asked - since;
        eprintln!("the other acted after {:.1} s", took.as_secs_f64());
        ensure!(took <= FAILOVER, "the other acted after {took:?}");
        Ok(())
    }

    async fn back_to_zero(&self) -> Result<()> {
        self.consumer.ledger(&self.queue).await?.all_completed()?;
        eventually("the workers are gone", async || {
            ensure!(self.timeline.counts().last() == Some(&0), "worker counts {:?}", self.timeline.counts());
            ensure!(self.consumer.pods().await?.is_empty(), "pods are there");
            Ok(())
        })
        .await
    }

    /// Each change of the count is one write, and one Event tells of it.
    async fn written_once(&self) -> Result<()> {
        let changes = i64::try_from(self.timeline.counts().len() - 1)?;
        let writes = self.consumer.deployment().await?.metadata.generation.context("no generation")? - self.writes;
        ensure!(writes == changes, "{writes} writes for {:?}", self.timeline.counts());
        eventually(format!("{changes} changes are told"), async || {
            let told = self.consumer.told("Scaled").await?;
            ensure!(i64::from(told) == changes, "{told} are: {:#?}", self.consumer.events().await?);
            Ok(())
        })
        .await
    }
}
