//! How many workers a queue needs: [`decide()`] is pure, and its decision carries what it was made from.
//!
//! The flow: [`Inputs`] from what was observed, `estimate` learns from them, `need` reckons, `limits` and the spec bound
//! it, `warmth` says how long the last worker stays, and `decide` puts it all together.

pub(crate) mod budget;
mod decide;
mod estimate;
mod history;
mod inputs;
mod limits;
mod need;
pub(crate) mod replay;
pub(crate) mod schedule;
mod warmth;

use std::fmt;

use millrace_api::ScalingTarget;
use serde::{Deserialize, Serialize};

pub(crate) use decide::{Decision, Reason, decide};
pub(crate) use estimate::two_digits;
pub(crate) use history::History;

use crate::validate::Problem;

/// The rule of `spec.scaling.target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rule {
    /// One worker for so many messages.
    MessagesPerReplica(i32),
    /// So many seconds until the oldest waiting message starts.
    QueueDelay(i32),
}

impl Rule {
    /// The rule that a spec names.
    pub(crate) fn of(target: &ScalingTarget) -> Result<Self, Problem> {
        match (target.messages_per_replica, target.queue_delay_seconds) {
            (Some(messages), None) => Ok(Self::MessagesPerReplica(messages.max(1))),
            (None, Some(seconds)) => Ok(Self::QueueDelay(seconds.max(1))),
            _ => Err(Problem::new(
                "spec.scaling.target",
                "exactly one of queueDelaySeconds, messagesPerReplica must be set",
            )),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MessagesPerReplica(_) => f.write_str("MessagesPerReplica"),
            Self::QueueDelay(_) => f.write_str("QueueDelay"),
        }
    }
}
