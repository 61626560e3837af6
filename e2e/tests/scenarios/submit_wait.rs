//! A file of jobs goes in by `kubectl millrace submit` and comes out as files; a second run has nothing left to send.

use anyhow::{Result, ensure};
use millrace_e2e::{Lab, Manifest, scenario};
use serde_json::json;

/// Jobs of the file; the last can never run, which is found before it is sent.
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
    let line = |n: usize| json!({ "n": n, "milliseconds": if n + 1 == JOBS { json!("soon") } else { json!(50) } });
    let lines: Vec<String> = (0..JOBS).map(|n| line(n).to_string()).collect();
    std::fs::write(&file, lines.join("\n"))?;
    let (file, results) = (file.display().to_string(), results.display().to_string());
    let submit = ["submit", "--file", &file, "--output", &results, "--timeout", "10m"];

    // from nothing: the consumer has no worker yet
    let first = consumer.cli(&submit).await?;
    ensure!(first.code == 3, "{first:?}");
    let last = &first.answer[JOBS - 1];
    let why = last["error"]["message"].as_str().unwrap_or_default();
    ensure!(last["status"] == "NOT_SENT" && why.starts_with("input.milliseconds: must be an integer"), "{last}");
    ensure!(std::fs::read_dir(&results)?.count() == JOBS - 1, "{results}: other files than wanted");

    let second = consumer.cli(&submit).await?;
    ensure!(second.code == 3 && second.said.contains("39 of 40 were sent before"), "{second:?}");
    ensure!(consumer.records().await?.len() == JOBS - 1, "something was computed twice under other ids");
    ensure!(queue.dead().await? == 0, "the one that can never run was sent");
    let explained = consumer.cli(&["explain"]).await?;
    ensure!(explained.code == 0 && explained.answer[0]["what"] == "workers", "{explained:?}");
    Ok(())
}
