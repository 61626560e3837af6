//! One event becomes many independent tasks on a FIFO queue: a group for each entity and kind of task, whose order is
//! kept, while groups run side by side.

use std::collections::HashSet;

use futures::StreamExt as _;
use millrace_api::{MAX_JOB_ID, encode_job_id, is_fifo};
use serde_json::{Map, Value, json};

use crate::check::check_input;
use crate::client::Client;
use crate::error::Error;
use crate::fifo::is_group;
use crate::invalid::InvalidJob;
use crate::job::Job;
use crate::letter::{Attribute, Letter};
use crate::send::Sent;

/// An event and its tasks.
///
/// The timestamp is the event's own: whoever repeats a fan-out after a crash gives the same one, and SQS drops what it
/// has already (within five minutes; later a worker finds the job's record).
///
/// ```no_run
/// # async fn example(client: millrace_client::Client) -> Result<(), millrace_client::Error> {
/// use millrace_client::FanOut;
/// use serde_json::{Map, json};
///
/// let report = client
///     .fan_out(&FanOut {
///         entity_id: "user-17".into(),
///         timestamp: "2026-11-23T10:00:00Z".into(),
///         metadata: Map::new(),
///         tasks: vec![("portrait".into(), json!({ "prompt": "a portrait" })), ("banner".into(), json!("a banner"))],
///     })
///     .await?;
/// println!("{} sent, {} not", report.sent.len(), report.not_sent.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FanOut {
    /// What the tasks are about.
    pub entity_id: String,
    /// When it happened, as the job ids have it.
    pub timestamp: String,
    /// Given back in each record.
    pub metadata: Map<String, Value>,
    /// Each task's name, which no other has, and its input.
    pub tasks: Vec<(String, Value)>,
}

/// What became of a fan-out.
#[derive(Debug, Default)]
pub struct FanOutReport {
    /// The tasks that SQS has, by their places.
    pub sent: Vec<(usize, Sent)>,
    /// Those that it has not. Give the whole event again: what SQS or a record has is not done twice, and each task tells
    /// how many the event has.
    pub not_sent: Vec<(usize, Error)>,
}

/// A word of a task envelope (`entity_id`, `task_name`, `timestamp`), which may be a text or a number.
pub fn task_word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Client {
    /// Sends every task of an event. Fails only where nothing could be sent at all.
    pub async fn fan_out(&self, event: &FanOut) -> Result<FanOutReport, Error> {
        if !is_fifo(&self.consumer.queue.url) {
            let message = "a fan-out needs a FIFO queue, whose name ends in .fifo: groups and their order are its own";
            return Err(InvalidJob::new("queue.url", message).into());
        }
        let mut names = HashSet::new();
        if let Some((twice, _)) = event.tasks.iter().find(|(name, _)| !names.insert(name)) {
            let message = format!("{twice} comes twice in the event; a job's id is made of it, so give each another");
            return Err(InvalidJob::new("task_name", message).into());
        }
        let letters = event.tasks.iter().enumerate().map(|(index, task)| (index, self.task_letter(event, task)));
        let mut report = FanOutReport::default();
        let mut outcomes = std::pin::pin!(self.stream(letters).await);
        while let Some(outcome) = outcomes.next().await {
            match outcome.result {
                Ok(sent) => report.sent.push((outcome.index, sent)),
                Err(error) => report.not_sent.push((outcome.index, error)),
            }
        }
        Ok(report)
    }

    fn task_letter(&self, event: &FanOut, (name, config): &(String, Value)) -> Result<Letter, InvalidJob> {
        check_input(&self.consumer, "task_config", config)?;
        for (field, text) in [("entity_id", &event.entity_id), ("task_name", name), ("timestamp", &event.timestamp)] {
            if text.is_empty() {
                return Err(InvalidJob::new(field, "is empty; the job's id is made of it"));
            }
        }
        let job_id = encode_job_id(&format!("{}-{name}-{}", event.entity_id, event.timestamp));
        let group = format!("{}-{name}", event.entity_id);
        if job_id.len() > MAX_JOB_ID || !is_group(&group) {
            let message =
                "entity_id and task_name make a message group: 127 printable ASCII characters together, no spaces";
            return Err(InvalidJob::new("entity_id", message));
        }
        let body = json!({
            "entity_id": event.entity_id,
            "task_name": name,
            "task_config": config,
            "metadata": event.metadata,
            "timestamp": event.timestamp,
            "retry_count": 0,
            "total_tasks": event.tasks.len(),
        });
        let told = vec![Attribute::text("entity_id", &event.entity_id), Attribute::text("task_name", name)];
        let hash = Job::new(config.clone()).input_sha256();
        Ok(Letter::in_group(job_id, hash, body.to_string(), group, told))
    }
}
