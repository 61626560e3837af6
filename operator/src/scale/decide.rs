//! The decision: how many workers, by which rule, and why.
//!
//! - An unknown depth holds the count.
//! - More workers at once and in one write; fewer only when the highest wish of the stabilization window is lower, never
//!   fewer than are busy, and not while a rollout goes on.
//! - Visible messages wake a consumer from zero, in-flight ones alone do not: the counts are approximate, and what is in
//!   flight may belong to a worker that has just gone. Zero needs an empty queue and idle workers for as long as the
//!   spec says.

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, Instant};

use millrace_api::ScalingSpec;

use super::inputs::Inputs;
use super::{History, Rule};
use crate::observe::Observed;
use crate::queue::Depth;
use crate::validate::Validated;

/// Why a count is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// As the rule says.
    Rule,
    /// The rule says fewer.
    MinReplicas,
    /// The rule says more.
    MaxReplicas,
    /// Nothing waits, and nobody works any more.
    QueueEmpty,
    /// Nothing waits, but messages may still come back: one worker stays for now.
    WaitingForZero,
    /// Fewer would do, but not for long enough yet.
    Stabilizing,
    /// Fewer would do, but these are at work.
    WorkersBusy,
    /// Fewer would do, but a rollout is going on.
    RolloutInProgress,
    /// The queue could not be read: the count stays.
    DepthUnknown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How many workers, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    /// Workers now.
    pub(crate) from: i32,
    /// Workers wanted; `from` where the count is held.
    pub(crate) desired: i32,
    /// The rule in use.
    pub(crate) rule: Rule,
    /// Why.
    pub(crate) reason: Reason,
    /// The reckoning in words.
    pub(crate) message: String,
    /// What it was made from.
    pub(crate) inputs: Inputs,
    /// When the same inputs would give another decision.
    pub(crate) recheck: Option<Duration>,
    /// For the next decision.
    pub(crate) history: History,
}

impl Decision {
    /// Whether the count is to stay whatever it is, rather than to become `desired`.
    pub(crate) fn holds(&self) -> bool {
        self.reason == Reason::DepthUnknown
    }
}

/// Decides from what was seen.
pub(crate) fn decide(spec: &Validated, seen: &Observed, now: Instant) -> Decision {
    decide_from(spec.rule, &spec.spec().scaling, &Inputs::of(spec, seen), &seen.history, now)
}

