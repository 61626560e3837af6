//! The decision: how many workers, by which rule, and why.
//!
//! - An unknown depth holds the count.
//! - More workers at once and in one write, up to what can be of use (`limits.rs`); fewer only when the highest wish of
//!   the stabilization window is lower, never fewer than the jobs that are held need, and not while a rollout goes on.
//! - Visible messages wake a consumer from zero, in-flight ones alone do not: the counts are approximate, and what is in
//!   flight may belong to a worker that has just gone. Zero needs an empty queue and idle workers for as long as
//!   `warmth.rs` says.

use std::fmt;
use std::time::{Duration, Instant};

use millrace_api::{ScalingMode, ScalingSpec};
use serde::{Deserialize, Serialize};

use super::budget::Grant;
use super::estimate::Reported;
use super::inputs::Inputs;
use super::limits::{Kind, Limit, limit};
use super::need::{Load, Need, need};
use super::warmth::{Warmth, warmth, window};
use super::{History, Rule};
use crate::clock;
use crate::observe::Observed;
use crate::queue::Depth;
use crate::validate::Validated;

/// Messages in flight that no worker holds come back when their lease ends. Those that have not come back so long after
/// it are hidden until they are tried again or begun, and nobody need wait for them, in seconds.
const COMING_BACK: f64 = 60.0;
/// Time goes by as quiet only with readings younger than this: the longest interval between two, and a little more.
const FRESH: f64 = 45.0;
/// A queue delay, in seconds, where none is promised and one is needed to judge by.
const USUAL: f64 = 60.0;

/// Why a count is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// As the rule says.
    Rule,
    /// The rule says fewer.
    MinReplicas,
    /// The rule says fewer than a schedule that holds now.
    Scheduled,
    /// The rule says more.
    MaxReplicas,
    /// Nothing waits, and nobody works any more.
    QueueEmpty,
    /// Nothing waits, but messages may still come back: one worker stays for now.
    WaitingForZero,
    /// Fewer would do, but not for long enough yet.
    Stabilizing,
    /// Fewer would do, but the jobs that are held need these.
    WorkersBusy,
    /// Fewer would do, but a rollout is going on.
    RolloutInProgress,
    /// The queue could not be read: the count stays.
    DepthUnknown,
    /// Every job fails: more workers would only fail more of them.
    JobsFailing,
    /// Workers do not come up: more would not either.
    WorkersBroken,
    /// Pods wait for nodes that do not come.
    Unschedulable,
    /// Workers of a FIFO queue find no free message group.
    BlockedByMessageGroups,
    /// A FIFO queue's message groups are found out step by step.
    ExploringMessageGroups,
    /// A GPU budget leaves no more.
    BudgetLimited,
    /// `scaling.mode` is Paused.
    Paused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<Kind> for Reason {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::JobsFailing => Self::JobsFailing,
            Kind::WorkersBroken | Kind::SomeBroken => Self::WorkersBroken,
            Kind::Unschedulable => Self::Unschedulable,
            Kind::BlockedByMessageGroups => Self::BlockedByMessageGroups,
            Kind::ExploringMessageGroups => Self::ExploringMessageGroups,
            Kind::BudgetLimited => Self::BudgetLimited,
        }
    }
}

/// How many workers, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    /// Workers now.
    pub(crate) from: i32,
    /// Workers wanted; `from` where the count is held.
    pub(crate) desired: i32,
    /// Workers that the rule and the spec's bounds want, whatever else limits them.
    pub(crate) wanted: i32,
    /// The rule in use.
    pub(crate) rule: Rule,
    /// Why.
    pub(crate) reason: Reason,
    /// The reckoning in words.
    pub(crate) message: String,
    /// Whether it is carried out.
    pub(crate) mode: ScalingMode,
    /// For how many seconds the oldest message has waited, as far as is known.
    pub(crate) oldest_seconds: Option<f64>,
    /// What it was made from.
    pub(crate) inputs: Inputs,
    /// When the same inputs would give another decision.
    pub(crate) recheck: Option<Duration>,
    /// For the next decision.
    pub(crate) history: History,
}

