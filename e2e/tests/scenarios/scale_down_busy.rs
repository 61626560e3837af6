//! Fewer workers, again and again, while there is work: who is told to go has nothing in hand, so every job is received
//! once and done once. Two consumers at once: of one the bound is lowered at random while all are at work, of the other
//! the messages grow fewer. `MILLRACE_SEED` replays a run; `MILLRACE_SOAK=1` (`make soak`) scales down ten times as often.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use k8s_openapi::jiff::Timestamp;
use millrace_e2e::{Lab, Ledger, Manifest, Queue, eventually, name_of, scenario, seed, soaking};
use serde_json::{Value, json};

/// Times that there are fewer workers than before: of the first consumer and of the second.
const FALLS: [usize; 2] = [15, 5];
const MOST: i32 = 5;
/// Waiting messages that keep all workers of the first consumer busy until the next look.
const PLENTY: i64 = 40;

#[tokio::test]
async fn nobody_at_work_is_told_to_go() {
    scenario("scale-down-busy", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let seed = seed();
    let [bound, load] = FALLS.map(|falls| if soaking() { falls * 10 } else { falls });
    let watch = lab.watch_pods();
    let (bound, load) = tokio::try_join!(
        async { Box::pin(lower_the_bound(lab, Rng::with_seed(seed), bound)).await.context("a lower bound") },
        async { Box::pin(fewer_messages(lab, Rng::with_seed(!seed), load)).await.context("fewer messages") },
    )?;

    // each is seen moments after it was told
    let deletions: BTreeMap<String, Timestamp> =
        watch.deletions().iter().map(|deletion| (name_of(&deletion.pod), deletion.at)).collect();
    for ledger in [&bound, &load] {
        ledger.all_completed()?;
        for (_, record) in ledger.records() {
            ensure!(record.attempt == 1, "received more than once: {record:?}");
            let told = deletions.get(&record.worker);
            let finished: Timestamp = record.finished_at.parse()?;
            ensure!(told.is_none_or(|told| finished <= *told), "told to go at {told:?} with a job: {record:?}");
        }
    }
    eprintln!("{} workers were told to go", deletions.len());
    Ok(())
}

/// Workers with two slots and jobs of some seconds.
fn echo(lab: &Lab, name: &str, queue: &Queue<'_>, messages_per_replica: i32) -> Manifest {
    Manifest::echo(lab, name, queue, 0)
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .with("/spec/worker/gpu/count", json!(0))
        .with("/spec/scaling/target", json!({ "messagesPerReplica": messages_per_replica }))
        .with("/spec/scaling/scaleDownStabilizationSeconds", json!(0))
        .replicas(1, MOST)
}

fn jobs(rng: &mut Rng, count: usize) -> Vec<String> {
    (0..count).map(|_| Value::to_string(&json!({ "milliseconds": rng.u32(500..4_000) }))).collect()
}

async fn lower_the_bound(lab: &Lab, mut rng: Rng, falls: usize) -> Result<Ledger> {
    let queue = lab.queue("bound").await?;
    let consumer = lab.apply(&echo(lab, "bound", &queue, 1)).await?;
    let timeline = consumer.timeline();
    let mut most = MOST;
    while timeline.falls() < falls {
        if queue.counts().await?.visible < PLENTY {
            queue.send(&jobs(&mut rng, PLENTY as usize)).await?;
        }
        eventually(format!("there are {most} workers, {} times fewer than before", timeline.falls()), async || {
            ensure!(timeline.counts().last() == Some(&most), "worker counts {:?}", timeline.counts());
            Ok(())
        })
        .await?;
        // at any moment of a start, of a job or of its end
        tokio::time::sleep(Duration::from_millis(rng.u64(..3_000))).await;
        most = (most + rng.i32(0..MOST - 1)) % MOST + 1;
        consumer.change(json!({ "scaling": { "maxReplicas": most } })).await?;
    }
    consumer.change(json!({ "scaling": { "maxReplicas": MOST } })).await?;
    consumer.ledger(&queue).await
}

async fn fewer_messages(lab: &Lab, mut rng: Rng, falls: usize) -> Result<Ledger> {
    let queue = lab.queue("load").await?;
    let consumer = lab.apply(&echo(lab, "load", &queue, 3)).await?;
    let timeline = consumer.timeline();
    while timeline.falls() < falls {
        let before = timeline.falls();
        let burst = rng.usize(4..=4 * MOST as usize);
        queue.send(&jobs(&mut rng, burst)).await?;
        eventually(format!("there are fewer workers after a burst of {burst}, or nothing is left"), async || {
            let counts = queue.counts().await?;
            let done = (counts.visible, counts.in_flight) == (0, 0);
            ensure!(timeline.falls() > before || done, "{counts:?}, worker counts {:?}", timeline.counts());
            Ok(())
        })
        .await?;
    }
    consumer.ledger(&queue).await
}