/// Decides from plain numbers: the same inputs and history give the same decision.
pub(super) fn decide_from(
    rule: Rule,
    scaling: &ScalingSpec,
    inputs: &Inputs,
    history: &History,
    now: Instant,
) -> Decision {
    let mut history = history.clone();
    let window = seconds(scaling.scale_down_stabilization_seconds);
    if history.is_new() {
        history.wish(now, inputs.from, window);
        history.last_active = Some(now);
    }
    history.service_seconds = inputs.reported_service_seconds.or(history.service_seconds);
    let from = inputs.from;
    let decision = |desired, reason, message, recheck, history| Decision {
        from,
        desired,
        rule,
        reason,
        message,
        inputs: inputs.clone(),
        recheck,
        history,
    };

    let depth = match &inputs.depth {
        Ok(depth) => *depth,
        Err(error) => {
            // Time in which nothing is known counts neither as quiet nor as a lower wish.
            history.wish(now, from, window);
            history.last_active = Some(now);
            let message = format!("the count is {from} until the queue can be read: {error}");
            return decision(from, Reason::DepthUnknown, message, None, history);
        }
    };

    let Wish { replicas, reckoning } = wish(rule, depth, inputs, history.service_seconds);
    let woken = from > 0 || depth.visible > 0;
    let wished = if woken { replicas } else { 0 }.clamp(scaling.min_replicas, scaling.max_replicas);
    history.wish(now, wished, window);
    if !depth.is_idle() || inputs.busy > 0 {
        history.last_active = Some(now);
    }

    if wished >= from {
        let reason = if wished == 0 {
            Reason::QueueEmpty
        } else if !woken || replicas < wished {
            Reason::MinReplicas
        } else if replicas > wished {
            Reason::MaxReplicas
        } else {
            Reason::Rule
        };
        let bound = match reason {
            Reason::MaxReplicas => format!(", and maxReplicas is {wished}"),
            Reason::MinReplicas => format!(", and minReplicas is {wished}"),
            Reason::QueueEmpty if depth.in_flight > 0 => "; messages in flight alone wake nobody".to_owned(),
            _ => String::new(),
        };
        return decision(wished, reason, format!("{reckoning}{bound}"), None, history);
    }

    // Fewer are wished for. Whatever holds them back, maxReplicas is never exceeded.
    let most = from.min(scaling.max_replicas);
    let quiet_from = history.last_active.unwrap_or(now) + seconds(scaling.scale_to_zero_after_seconds);
    let (highest, window_ends) = history.highest(window).unwrap_or((wished, now));
    let floors = [
        (highest.min(most), Reason::Stabilizing, Some(window_ends)),
        (i32::from(wished == 0 && now < quiet_from).min(most), Reason::WaitingForZero, Some(quiet_from)),
        (inputs.busy.min(most), Reason::WorkersBusy, None),
        // At zero there is nothing to roll out: a rollout that is stuck must not hold GPUs for ever.
        (if inputs.rolling && wished > 0 { most } else { 0 }, Reason::RolloutInProgress, None),
    ];
    let mut chosen = (wished, None);
    for (floor, reason, until) in floors {
        if floor > chosen.0 {
            chosen = (floor, Some((reason, until)));
        }
    }
    let recheck = floors.iter().filter(|(floor, ..)| *floor > wished).filter_map(|(_, _, until)| *until).min();
    let recheck = recheck.map(|until| until.saturating_duration_since(now));
    match chosen {
        (desired, Some((reason, until))) => {
            let left = until.map_or(0, |until| until.saturating_duration_since(now).as_secs());
            let message = format!("{reckoning}; {}", waiting(reason, desired, left, inputs));
            decision(desired, reason, message, recheck, history)
        }
        (0, None) => {
            let message = format!("{reckoning}; idle for {} s", scaling.scale_to_zero_after_seconds);
            decision(0, Reason::QueueEmpty, message, None, history)
        }
        (desired, None) => {
            let reason = match replicas.cmp(&desired) {
                Ordering::Less => Reason::MinReplicas,
                Ordering::Equal => Reason::Rule,
                Ordering::Greater => Reason::MaxReplicas,
            };
            let message = format!("{reckoning}; no more were needed for {} s", window.as_secs());
            decision(desired, reason, message, None, history)
        }
    }
}

fn waiting(reason: Reason, desired: i32, left: u64, inputs: &Inputs) -> String {
    let words = match reason {
        Reason::Stabilizing => format!("{desired} were needed within the stabilization window, which ends in {left} s"),
        Reason::WaitingForZero => format!("the last worker stays for another {left} s of quiet"),
        Reason::WorkersBusy => format!("{} of {} workers are at work", inputs.busy - inputs.silent, inputs.from),
        _ => "a rollout is going on".to_owned(),
    };
    match inputs.silent {
        0 => words,
        // They count as at work, and may be all that holds the count.
        silent => format!("{words}; {silent} do not answer on /state"),
    }
}

struct Wish {
    replicas: i32,
    reckoning: String,
}

/// The workers that a rule wants for this depth, before any bound.
fn wish(rule: Rule, depth: Depth, inputs: &Inputs, service_seconds: Option<f64>) -> Wish {
    let Depth { visible, in_flight, .. } = depth;
    match rule {
        Rule::MessagesPerReplica(messages) => {
            let total = visible.max(0).saturating_add(in_flight.max(0));
            let replicas = saturate((total as f64 / f64::from(messages)).ceil());
            let reckoning =
                format!("messagesPerReplica: ({visible} visible + {in_flight} in flight) / {messages} = {replicas}");
            Wish { replicas, reckoning }
        }
        Rule::QueueDelay(target) => {
            let service = inputs.service_seconds(service_seconds);
            // In-flight messages that no worker reports were received by one that is gone: they come back.
            let backlog = visible.max(0).saturating_add((in_flight - inputs.held).max(0));
            let target_or_service = f64::from(target).max(service);
            let replicas =
                saturate((backlog as f64 * service / target_or_service / inputs.concurrency.max(1.0)).ceil());
            let reckoning = format!(
                "queueDelaySeconds: {backlog} waiting × {service:.3} s / {target_or_service:.0} s / {:.0} at a time = {replicas}",
                inputs.concurrency
            );
            Wish { replicas, reckoning }
        }
    }
}

fn saturate(replicas: f64) -> i32 {
    // `as` saturates, and NaN becomes 0.
    replicas as i32
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs().into())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
