//! A plan of faults: which calls they strike and what they do, as a test writes it down.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::operation::{Operation, Service};

/// What goes wrong from now on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Of all chances.
    pub seed: u64,
    /// Each is asked for every call that it names. Of the effects on a call as a whole the first that strikes counts.
    pub rules: Vec<Rule>,
}

/// One sort of fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The calls that it names.
    pub operations: Vec<Operation>,
    /// Of these, only those on a queue or a key whose name ends so; empty for all.
    pub name_ends: String,
    /// Which of them it strikes.
    pub when: When,
    /// What it does.
    pub effect: Effect,
}

/// Which of the calls that a rule names it strikes.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Each.
    Always,
    /// Each with this probability.
    Chance(f64),
    /// The n-th to the m-th, counted from 1.
    Calls(RangeInclusive<u64>),
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// An error is the answer, and nothing is done.
    Refuse(Refusal),
    /// The connection is closed, and nothing is done.
    DropBefore,
    /// It is done, and then the connection is closed: a lost acknowledgement, a 412 for one's own write.
    DropAfter,
    /// It is done now and answered so much later.
    Late(RangeInclusive<Duration>),
    /// It is done and answered so much later, even if the client has gone by then.
    Slow(RangeInclusive<Duration>),
    /// Nothing is done and nothing is ever answered.
    Hang,
    /// Each entry of a batch is said to have failed with probability `share`; of these, `done` were done.
    FailEntries {
        /// Probability that an entry fails.
        share: f64,
        /// Probability that a failed entry was done all the same.
        done: f64,
    },
    /// Each message that is deleted from a standard queue, and its delete answered well, is there all the same with this
    /// probability: one of SQS's copies was out of reach.
    LoseDelete(f64),
    /// A receive from a standard queue also gives out each of the oldest messages in flight with this probability.
    Duplicate(f64),
    /// Each received message is visible again after so little time with probability `share`, whatever lease was asked
    /// for: once another has received it, its handle is stale.
    StaleHandle {
        /// Probability that a message's lease ends early.
        share: f64,
        /// When it does.
        after: RangeInclusive<Duration>,
    },
    /// Each count among a queue's attributes is wrong by up to so many, but never below zero.
    LyingCounts(u64),
}

/// An error as the services give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// S3, 503: fewer requests, please.
    SlowDown,
    /// SQS, 400: the same.
    RequestThrottled,
    /// Both, 500.
    InternalError,
    /// Both, 503.
    ServiceUnavailable,
    /// Both: 403 of S3, 400 of SQS.
    AccessDenied,
    /// S3, 409: another conditional write of the key is under way.
    ConditionalRequestConflict,
}

/// A plan that would not do what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} of the plan: {problem}")]
pub struct PlanError {
    /// Its place in `Plan::rules`.
    pub rule: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Rule {
    /// A rule for every call of `operation`.
    pub fn on(operation: Operation, effect: Effect) -> Self {
        Self::on_any([operation], effect)
    }

    /// A rule for every call of these.
    pub fn on_any(operations: impl Into<Vec<Operation>>, effect: Effect) -> Self {
        Self { operations: operations.into(), name_ends: String::new(), when: When::Always, effect }
    }

    /// Only where the queue's name or the object's key ends so.
    #[must_use]
    pub fn named(mut self, name_ends: impl Into<String>) -> Self {
        self.name_ends = name_ends.into();
        self
    }

    /// Each call with this probability.
    #[must_use]
    pub fn chance(mut self, probability: f64) -> Self {
        self.when = When::Chance(probability);
        self
    }

    /// Only the `n`-th call, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.calls(n..=n)
    }

    /// Only these calls, counted from 1.
    #[must_use]
    pub fn calls(mut self, calls: RangeInclusive<u64>) -> Self {
        self.when = When::Calls(calls);
        self
    }

    /// Why it would not do what it says.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.operations.is_empty() {
            return Some("it names no operation".into());
        }
        if let Some(unfit) = self.operations.iter().find(|operation| !self.effect.fits(**operation)) {
            return Some(format!("{:?} has no effect on {unfit:?}", self.effect));
        }
        match &self.when {
            When::Chance(p) if !is_probability(*p) => return Some(format!("{p} is no probability")),
            When::Calls(calls) if calls.is_empty() || *calls.start() == 0 => {
                return Some(format!("{calls:?} names no call: calls are counted from 1"));
            }
            _ => {}
        }
        match &self.effect {
            Effect::FailEntries { share, done: other } => [share, other].into_iter().find(|p| !is_probability(**p)),
            Effect::Duplicate(share) | Effect::StaleHandle { share, .. } => {
                Some(share).filter(|p| !is_probability(**p))
            }
            _ => None,
        }
        .map(|p| format!("{p} is no probability"))
        .or_else(|| match &self.effect {
            Effect::Late(time) | Effect::Slow(time) | Effect::StaleHandle { after: time, .. } if time.is_empty() => {
                Some(format!("{time:?} is no span of time: its end is before its start"))
            }
            _ => None,
        })
    }
}

fn is_probability(p: f64) -> bool {
    (0.0..=1.0).contains(&p)
}

impl Effect {
    /// Whether it can do anything to this operation.
    fn fits(&self, operation: Operation) -> bool {
        match self {
            Self::Refuse(Refusal::SlowDown) => operation.service() == Service::S3,
            Self::Refuse(Refusal::ConditionalRequestConflict) => {
                matches!(operation, Operation::PutObject | Operation::DeleteObject)
            }
            Self::Refuse(Refusal::RequestThrottled) => operation.service() == Service::Sqs,
            Self::FailEntries { .. } => operation.is_batch(),
            Self::LoseDelete(_) => matches!(operation, Operation::DeleteMessage | Operation::DeleteMessageBatch),
            Self::Duplicate(_) | Self::StaleHandle { .. } => operation == Operation::ReceiveMessage,
            Self::LyingCounts(_) => operation == Operation::GetQueueAttributes,
            _ => true,
        }
    }
}
