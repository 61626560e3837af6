//! Events: what happened, in order, as `kubectl describe` shows it.

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{self, Event, EventType, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};
use millrace_api::{LastScale, QueueConsumer, QueueConsumerStatus, condition, reason};

use crate::error::within;
use crate::status::Outcome;

/// Longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1000;

/// Events that kube remembers at the most, in whole, so as to count up one that comes again.
const REMEMBERED: u32 = 256;

/// Writes Events. What it remembers of them is bounded: a new one that could have counted up another is no harm, and an
/// outage of a thousand queues should not be a thousand Events in memory.
pub(crate) struct Recorder {
    client: Client,
    reporter: Reporter,
    current: Mutex<(events::Recorder, u32)>,
}

impl Recorder {
    pub(crate) fn new(client: Client, reporter: Reporter) -> Self {
        let current = Mutex::new((events::Recorder::new(client.clone(), reporter.clone()), 0));
        Self { client, reporter, current }
    }

    async fn publish(&self, event: &Event, about: &ObjectReference) -> Result<(), kube::Error> {
        let recorder = self.current();
        recorder.publish(event, about).await
    }

    /// One that has written fewer Events than it may.
    fn current(&self) -> events::Recorder {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1 == REMEMBERED {
            *current = (events::Recorder::new(self.client.clone(), self.reporter.clone()), 0);
        }
        current.1 += 1;
        current.0.clone()
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    warning: bool,
    reason: String,
    /// Within six minutes an Event of the same reason and action counts up the first one and keeps its text, so an
    /// action says as much as tells two Events apart.
    action: String,
    text: String,
}

impl Note {
    fn normal(reason: &str, action: impl Into<String>, text: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), action: action.into(), text: text.into() }
    }

    fn warning(reason: &str, action: impl Into<String>, text: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, action, text) }
    }
}

/// Tells what a pass did and found. An Event that cannot be written is logged and lost: nothing depends on it.
pub(crate) async fn publish(
    recorder: &Recorder,
    consumer: &QueueConsumer,
    outcome: &Outcome,
    before: &QueueConsumerStatus,
    after: &QueueConsumerStatus,
) {
    for note in notes(&consumer.name_any(), outcome, before, after) {
        let Note { warning, reason, action, text } = note;
        tracing::info!(reason, "{text}");
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let event = Event { type_, reason, note: Some(shortened(text)), action, secondary: None };
        if let Err(error) = within(recorder.publish(&event, &consumer.object_ref(&()))).await {
            tracing::warn!(%error, "an Event could not be written");
        }
    }
}

fn notes(name: &str, outcome: &Outcome, before: &QueueConsumerStatus, after: &QueueConsumerStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(applied) = outcome.applied() {
        if applied.created {
            notes.push(Note::normal("Created", "Create", format!("Created Deployment {name} and what belongs to it")));
        }
        if !applied.rollout.is_empty() {
            let text = format!("Rolling out a change of {}", applied.rollout.join(", "));
            notes.push(Note::normal("RolloutStarted", "Update", text));
        }
    }
    let change = |kind: &str| {
        let after = find(after, kind)?;
        let before = find(before, kind);
        let same = before.is_some_and(|b| b.status == after.status && b.reason == after.reason);
        (!same).then_some((before, after))
    };
    if let Some((_, now)) = change(condition::READY)
        && is_obstacle(now)
    {
        notes.push(Note::warning(&now.reason, "Apply", now.message.clone()));
    }
    if let Some((before, now)) = change(condition::QUEUE_ACCESSIBLE) {
        match now.status.as_str() {
            "False" => notes.push(Note::warning(&now.reason, "ReadQueue", now.message.clone())),
            "True" if before.is_none_or(|b| b.status == "Unknown") => {
                notes.push(Note::normal("QueueAccessible", "ReadQueue", "The queue's counts can be read"));
            }
            "True" => notes.push(Note::normal("QueueAccessible", "ReadQueue", "The queue's counts can be read again")),
            _ => {}
        }
    }
    if let Some(LastScale { from, to, message, .. }) = &after.last_scale
        && after.last_scale != before.last_scale
    {
        let text = format!("Scaled from {from} to {to} workers: {message}");
        notes.push(Note::normal("Scaled", format!("ScaleFrom{from}To{to}"), text));
    }
    if let Some((before, now)) = change(condition::WORKERS_AVAILABLE) {
        if now.status == "False" && !is_obstacle(now) {
            notes.push(Note::warning(&now.reason, "StartWorkers", now.message.clone()));
        } else if now.reason == reason::AS_EXPECTED && before.is_some() {
            let text = format!("{} of {} workers are ready", after.ready_replicas, after.desired_replicas);
            notes.push(Note::normal("WorkersReady", format!("Ready{}", after.ready_replicas), text));
        }
    }
    // Where no worker is ready because of it, that was told already.
    if let Some((_, now)) = change(condition::DEGRADED)
        && notes.iter().all(|note| note.reason != now.reason)
    {
        notes.push(Note::warning(&now.reason, "Work", now.message.clone()));
    }
    notes
}

/// Something is wrong with the spec or with applying it: told once, with Ready.
fn is_obstacle(condition: &Condition) -> bool {
    [reason::INVALID_SPEC, reason::NAME_TAKEN, reason::APPLY_FAILED].contains(&condition.reason.as_str())
}

fn find<'a>(status: &'a QueueConsumerStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == kind)
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
