//! Messages that come with long pauses. Where a start would miss the target, the last worker stays until the next message:
//! one cold start in all. Where a start is within the target it goes after a minute, and comes again. The words say which
//! rule ruled.

use anyhow::{Result, ensure};
use millrace_e2e::{Consumer, Lab, Manifest, Queue, Timeline, eventually, scenario};
use serde_json::json;

const MESSAGES: usize = 2;

#[tokio::test]
async fn the_last_worker_stays_only_where_a_start_would_be_too_late() {
    scenario("sparse-queue", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let (hasty, patient) = (lab.queue("hasty").await?, lab.queue("patient").await?);
    let stays = lab.apply(&sparse(lab, "stays", &hasty, 1)).await?;
    let goes = lab.apply(&sparse(lab, "goes", &patient, 60)).await?;
    for consumer in [&stays, &goes] {
        consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    }
    let (staying, going) = (stays.timeline(), goes.timeline());

    for n in 0..MESSAGES {
        hasty.send(&[format!("message {n}")]).await?;
        patient.send(&[format!("message {n}")]).await?;
        // the pause: until the other's worker is gone
        let starts = n + 1;
        at_zero_after(&goes, &going, starts).await?;
        // the status is written after the count, and a worker that holds nothing is gone at once
        eventually("the last change says why", async || {
            let words = ["idle for 60 s", "within the target"];
            let scale = goes.status().await?.last_scale;
            let told = scale.as_ref().is_some_and(|scale| words.iter().all(|words| scale.message.contains(words)));
            ensure!(told && scale.as_ref().is_some_and(|scale| scale.reason == "QueueEmpty"), "{scale:?}");
            Ok(())
        })
        .await?;
        let words = ["would miss the target", "scaleToZeroAfterSeconds counts"];
        stays.await_condition("ScalingActive", "True", "WaitingForZero", &words).await?;
        ensure!(staying.counts() == [0, 1], "worker counts {:?}", staying.counts());
    }
    for (consumer, queue) in [(&stays, &hasty), (&goes, &patient)] {
        consumer.ledger(queue).await?.all_completed()?;
    }
    let workers = stays.pods().await?;
    ensure!(workers.len() == 1, "{} workers stay", workers.len());
    let estimates = stays.status().await?.estimates;
    ensure!(estimates.is_some_and(|seen| seen.ready_seconds.is_some()), "no start was measured: {estimates:?}");
    Ok(())
}

/// Zero after five minutes at the latest; how much earlier is for the operator to say.
fn sparse(lab: &Lab, name: &str, queue: &Queue<'_>, target: i32) -> Manifest {
    Manifest::echo(lab, name, queue, 200)
        .with("/spec/worker/gpu/count", json!(0))
        .with("/spec/scaling/target", json!({ "queueDelaySeconds": target }))
        .with("/spec/scaling/scaleToZeroAfterSeconds", json!(300))
}

async fn at_zero_after(consumer: &Consumer<'_>, timeline: &Timeline, starts: usize) -> Result<()> {
    eventually(format!("no worker is left after {starts} starts"), async || {
        let counts = timeline.counts();
        let wanted: Vec<i32> = std::iter::once(0).chain([1, 0].repeat(starts)).collect();
        ensure!(counts == wanted, "worker counts {counts:?}");
        ensure!(consumer.pods().await?.is_empty(), "its pod is there");
        Ok(())
    })
    .await
}
