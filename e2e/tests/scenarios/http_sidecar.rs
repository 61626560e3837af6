//! 30 jobs of 5 s each for a model server in Python beside the worker: the server is killed in the middle of its jobs and
//! refuses all for a minute. Every job is done at its first receive, and no other is done.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use millrace_e2e::{Consumer, Lab, Manifest, eventually, name_of, scenario};
use serde_json::{Value, json};

/// What e2e/kind/load made of examples/http-server.
const IMAGE: &str = concat!("millrace-http-server:", env!("CARGO_PKG_VERSION"));
const NOWHERE: &str = "millrace-no-such-server:1";
const JOBS: usize = 30;
const AT_A_TIME: usize = 10;
const REFUSES: Duration = Duration::from_mins(1);

#[tokio::test]
async fn neither_a_kill_nor_a_refusal_of_the_server_costs_a_job() {
    scenario("http-sidecar", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::http(lab, "shouting", &queue, &server(NOWHERE)).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let words = [NOWHERE];
    consumer.await_condition("WorkersAvailable", "False", "ErrImageNeverPull", &words).await?;
    consumer.change(json!({ "model": { "server": { "container": { "image": IMAGE } } } })).await?;
    let pod = consumer.await_ready(1).await?.remove(0);

    let bodies: Vec<String> =
        (0..JOBS).map(|n| json!({ "text": format!("job {n}"), "seconds": 5 }).to_string()).collect();
    let messages = queue.send(&bodies).await?;
    busy(&consumer, &pod).await?;
    lab.kill_server(&pod)?;
    problem(&consumer, &pod, "ServerUnavailable").await?;
    restarted(&consumer).await?;

    lab.ask_port(&name_of(&pod), 8000, &format!("/pause?seconds={}", REFUSES.as_secs())).await?;
    let refused = Instant::now();
    problem(&consumer, &pod, "ServerOverloaded").await?;

    let ledger = consumer.ledger(&queue).await?;
    ledger.all_completed()?;
    ensure!(refused.elapsed() >= REFUSES, "all were done while the server refused them");
    for (n, message) in messages.iter().enumerate() {
        let record = ledger.record(message)?;
        let value = json!({ "text": format!("JOB {n}"), "letters": format!("job {n}").len() });
        ensure!((record.attempt, record.value.as_ref()) == (1, Some(&value)), "{record:?}");
    }
    ensure!(queue.dead().await? == 0, "there are dead letters");

    let wrong = queue.send(&[r#"{"seconds": 1}"#]).await?.remove(0);
    let ledger = consumer.ledger(&queue).await?;
    let error = ledger.record(&wrong)?.error.clone().context("no error")?;
    ensure!((error.code.as_str(), error.field.as_deref()) == ("InvalidInput", Some("text")), "{error:?}");
    Ok(())
}

fn server(image: &str) -> Value {
    json!({
        "path": "/run",
        "concurrency": AT_A_TIME,
        "timeoutSeconds": 60,
        "request": { "textField": "text" },
        "container": {
            "image": image,
            "imagePullPolicy": "Never",
            "resources": { "requests": { "cpu": "20m", "memory": "64Mi" } },
            "sharedMemory": { "sizeLimit": "16Mi" },
        },
    })
}

/// As many of its jobs run as the server takes at a time.
async fn busy(consumer: &Consumer<'_>, pod: &Pod) -> Result<()> {
    eventually("the server has its jobs", async || {
        let busy = consumer.state(pod).await?.busy as usize;
        ensure!(busy >= AT_A_TIME, "it has {busy}");
        Ok(())
    })
    .await
}

async fn problem(consumer: &Consumer<'_>, pod: &Pod, reason: &str) -> Result<()> {
    eventually(format!("the worker tells {reason}"), async || {
        let problems = consumer.state(pod).await?.problems;
        ensure!(problems.iter().any(|problem| problem.reason == reason), "{problems:?}");
        Ok(())
    })
    .await
}

/// The kubelet started the server again, and nobody the worker.
async fn restarted(consumer: &Consumer<'_>) -> Result<()> {
    eventually("the server is up again, and the worker was not restarted", async || {
        let pod = consumer.pods().await?.pop().context("no pod")?;
        let status = pod.status.context("no status")?;
        let restarts = |all: Option<Vec<ContainerStatus>>| all.and_then(|all| Some(all.first()?.restart_count));
        let found = (restarts(status.init_container_statuses), restarts(status.container_statuses));
        ensure!(found == (Some(1), Some(0)), "{found:?}");
        Ok(())
    })
    .await?;
    eventually("the worker has found it", async || {
        let pod = consumer.pods().await?.pop().context("no pod")?;
        let problems = consumer.state(&pod).await?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })
    .await
}