impl Decision {
    /// The same decision where a GPU budget leaves no more than that.
    pub(crate) fn granted(self, spec: &Validated, seen: &Observed, grant: Grant, now: Instant) -> Self {
        let inputs = Inputs { grant: Some(grant), ..self.inputs };
        decide_from(&Terms::of(spec), &inputs, &seen.history, clock::seconds(now))
    }

    /// Whether the count is to stay whatever it is, rather than to become `desired`.
    pub(crate) fn holds(&self) -> bool {
        self.reason == Reason::DepthUnknown || self.mode != ScalingMode::Active
    }

    /// The reason in one word: the rule's name where nothing stood in its way.
    pub(crate) fn word(&self) -> String {
        match self.reason {
            Reason::Rule => self.rule.to_string(),
            reason => reason.to_string(),
        }
    }
}

/// Decides from what was seen.
pub(crate) fn decide(spec: &Validated, seen: &Observed, now: Instant) -> Decision {
    decide_from(&Terms::of(spec), &Inputs::of(spec, seen, now), &seen.history, clock::seconds(now))
}

/// What a spec says about scaling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) rule: Rule,
    pub(crate) scaling: &'a ScalingSpec,
    /// The visibility timeout, in seconds.
    pub(crate) lease: f64,
}

impl<'a> Terms<'a> {
    pub(crate) fn of(spec: &'a Validated) -> Self {
        let lease = f64::from(spec.spec().queue.visibility_timeout_seconds);
        Self { rule: spec.rule, scaling: &spec.spec().scaling, lease }
    }
}

