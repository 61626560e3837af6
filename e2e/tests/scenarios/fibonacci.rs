//! A worker of a team's own, built on the library: examples/fibonacci, two of them on one queue, which reply on another.
//! A number's place gives the number; what is no place is refused by name, and lies in the dead-letter queue.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use millrace_e2e::{Lab, Letter, Manifest, eventually, scenario};
use serde_json::{Value, json};

/// What e2e/kind/load made.
const IMAGE: &str = concat!("millrace-fibonacci:", env!("CARGO_PKG_VERSION"));
/// More than one worker takes before the other has had a look.
const TASKS: usize = 60;
/// What are no places in the sequence.
const WRONG: [&str; 3] = ["-1", "95", "eight"];

#[tokio::test]
async fn who_asks_for_a_number_is_told_it() {
    scenario("fibonacci", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let tasks = lab.queue("tasks").await?;
    let replies = lab.queue("replies").await?;
    let manifest = Manifest::custom(lab, "fibonacci", &tasks, IMAGE)
        .with("/spec/output/reply", json!({ "queueUrl": replies.url(), "format": "StatusAttributes" }))
        .with("/spec/worker/gpu/count", json!(0))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(2).await?;

    let mut bodies = vec!["8"; TASKS];
    bodies.extend(WRONG);
    let messages = tasks.send(&bodies).await?;
    let (right, wrong) = messages.split_at(TASKS);
    let mut told: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    eventually("everybody is told how it ended", async || {
        for letter in replies.take().await? {
            let task = letter.attributes.get("replyMessageId").context("no replyMessageId")?.clone();
            told.entry(task).or_default().push(letter);
        }
        let open = messages.iter().filter(|task| !told.get(*task).is_some_and(|told| told.iter().any(is_last))).count();
        ensure!(open == 0, "{open} are not");
        Ok(())
    })
    .await?;

    for task in right {
        let (pending, last): (Vec<&Letter>, Vec<&Letter>) = told[task].iter().partition(|letter| !is_last(letter));
        ensure!(last.iter().all(|letter| says(letter, "COMPLETED", &json!({ "arg": 8, "value": 13 }))), "{last:?}");
        ensure!(!pending.is_empty() && created(&pending) <= created(&last), "{pending:?} {last:?}");
    }
    for (task, body) in wrong.iter().zip(WRONG) {
        let message = json!({ "message": format!("Invalid request in message.Body:{body}") });
        ensure!(told[task].iter().all(|letter| says(letter, "FAILED", &message)), "{:?}", told[task]);
    }

    let ledger = consumer.ledger(&tasks).await?;
    for (task, body) in wrong.iter().zip(WRONG) {
        let dead = ledger.dead(task)?;
        let code = dead.attributes.get("millrace-error-code").map(String::as_str);
        ensure!((dead.body.as_str(), code) == (body, Some("InvalidInput")), "{dead:?}");
    }
    let workers: BTreeSet<&str> = ledger.records().map(|(_, record)| record.worker.as_str()).collect();
    ensure!(workers.len() == 2, "only {workers:?} worked");
    Ok(())
}

fn status(letter: &Letter) -> &str {
    letter.attributes.get("status").map(String::as_str).unwrap_or_default()
}

fn is_last(letter: &Letter) -> bool {
    status(letter) != "PENDING"
}

/// Whether it tells of this status, in this body.
fn says(letter: &Letter, wanted: &str, body: &Value) -> bool {
    status(letter) == wanted && serde_json::from_str::<Value>(&letter.body).is_ok_and(|found| found == *body)
}

/// When the first of them was.
fn created<'a>(letters: &[&'a Letter]) -> Option<&'a str> {
    letters.iter().filter_map(|letter| letter.attributes.get("createdAt").map(String::as_str)).min()
}
