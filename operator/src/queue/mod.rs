//! The depth of SQS queues: where each one is, what was read last, and the plan by which it is read.
//!
//! A queue is read by a task of its own, not by reconcile, so that many QueueConsumers and many passes cost no calls.
//! An unknown depth is an error with a reason and never zero.

mod address;
mod error;
mod plan;
mod poll;
mod read;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use address::QueueAddress;
pub(crate) use error::QueueError;
pub(crate) use plan::{JITTER, Outlook, interval};
pub(crate) use poll::{Queues, Trigger};
pub(crate) use read::{AwsReader, Read};

/// A reading older than this says nothing about now.
const STALE: Duration = Duration::from_mins(3);

/// The counts of a queue, as SQS reports them (approximate).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Depth {
    /// Messages that can be received now.
    pub(crate) visible: i64,
    /// Messages that are hidden because somebody received them.
    pub(crate) in_flight: i64,
    /// Messages that become visible later.
    pub(crate) delayed: i64,
}

impl Depth {
    /// Nothing waits and nobody holds anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.visible == 0 && self.in_flight == 0
    }
}

/// What a queue's depth was, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When SQS answered.
    pub(crate) at: Instant,
    /// Its answer.
    pub(crate) depth: Result<Depth, QueueError>,
}

impl Reading {
    /// Nothing was read yet.
    pub(crate) fn none(now: Instant) -> Self {
        Self { at: now, depth: Err(QueueError::NotReadYet) }
    }

    /// This reading as of `now`: unknown where it is too old.
    fn as_of(&self, now: Instant) -> Self {
        let age = now.saturating_duration_since(self.at);
        match &self.depth {
            Ok(_) if age > STALE => Self { at: self.at, depth: Err(QueueError::Stale { seconds: age.as_secs() }) },
            _ => self.clone(),
        }
    }

    /// Whether a pass of reconcile would see something else than with `before`.
    fn differs(&self, before: &Self) -> bool {
        match (&self.depth, &before.depth) {
            (Ok(now), Ok(before)) => now != before,
            (Err(now), Err(before)) => now.reason() != before.reason(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_reading_is_unknown_and_never_zero() {
        let start = Instant::now();
        let reading = Reading { at: start, depth: Ok(Depth { visible: 7, ..Depth::default() }) };
        assert_eq!(reading.as_of(start + STALE), reading);
        let old = reading.as_of(start + STALE + Duration::from_secs(1));
        assert_eq!(old.depth, Err(QueueError::Stale { seconds: 181 }));
    }
}