/// Decides from plain numbers: the same inputs and history give the same decision. `now` is in seconds since 1970.
pub(crate) fn decide_from(terms: &Terms<'_>, inputs: &Inputs, history: &History, now: f64) -> Decision {
    let Terms { rule, scaling, .. } = *terms;
    let mut history = history.clone();
    let start = history.estimates.ready_seconds(inputs.gpu);
    let window = window(scaling.scale_down_stabilization_seconds, target_of(rule), start);
    let from = inputs.from;
    if history.is_new() {
        history.wish(now, from, window);
        history.last_active = Some(now);
    }
    let mut decision = Decision {
        from,
        desired: from,
        wanted: from,
        rule,
        reason: Reason::DepthUnknown,
        message: String::new(),
        mode: scaling.mode,
        oldest_seconds: None,
        inputs: inputs.clone(),
        recheck: None,
        history: History::default(),
    };
    if scaling.mode == ScalingMode::Paused {
        // When it goes on, nothing is known about the time in between.
        decision.reason = Reason::Paused;
        decision.message = "scaling.mode is Paused: the worker count is left alone".into();
        decision.history = history.forget();
        return decision;
    }
    let depth = match &inputs.depth {
        Ok(depth) => *depth,
        Err(error) => {
            // Time in which nothing is known counts neither as quiet nor as a lower wish.
            history.wish(now, from, window);
            history.last_active = Some(now);
            decision.message = format!("the count is {from} until the queue can be read: {error}");
            decision.history = history;
            return decision;
        }
    };

    measure(terms, inputs, depth, &mut history, now);
    let load = load(inputs, depth, &history, terms.lease, now);
    decision.oldest_seconds =
        (depth.visible > 0).then(|| load.waiting.first().map(|oldest| (now - oldest.since).max(0.0))).flatten();
    let Need { replicas, words } = need(rule, &load);
    let least = scaling.min_replicas.max(inputs.floor.replicas).min(scaling.max_replicas);
    let woken = from > 0 || depth.visible > 0;
    // Somebody has to receive what waits, even where it is nothing to speak of.
    let replicas = if woken && load.backlog > 0.0 { replicas.max(1) } else { replicas };
    let wanted = if woken { replicas } else { 0 }.clamp(least, scaling.max_replicas);
    decision.wanted = wanted;
    let limit = limit(inputs, least, &mut history, now);
    // Whatever holds fewer workers back, a bound that takes workers away is kept: they end what they do.
    let taken = limit.as_ref().filter(|limit| limit.kind.takes_away()).map_or(i32::MAX, |limit| limit.replicas);
    let limit = limit.filter(|limit| limit.replicas < wanted);
    let wished = limit.as_ref().map_or(wanted, |limit| limit.replicas);
    history.wish(now, wished, window);
    let old = decision.oldest_seconds.is_some_and(|age| age > target_of(rule).unwrap_or(USUAL) / 4.0);
    // Who gets work, or all that it can take, may see the first of many messages.
    let full = inputs.pods.ready > 0 && inputs.held as f64 >= inputs.slots * f64::from(inputs.pods.ready);
    let was = std::mem::replace(&mut history.was, (inputs.busy > 0, full));
    let more = (inputs.busy > 0 && !was.0) || (full && !was.1);
    if wished != from || old || more || history.unsettled.is_none() {
        history.unsettled = Some(now);
    }
    let idle = depth.visible == 0 && depth.in_flight == load.hidden;
    // A reading that is old says nothing about now.
    if !idle || inputs.busy > 0 || now - inputs.read_at > FRESH {
        history.last_active = Some(now);
    }

    let reason = |chosen: i32| match &limit {
        Some(Limit { kind, .. }) => Reason::from(*kind),
        None if chosen == 0 => Reason::QueueEmpty,
        None if chosen > replicas || !woken => {
            if chosen > scaling.min_replicas {
                Reason::Scheduled
            } else {
                Reason::MinReplicas
            }
        }
        None if replicas > chosen => Reason::MaxReplicas,
        None => Reason::Rule,
    };
    let bound = match (reason(wished), &limit) {
        (_, Some(limit)) => format!("; {}", limit.words),
        (Reason::MaxReplicas, _) => format!(", and maxReplicas is {wished}"),
        (Reason::MinReplicas, _) => format!(", and minReplicas is {wished}"),
        (Reason::Scheduled, _) => format!(", and the schedule {} wants {wished}", inputs.floor.words),
        (Reason::QueueEmpty, _) if depth.in_flight > 0 => "; messages in flight alone wake nobody".into(),
        _ => String::new(),
    };
    let boundary = inputs.floor.changes_in.map(Duration::from_secs_f64);
    if wished >= from {
        decision.desired = wished;
        decision.reason = reason(wished);
        decision.message = format!("{words}{bound}");
        decision.recheck = boundary;
        decision.history = history;
        return decision;
    }

    // Fewer are wished for.
    let most = from.min(scaling.max_replicas).min(taken);
    let Warmth { seconds: quiet, words: why_warm } = warmth(
        f64::from(scaling.scale_to_zero_after_seconds),
        target_of(rule),
        history.estimates.ready_seconds(inputs.gpu),
        &history.estimates.gaps,
    );
    let quiet_until = history.last_active.unwrap_or(now) + quiet;
    let (highest, window_ends) = history.highest(window).unwrap_or((wished, now));
    let floors = [
        (highest.min(most), Reason::Stabilizing, Some(window_ends)),
        (i32::from(wished == 0 && now < quiet_until).min(most), Reason::WaitingForZero, Some(quiet_until)),
        (at_work(inputs).min(most), Reason::WorkersBusy, None),
        // At zero there is nothing to roll out: a rollout that is stuck must not hold GPUs for ever.
        (if inputs.rolling && wished > 0 { most } else { 0 }, Reason::RolloutInProgress, None),
    ];
    let mut chosen = (wished, None);
    for (floor, reason, until) in floors {
        if floor > chosen.0 {
            chosen = (floor, Some((reason, until)));
        }
    }
    let ends = floors.iter().filter(|(floor, ..)| *floor > wished).filter_map(|(_, _, until)| *until);
    let recheck = ends.min_by(f64::total_cmp).map(|until| Duration::from_secs_f64((until - now).max(0.0)));
    decision.recheck = [recheck, boundary].into_iter().flatten().min();
    decision.desired = chosen.0;
    (decision.reason, decision.message) = match chosen.1 {
        Some((reason, until)) => {
            let left = until.map_or(0.0, |until| (until - now).max(0.0));
            let waits = waiting(reason, chosen.0, left, inputs, &why_warm);
            (reason, format!("{words}{bound}; {waits}"))
        }
        None if chosen.0 == 0 => (Reason::QueueEmpty, format!("{words}; idle for {quiet:.0} s ({why_warm})")),
        None if taken < i32::MAX => (reason(chosen.0), format!("{words}{bound}")),
        None => (reason(chosen.0), format!("{words}{bound}; no more were needed for {window:.0} s")),
    };
    decision.history = history;
    decision
}

