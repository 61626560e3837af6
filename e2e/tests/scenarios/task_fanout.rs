//! One event becomes many tasks on a FIFO queue, a group for each entity and kind of task: a group keeps its order, groups
//! run side by side, and a task that can never run lies in the dead-letter queue and holds up nobody.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use millrace_api::{JobStatus, ResultRecord};
use millrace_e2e::{Lab, Ledger, Manifest, scenario};
use serde_json::{Value, json};

const ENTITIES: [&str; 2] = ["user-17", "user-18"];
const TASKS: [&str; 3] = ["portrait", "banner", "thumbnail"];
/// Tasks of each group: 42 in all.
const LENGTH: usize = 7;
/// The one that can never run: its group, and its place in it.
const WRONG: (&str, &str, usize) = ("user-18", "banner", 3);

#[tokio::test]
async fn each_group_keeps_its_order() {
    scenario("task-fanout", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.fifo_queue("tasks").await?;
    let manifest = Manifest::echo(lab, "tasks", &queue, 100).with("/spec/worker/gpu/count", json!(0)).replicas(3, 3);
    let consumer = lab.apply(&manifest).await?;
    consumer.await_ready(3).await?;

    let mut groups = Vec::new();
    for entity in ENTITIES {
        for task in TASKS {
            let bodies: Vec<String> = (0..LENGTH).map(|place| envelope(entity, task, place).to_string()).collect();
            let sent = queue.send_group(&format!("{entity}-{task}"), &bodies).await?;
            groups.push((entity, task, sent));
        }
    }
    let ledger = consumer.ledger(&queue).await?;
    for (entity, task, sent) in &groups {
        for (place, message) in sent.iter().enumerate() {
            let record = ledger.record(message)?;
            as_sent(record, entity, task, place).with_context(|| format!("{record:?}"))?;
        }
        ledger.in_order(sent)?;
    }
    let (_, _, sent) =
        groups.iter().find(|(entity, task, _)| (*entity, *task) == (WRONG.0, WRONG.1)).context("group")?;
    let attributes = &ledger.dead(&sent[WRONG.2])?.attributes;
    ensure!(attributes.get("millrace-error-field").is_some_and(|field| field == "milliseconds"), "{attributes:?}");
    let mut spans = groups.iter().map(|(_, _, sent)| span(&ledger, sent)).collect::<Result<Vec<_>>>()?;
    spans.sort();
    let overlap = spans.windows(2).any(|pair| pair[1].0 < pair[0].1);
    ensure!(overlap, "each group waited for the one before: {spans:?}");
    Ok(())
}

fn config(entity: &str, task: &str, place: usize) -> Value {
    let milliseconds = if (entity, task, place) == WRONG { json!("soon") } else { json!(100) };
    json!({ "step": place, "milliseconds": milliseconds })
}

/// A task as the fan-out's producer sends it.
fn envelope(entity: &str, task: &str, place: usize) -> Value {
    json!({
        "entity_id": entity, "task_name": task, "task_config": config(entity, task, place), "metadata": { "source": "signup" },
        "timestamp": format!("2026-11-23T10:00:{place:02}"), "retry_count": 0, "total_tasks": ENTITIES.len() * TASKS.len() * LENGTH,
    })
}

/// Whether a record is of the task that was sent, and ended as that must.
fn as_sent(record: &ResultRecord, entity: &str, task: &str, place: usize) -> Result<()> {
    ensure!(record.job_id == format!("{entity}-{task}-2026-11-23T10:00:{place:02}"), "another job");
    ensure!((record.form.as_str(), record.route.as_deref()) == ("task_envelope", Some(task)), "another form or route");
    ensure!(record.metadata["entity_id"] == entity && record.metadata["total_tasks"] == 42, "other metadata");
    if (entity, task, place) == WRONG {
        ensure!(record.status == JobStatus::Failed, "it did not fail");
    } else {
        ensure!(record.status == JobStatus::Completed, "it is not done");
        ensure!(record.value == Some(config(entity, task, place)), "another value");
    }
    Ok(())
}

/// From the begin of a group's first task to the end of its last.
fn span(ledger: &Ledger, group: &[String]) -> Result<(Timestamp, Timestamp)> {
    let (first, last) = (ledger.record(&group[0])?, ledger.record(&group[LENGTH - 1])?);
    Ok((first.started_at.parse()?, last.finished_at.parse()?))
}
