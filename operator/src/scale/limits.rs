//! What keeps more workers from being of use: models that fail, pods that do not come up, message groups, budgets.

use super::History;
use super::inputs::Inputs;

/// For how long every job must have failed before workers are taken away, in seconds.
const FAILING: f64 = 60.0;
/// For how long after workers found no free message group none is added, in seconds.
const GROUPS: f64 = 600.0;
/// The part of a FIFO queue's slots that must be taken before there are more of them.
const TAKEN: f64 = 0.5;
/// And for so long, in seconds: two messages of one group may come in one receive, and one look sees them.
const LASTS: f64 = 4.0;

/// The most workers that make sense now, and what says so.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Limit {
    pub(super) replicas: i32,
    pub(super) kind: Kind,
    pub(super) words: String,
}

/// What limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every attempt fails.
    JobsFailing,
    /// No worker comes up.
    WorkersBroken,
    /// Fewer workers come up than do not.
    SomeBroken,
    /// Pods wait for nodes that do not come.
    Unschedulable,
    /// Workers of a FIFO queue find no free message group.
    BlockedByMessageGroups,
    /// A FIFO queue's message groups are found out step by step.
    ExploringMessageGroups,
    /// A GPU budget leaves no more.
    BudgetLimited,
}

impl Kind {
    /// Whether workers beyond it are of no use, rather than only more of them.
    pub(super) fn takes_away(self) -> bool {
        !matches!(self, Self::Unschedulable | Self::ExploringMessageGroups | Self::SomeBroken)
    }
}

impl Limit {
    /// What the spec wants whatever happens stays; but there are no more GPUs than there are.
    fn at_least(self, least: i32) -> Self {
        let least = if self.kind == Kind::BudgetLimited { 0 } else { least };
        Self { replicas: self.replicas.max(least), ..self }
    }
}

/// The tightest limit that holds now, where the spec wants at least so many.
pub(super) fn limit(inputs: &Inputs, least: i32, history: &mut History, now: f64) -> Option<Limit> {
    let limits =
        [failing(inputs, history, now), broken(inputs), stuck(inputs), groups(inputs, history, now), budget(inputs)];
    limits.into_iter().flatten().map(|limit| limit.at_least(least)).min_by_key(|limit| limit.replicas)
}

/// One worker goes on trying, so that the model's recovery is noticed. Others are taken away when that has held for a
/// while. With the last message and the last worker it is forgotten.
fn failing(inputs: &Inputs, history: &mut History, now: f64) -> Option<Limit> {
    let over = inputs.from == 0 && inputs.depth.as_ref().is_ok_and(|depth| depth.visible == 0 && depth.in_flight == 0);
    if inputs.healthy || over {
        history.failing = None;
    }
    if let Some(failure) = &inputs.failing {
        let since = history.failing.as_ref().map_or(now, |(since, _)| *since);
        history.failing = Some((since, failure.clone()));
    }
    let (since, failure) = history.failing.as_ref()?;
    let words = format!("every job fails ({}: {}), so one worker goes on trying", failure.code, failure.message);
    let replicas = if now - since < FAILING { inputs.from.max(1) } else { 1 };
    Some(Limit { replicas, kind: Kind::JobsFailing, words })
}

/// Where none is ready, none on its way and all are in trouble, one is enough to see the end of it. Where fewer came up than
/// did not, no more are asked for; those in trouble stay, as a ReplicaSet would rather delete others.
fn broken(inputs: &Inputs) -> Option<Limit> {
    let pods = &inputs.pods;
    if pods.starting > 0 || pods.broken <= pods.ready {
        return None;
    }
    let words = format!("{} of {} workers do not come up (see WorkersAvailable)", pods.broken, inputs.from);
    Some(if pods.ready == 0 {
        Limit { replicas: 1, kind: Kind::WorkersBroken, words }
    } else {
        Limit { replicas: inputs.from, kind: Kind::SomeBroken, words }
    })
}

fn stuck(inputs: &Inputs) -> Option<Limit> {
    (inputs.pods.stuck > 0).then(|| Limit {
        replicas: inputs.from,
        kind: Kind::Unschedulable,
        words: format!(
            "{} pods have waited for a node for longer than schedulingTimeoutSeconds (see WorkersAvailable)",
            inputs.pods.stuck
        ),
    })
}

/// SQS does not tell how many message groups there are. So workers are doubled as long as most of their slots are taken,
/// and none is added while slots stay free although messages wait.
fn groups(inputs: &Inputs, history: &mut History, now: f64) -> Option<Limit> {
    if !inputs.fifo {
        return None;
    }
    // Jobs of workers that do not answer cannot be counted: they neither show that slots are free nor ask for more.
    let held = inputs.held as f64 + f64::from(inputs.silent) * inputs.slots;
    let slots = inputs.slots * f64::from(inputs.pods.ready);
    let waits = inputs.depth.as_ref().is_ok_and(|depth| depth.visible > 0);
    if !waits {
        // The last messages of a backlog are always in few groups; the next ones need not be.
        history.groups_until = None;
    }
    if inputs.blocked {
        history.groups_full_since = None;
        history.groups_until = Some(now + GROUPS);
        history.groups_workers = inputs.busy.max(1);
    }
    if let Some(until) = history.groups_until.filter(|until| now < *until) {
        let words = format!(
            "workers with free slots receive nothing: the messages that wait belong to message groups that are at work (looked at again in {:.0} s)",
            until - now
        );
        return Some(Limit { replicas: history.groups_workers, kind: Kind::BlockedByMessageGroups, words });
    }
    let pods = &inputs.pods;
    let least = inputs.from.max(1);
    // Were there more groups than slots, the slots would be taken.
    if pods.ready > 0 && held <= slots * TAKEN {
        history.groups_full_since = None;
        let words = format!(
            "workers hold {held:.0} jobs in {slots:.0} slots although messages wait: those belong to message groups that are at work"
        );
        return Some(Limit { replicas: least, kind: Kind::BlockedByMessageGroups, words });
    }
    let full = pods.ready > 0 && inputs.silent == 0;
    history.groups_full_since = history.groups_full_since.or(Some(now)).filter(|_| full);
    let more = pods.starting == 0 && history.groups_full_since.is_some_and(|since| now - since >= LASTS);
    let replicas = if more { least.max(pods.ready.saturating_mul(2)) } else { least };
    let words = "a FIFO queue's workers are doubled as long as they find message groups".into();
    Some(Limit { replicas, kind: Kind::ExploringMessageGroups, words })
}

fn budget(inputs: &Inputs) -> Option<Limit> {
    let grant = inputs.grant.as_ref()?;
    Some(Limit { replicas: grant.replicas, kind: Kind::BudgetLimited, words: grant.words.clone() })
}