/// Workers that the jobs which are held need, and those that cannot be asked. Jobs may be spread over more: those who are to
/// go take no new ones and end theirs first.
fn at_work(inputs: &Inputs) -> i32 {
    let needed = (inputs.held as f64 / inputs.slots.max(1.0)).ceil() as i32;
    needed.saturating_add(inputs.silent).min(inputs.busy)
}

/// The queue delay that is promised, in seconds.
fn target_of(rule: Rule) -> Option<f64> {
    match rule {
        Rule::QueueDelay(target) => Some(f64::from(target)),
        Rule::MessagesPerReplica(_) => None,
    }
}

/// Learns from what was seen.
fn measure(terms: &Terms<'_>, inputs: &Inputs, depth: Depth, history: &mut History, now: f64) {
    let reported = Reported { service: inputs.service_seconds, done: &inputs.done, there: &inputs.pods.names };
    let done = history.estimates.learn(&reported);
    history.estimates.arrivals.done(done);
    let total = depth.visible.max(0).saturating_add(depth.in_flight.max(0)).saturating_add(depth.delayed.max(0));
    let age = inputs.oldest_seconds.filter(|_| depth.visible > 0).unwrap_or_default();
    let keep = 2.0 * target_of(terms.rule).unwrap_or(USUAL);
    history.estimates.arrivals.read(inputs.read_at, total as f64, age, keep);
    for (name, took) in &inputs.pods.took {
        // Those that were there before this operator may have been ready more than once.
        if history.seen.insert(name.clone()) && history.unsettled.is_some() {
            history.estimates.started(*took);
        }
    }
    history.seen.extend(inputs.pods.troubled.iter().cloned());
    history.seen.retain(|name| inputs.pods.names.contains(name));
    // A message after a silence: for how long it was silent.
    if let Some(since) = history.last_active
        && (depth.visible > 0 || inputs.busy > 0)
        && now - since >= 30.0
    {
        history.estimates.gaps.add(now - since);
    }
    let unheld = depth.in_flight > inputs.held;
    history.unheld_since = if unheld { history.unheld_since.or(Some(now)) } else { None };
}

fn load(inputs: &Inputs, depth: Depth, history: &History, lease: f64, now: f64) -> Load {
    let estimates = &history.estimates;
    // In-flight messages that no worker reports were received by one that is gone: they come back, if they do so soon.
    let unheld = (depth.in_flight - inputs.held).max(0);
    let coming_back = history.unheld_since.is_none_or(|since| now - since <= lease + COMING_BACK);
    let backlog = depth.visible.max(0).saturating_add(if coming_back { unheld } else { 0 }) as f64;
    // Before the first job has ended, those that run tell how long one takes at least.
    let running = || inputs.running_seconds.unwrap_or_default().max(inputs.service_prior);
    let service = estimates.service.unwrap_or_else(running);
    Load {
        visible: depth.visible,
        in_flight: depth.in_flight,
        hidden: if coming_back { 0 } else { unheld },
        backlog,
        waiting: estimates.arrivals.waiting(backlog, now),
        rate: estimates.arrivals.rate(now).unwrap_or_default(),
        service,
        slots: inputs.slots.max(1.0),
        ready_seconds: estimates.ready_seconds(inputs.gpu),
        ready: inputs.pods.ready,
        starting: inputs.pods.starting,
        starting_age: inputs.pods.starting_age,
        now,
    }
}

fn waiting(reason: Reason, desired: i32, left: f64, inputs: &Inputs, why_warm: &str) -> String {
    let words = match reason {
        Reason::Stabilizing => {
            format!("{desired} were needed within the stabilization window, which ends in {left:.0} s")
        }
        Reason::WaitingForZero => format!("the last worker stays for another {left:.0} s of quiet ({why_warm})"),
        Reason::WorkersBusy => format!("{} of {} workers are at work", inputs.busy - inputs.silent, inputs.from),
        _ => "a rollout is going on".to_owned(),
    };
    match inputs.silent {
        0 => words,
        // They count as at work, and may be all that holds the count.
        silent => format!("{words}; {silent} do not answer on /state"),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
