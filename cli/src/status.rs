//! `status`: how jobs stand, by their records.

use clap::Args;
use futures::StreamExt as _;
use millrace_api::{JobStatus, ResultRecord};
use millrace_client::{Client, Error, task_word};
use serde::Serialize;
use serde_json::Value;

use crate::common::Common;
use crate::exit::Ended;
use crate::report::{JobReport, Jobs};
use crate::show::{Tabular, show};

/// Records that are read at a time.
pub const AT_ONCE: usize = 64;

/// Tell how jobs stand: by their ids, or all of a fan-out's
///
/// A job without a record is PENDING: it waits, it runs, or nobody has sent it.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct StatusArgs {
    /// Job ids
    #[arg(group = "which", value_name = "JOB_ID")]
    jobs: Vec<String>,
    /// What a fan-out's tasks are about: tells how many of total_tasks are done
    #[arg(long, group = "which", value_name = "ENTITY_ID")]
    entity: Option<String>,
}

/// Runs the command.
pub async fn run(common: &Common, args: StatusArgs) -> anyhow::Result<Ended> {
    let client = common.target().await?.client;
    if let Some(entity) = &args.entity {
        let events = events(entity, &records_of(&client, entity).await?);
        show(common.format, &events)?;
        return Ok(events.ended());
    }
    let jobs = Jobs(of(&client, &args.jobs).await?.into_iter().map(|(id, found)| report(&id, &found)).collect());
    show(common.format, &jobs)?;
    Ok(jobs.ended())
}

/// A job's record, if it has one that can be read.
pub type Found = Result<Option<ResultRecord>, Error>;

/// The records of these jobs, in their order; an error where none of them can be read.
pub async fn of(client: &Client, ids: &[String]) -> anyhow::Result<Vec<(String, Found)>> {
    let ask = |id: String| async move {
        let found = client.record(&id).await;
        (id, found)
    };
    let all: Vec<(String, Found)> = futures::stream::iter(ids.to_vec()).map(ask).buffered(AT_ONCE).collect().await;
    match all.first() {
        Some((_, Err(error))) if all.iter().all(|(_, found)| found.is_err()) => Err(error.clone().into()),
        _ => Ok(all),
    }
}

/// What is told of a job.
pub fn report(id: &str, found: &Found) -> JobReport {
    match found {
        Ok(Some(record)) => JobReport::from(record),
        Ok(None) => JobReport::new(id, "PENDING"),
        Err(error) => JobReport::wrong(id, "UNKNOWN", "Record", error.to_string()),
    }
}

async fn records_of(client: &Client, entity: &str) -> anyhow::Result<Vec<ResultRecord>> {
    let names = client.record_names(&format!("{entity}-")).await?;
    let ids: Vec<String> = names.into_iter().filter(|name| !name.contains('~')).collect();
    let mut records = Vec::new();
    for (_, found) in of(client, &ids).await? {
        match found {
            Ok(record) => records.extend(record),
            Err(error) => eprintln!("not counted: {error}"),
        }
    }
    Ok(records)
}

/// The events of one entity, the oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Events(Vec<Event>);

/// One fan-out.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Event {
    timestamp: String,
    completed: u64,
    failed: u64,
    total: u64,
}

impl Events {
    fn ended(&self) -> Ended {
        let one = |event: &Event| match event {
            event if event.completed + event.failed < event.total => Ended::NotYet,
            event if event.failed > 0 => Ended::JobsFailed,
            _ => Ended::Well,
        };
        self.0.iter().map(one).max().unwrap_or(Ended::NotYet)
    }
}

impl Tabular for Events {
    fn heads(&self) -> Vec<&'static str> {
        vec!["EVENT", "COMPLETED", "FAILED", "OF"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row =
            |e: &Event| vec![e.timestamp.clone(), e.completed.to_string(), e.failed.to_string(), e.total.to_string()];
        self.0.iter().map(row).collect()
    }
}

/// Counts the tasks of `entity` by the event that they belong to. EXPIRED and CANCELLED count as failed: they are not done.
fn events(entity: &str, records: &[ResultRecord]) -> Events {
    let mut events: Vec<Event> = Vec::new();
    let word = |record: &ResultRecord, key: &str| task_word(record.metadata.get(key)?);
    for record in records.iter().filter(|record| word(record, "entity_id").is_some_and(|own| own == entity)) {
        let timestamp = word(record, "timestamp").unwrap_or_default();
        let total = record.metadata.get("total_tasks").and_then(Value::as_u64).unwrap_or_default();
        let place = events.iter().position(|event| event.timestamp == timestamp).unwrap_or_else(|| {
            events.push(Event { timestamp, completed: 0, failed: 0, total });
            events.len() - 1
        });
        let event = &mut events[place];
        // a producer that sent only the rest again counted only that
        event.total = event.total.max(total);
        if record.status == JobStatus::Completed {
            event.completed += 1;
        } else {
            event.failed += 1;
        }
    }
    events.sort_by(|a, b| a.timestamp.cmp(&b.timestamp));
    Events(events)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(entity: &str, timestamp: &str, status: &str) -> ResultRecord {
        record_of(&json!({ "entity_id": entity, "timestamp": timestamp, "total_tasks": 2 }), status)
    }

    fn record_of(metadata: &Value, status: &str) -> ResultRecord {
        serde_json::from_value(json!({
            "job_id": "j", "message_id": "m", "status": status, "consumer": "a/b", "attempt": 1, "worker": "w",
            "model": { "task": "Echo" }, "input_sha256": "h", "form": "task_envelope",
            "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
            "started_at": "", "finished_at": "",
            "metadata": metadata,
        }))
        .unwrap()
    }

    #[test]
    fn tasks_are_counted_by_event() {
        let records = [
            record("user-1", "t2", "COMPLETED"),
            record("user-1", "t1", "COMPLETED"),
            record("user-1", "t1", "EXPIRED"),
            // of the entity user-1-x, whose job ids begin alike
            record("user-1-x", "t1", "COMPLETED"),
        ];
        let Events(events) = events("user-1", &records);
        let event = |t: &str, completed, failed| Event { timestamp: t.into(), completed, failed, total: 2 };
        assert_eq!(events, [event("t1", 1, 1), event("t2", 1, 0)]);
        assert_eq!(Events(events).ended(), Ended::NotYet);
        assert_eq!(super::events("user-1", &records[1..3]).ended(), Ended::JobsFailed);
    }

    #[test]
    fn numbers_are_as_good_as_texts_and_the_largest_total_counts() {
        let task = |timestamp: u64, total: u64| {
            let metadata = json!({ "entity_id": 17, "timestamp": timestamp, "total_tasks": total });
            record_of(&metadata, "COMPLETED")
        };
        let Events(events) = events("17", &[task(1, 1), task(1, 13), task(2, 1)]);
        let event = |t: &str, completed, total| Event { timestamp: t.into(), completed, failed: 0, total };
        assert_eq!(events, [event("1", 2, 13), event("2", 1, 1)]);
    }
}
