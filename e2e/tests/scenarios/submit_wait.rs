//! A file of jobs goes in by `kubectl millrace submit` and comes out as files; a line that can never run is named before the
//! first is sent, and a second run has nothing left to send.

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, scenario};
use serde_json::{Value, json};

/// Jobs of the file.
const JOBS: usize = 40;

#[tokio::test]
async fn a_file_goes_in_and_files_come_out() {
    scenario("submit-wait", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("jobs").await?;
    let manifest = Manifest::echo(lab, "echo", &queue, 50).with("/spec/worker/gpu/count", json!(0)).replicas(0, 2);
    let consumer = lab.apply(&manifest).await?;

    let folder = tempfile::tempdir()?;
    let (file, results) = (folder.path().join("jobs.jsonl"), folder.path().join("results"));
    // the last one can never run until it is mended
    let lines = |last: Value| {
        let line = |n: usize| json!({ "n": n, "milliseconds": if n + 1 == JOBS { last.clone() } else { json!(50) } });
        (0..JOBS).map(|n| line(n).to_string()).collect::<Vec<_>>().join("\n")
    };
    std::fs::write(&file, lines(json!("soon")))?;
    let (shown, results) = (file.display().to_string(), results.display().to_string());
    let submit = ["submit", "--file", &shown, "--output", &results, "--timeout", "10m"];

    let wrong = consumer.cli(&submit).await?;
    let named = format!("line {JOBS}: input.milliseconds: must be an integer");
    ensure!(wrong.code == 1 && wrong.said.contains(&named), "{wrong:?}");
    ensure!(consumer.records().await?.is_empty(), "some were sent though one can never run");

    // from nothing: the consumer has no worker yet
    std::fs::write(&file, lines(json!(60)))?;
    let first = consumer.cli(&submit).await?;
    ensure!(first.code == 0, "{first:?}");
    ensure!(std::fs::read_dir(&results)?.count() == JOBS, "{results}: other files than wanted");

    let second = consumer.cli(&submit).await?;
    ensure!(second.code == 0 && second.said.contains("40 of 40 were sent before"), "{second:?}");
    ensure!(consumer.records().await?.len() == JOBS, "something was computed twice under other ids");
    ensure!(queue.dead().await? == 0, "the one that could not run was sent");
    let explained = consumer.cli(&["explain"]).await?;
    ensure!(explained.code == 0 && explained.answer[0]["what"] == "workers", "{explained:?}");
    Ok(())
}
