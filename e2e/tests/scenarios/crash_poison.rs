//! A job that kills every worker which runs it: the picture is so large that the kernel ends the process for want of
//! memory. After two deaths of workers that ran nothing else it is taken out, and the jobs beside it are done.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use millrace_api::JobStatus;
use millrace_e2e::{Lab, Manifest, scenario};
use serde_json::json;

/// Decoding it takes twice the worker's memory, and it comes to that within seconds.
const POISON: &str = r#"{"prompt":"a whale","width":768,"height":768,"steps":1}"#;
const GOOD: usize = 8;
/// Of workers: in company at the first two receives, alone at the next two.
const DEATHS: i32 = 4;

#[tokio::test]
async fn it_is_taken_out_and_the_others_are_done() {
    scenario("crash-poison", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    // a worker that dies leaves a poll behind, and LocalStack gives that one messages too: such receives come on top
    let queue = lab.queue_with_receives("prompts", 15).await?;
    let model = lab.model().await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        .with("/spec/queue/visibilityTimeoutSeconds", json!(10))
        .with("/spec/model/batch", json!({ "maxSize": 2 }))
        .with("/spec/worker/resources/limits", json!({ "memory": "192Mi" }))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(2).await?;
    let poison = queue.send(&[POISON]).await?.remove(0);
    let good: Vec<String> = (0..GOOD).map(|n| format!("a minnow, number {n}")).collect();
    let good = queue.send(&good).await?;
    let ledger = consumer.ledger(&queue).await?;

    for message in &good {
        let record = ledger.record(message)?;
        ensure!(record.status == JobStatus::Completed, "taken along: {record:?}");
    }
    let record = ledger.record(&poison)?;
    let error = record.error.as_ref().context("no error")?;
    ensure!((record.status, error.code.as_str()) == (JobStatus::Failed, "CrashPoison"), "{record:?}");
    ensure!(record.body.as_deref() == Some(POISON) && record.attempt > DEATHS as u32, "{record:?}");
    let dead = ledger.dead(&poison)?;
    let code = dead.attributes.get("millrace-error-code").map(String::as_str);
    ensure!(code == Some("CrashPoison"), "{dead:?}");

    // each was started again
    let pods = consumer.await_ready(2).await?;
    let deaths: i32 = pods.iter().map(restarts).sum();
    ensure!(deaths == DEATHS, "{deaths} deaths");
    for end in pods.iter().filter_map(last_end) {
        // the kubelet does not always hear of the OOM killer, and then says Error
        ensure!(end.exit_code == 137, "another death: {end:?}");
    }
    Ok(())
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().map(|container| container.restart_count).sum()
}

fn last_end(pod: &Pod) -> Option<&ContainerStateTerminated> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.last_state.as_ref()?.terminated.as_ref()
}
