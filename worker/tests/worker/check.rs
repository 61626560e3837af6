//! `millrace-worker check`: says what is wrong and changes nothing.

use std::process::Output;

use serde_json::{Value, json};

use crate::lab::{self, Lab, PREFIX};
use crate::program;

async fn check(lab: &Lab, settings: &Value, more: &[&str]) -> Output {
    let config = program::write_config(lab, "check", settings);
    let mut args = vec!["check", "--config", config.to_str().unwrap()];
    args.extend(more);
    program::output(lab, &args).await
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn says_that_all_is_well() {
    lab::with("check-good", async |lab| {
        lab.send("stays").await;
        let plain = check(lab, &lab.settings(json!({})), &[]).await;
        let dead = lab.dead_letters();
        let mut wanted = vec![
            format!("ok    queue: 5 receives, then {dead}"),
            format!("ok    bucket: s3://{}/{PREFIX} can be read and listed", lab.name),
            "ok    model: Echo is loaded and has inferred once".to_owned(),
        ];
        assert_eq!((plain.status.code(), lines(&plain)), (Some(0), wanted.clone()));
        wanted.insert(2, "ok    bucket: an object was put, kept against a second put, and deleted".to_owned());
        let write = check(lab, &lab.settings(json!({})), &["--write"]).await;
        assert_eq!((write.status.code(), lines(&write)), (Some(0), wanted));
        assert!(lab.keys().await.is_empty());
        assert_eq!(lab.depth(&lab.queue()).await, (1, 0));
    })
    .await;
}

#[tokio::test]
async fn says_everything_that_is_wrong() {
    lab::bare("check-bad", async |lab| {
        let settings = lab.settings(json!({ "model": { "parameters": { "millisecond": 5 } } }));
        let output = check(lab, &settings, &[]).await;
        assert_eq!(output.status.code(), Some(1));
        let (queue, found) = (lab.queue(), lines(&output));
        let wanted = [
            ("WRONG queue: QueueNotFound: ", queue.as_str()),
            ("WRONG bucket: BucketNotFound: ", lab.name.as_str()),
            ("WRONG model: InvalidParameters: ", "model.parameters.millisecond"),
        ];
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (line, (begins, names)) in found.iter().zip(wanted) {
            assert!(line.starts_with(begins) && line.contains(names), "{line:?} is not {begins:?} … {names:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn refuses_a_config_with_every_field_that_is_wrong() {
    lab::bare("check-config", async |lab| {
        let settings = lab.settings(json!({ "queue": { "urgency": 1 }, "model": { "task": "TextToImage" } }));
        let output = check(lab, &settings, &[]).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        for wrong in ["queue.urgency: unknown field", "model.source: required for this task"] {
            assert!(log.contains(wrong), "{log:?} does not say {wrong:?}");
        }
    })
    .await;
}
