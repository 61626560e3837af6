//! The conditions, without their times: what is true after a pass, why, and what to do.

use millrace_api::{ScalingMode, condition, reason};

use super::trouble::{Trouble, of_pods, of_workers};
use super::{Finding, Outcome};
use crate::observe::{Observed, deployment_replicas};
use crate::queue::QueueError;
use crate::scale::{Decision, Reason};

/// All conditions after a pass, in a fixed order.
pub(super) fn of(seen: &Observed, outcome: &Outcome, desired: i32) -> Vec<Finding> {
    let view = View::of(seen, outcome, desired);
    let mut findings = vec![view.ready(), view.queue_accessible(), view.workers_available(), view.scaling_active()];
    findings.extend(view.reconciling());
    findings.extend(view.stalled());
    findings.extend(view.degraded());
    findings.extend(view.budget_limited());
    findings.extend(view.queue_shared());
    findings
}

/// What the conditions are made from.
struct View<'a> {
    seen: &'a Observed,
    outcome: &'a Outcome,
    desired: i32,
    ready: i32,
    trouble: Option<Trouble>,
    problem: Option<Trouble>,
}

impl<'a> View<'a> {
    fn of(seen: &'a Observed, outcome: &'a Outcome, desired: i32) -> Self {
        let live = seen.deployment.as_deref().map_or(desired, deployment_replicas);
        let status = seen.deployment.as_ref().and_then(|d| d.status.as_ref());
        Self {
            seen,
            outcome,
            desired: if let Outcome::Invalid(_) = outcome { live } else { desired },
            ready: status.and_then(|s| s.ready_replicas).unwrap_or_default(),
            trouble: of_pods(seen),
            problem: of_workers(seen),
        }
    }

    fn queue_error(&self) -> Option<&QueueError> {
        self.seen.reading.depth.as_ref().err()
    }

    /// What is wrong with the spec or with applying it.
    fn obstacle(&self) -> Option<(&'static str, String)> {
        match self.outcome {
            Outcome::Invalid(problems) => {
                let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Some((reason::INVALID_SPEC, words.join("; ")))
            }
            Outcome::Failed(_, error) => Some((error.reason(), error.to_string())),
            Outcome::Done(..) => None,
        }
    }

    fn ready(&self) -> Finding {
        let kind = condition::READY;
        if let Some((reason, message)) = self.obstacle() {
            return no(kind, reason, message);
        }
        if let Some(error) = self.queue_error() {
            let answer = if *error == QueueError::NotReadYet { unknown } else { no };
            return answer(kind, error.reason(), error.to_string());
        }
        if self.desired == 0 {
            return yes(kind, reason::SCALED_TO_ZERO, "spec and queue are good; no worker is needed now");
        }
        if self.ready == 0 {
            if let Some(Trouble { reason, message }) = self.problem.as_ref().or(self.trouble.as_ref()) {
                return no(kind, reason, format!("no worker is ready: {message}"));
            }
            return yes(kind, reason::STARTING, "spec and queue are good; workers are starting");
        }
        yes(kind, reason::AS_EXPECTED, "spec and queue are good, and workers are ready")
    }

    fn queue_accessible(&self) -> Finding {
        let kind = condition::QUEUE_ACCESSIBLE;
        match (&self.seen.reading.depth, self.outcome) {
            (Ok(_), _) => yes(kind, reason::AS_EXPECTED, "the queue's counts can be read"),
            (Err(QueueError::NotReadYet), Outcome::Invalid(_)) => {
                unknown(kind, reason::INVALID_SPEC, "the queue is not read before spec.queue is good")
            }
            (Err(error @ QueueError::NotReadYet), _) => unknown(kind, error.reason(), error.to_string()),
            (Err(error), _) => no(kind, error.reason(), error.to_string()),
        }
    }

    fn workers_available(&self) -> Finding {
        let kind = condition::WORKERS_AVAILABLE;
        let of_all = format!("{} of {} workers are ready", self.ready, self.desired);
        if let Outcome::Failed(_, error) = self.outcome {
            return no(kind, error.reason(), format!("{of_all}: {error}"));
        }
        if self.desired == 0 {
            return yes(kind, reason::SCALED_TO_ZERO, "no worker is needed now");
        }
        let unready = self.ready < self.desired;
        match (&self.trouble, &self.problem) {
            (Some(trouble), _) if unready => no(kind, &trouble.reason, format!("{of_all}: {}", trouble.message)),
            (None, Some(problem)) if self.ready == 0 => {
                no(kind, &problem.reason, format!("{of_all}: {}", problem.message))
            }
            _ if unready => yes(kind, reason::STARTING, format!("{of_all}; the others are starting")),
            _ => yes(kind, reason::AS_EXPECTED, "all workers are ready"),
        }
    }

    fn scaling_active(&self) -> Finding {
        let kind = condition::SCALING_ACTIVE;
        if let Some((reason, message)) = self.obstacle() {
            return no(kind, reason, format!("the worker count is not changed: {message}"));
        }
        match self.outcome.decision().map(|decision| decision.reason) {
            Some(Reason::DepthUnknown) | None => match self.queue_error() {
                Some(error @ QueueError::NotReadYet) => unknown(kind, error.reason(), "the queue was not read yet"),
                Some(error) => no(kind, error.reason(), "the worker count stays as it is until the queue can be read"),
                None => unknown(kind, reason::NOT_READ_YET, "the queue was not read yet"),
            },
            Some(Reason::Paused) => no(kind, reason::PAUSED, "scaling.mode is Paused: the worker count is left alone"),
            Some(_) => self.decided(),
        }
    }

    /// Why the count is what it is.
    fn decided(&self) -> Finding {
        let kind = condition::SCALING_ACTIVE;
        let Some(decision) = self.outcome.decision() else {
            return unknown(kind, reason::NOT_READ_YET, "nothing was decided yet");
        };
        let Decision { desired, message, mode, .. } = decision;
        let reckoning = format!("{desired} workers: {message}");
        match mode {
            ScalingMode::DryRun => no(
                kind,
                reason::DRY_RUN,
                format!("scaling.mode is DryRun; it would be {reckoning} ({})", decision.word()),
            ),
            _ => yes(kind, &decision.word(), reckoning),
        }
    }

    fn budget_limited(&self) -> Option<Finding> {
        let decision = self.outcome.decision()?;
        let grant = decision.inputs.grant.as_ref()?;
        let needed = decision.wanted;
        (needed > grant.replicas).then(|| {
            let message =
                format!("the queue needs {needed} workers, and there can be {}: {}", grant.replicas, grant.words);
            yes(condition::BUDGET_LIMITED, reason::GPU_BUDGET, message)
        })
    }

    fn queue_shared(&self) -> Option<Finding> {
        let others = &self.seen.shared_with;
        (!others.is_empty()).then(|| {
            let message = format!(
                "{} reads the same queue: each message goes to one of them at random, and both count it as their backlog. Give each its own queue",
                others.join(", ")
            );
            yes(condition::QUEUE_SHARED, reason::SAME_QUEUE, message)
        })
    }

    fn reconciling(&self) -> Option<Finding> {
        if self.obstacle().is_some() {
            return None;
        }
        if self.seen.replacing() {
            return Some(yes(
                condition::RECONCILING,
                "RolloutInProgress",
                "workers are being replaced by ones of the newest spec",
            ));
        }
        let starting = self.ready < self.desired && self.trouble.is_none() && self.problem.is_none();
        starting.then(|| yes(condition::RECONCILING, reason::STARTING, "workers are starting"))
    }

    fn stalled(&self) -> Option<Finding> {
        let kind = condition::STALLED;
        if let Some((reason, message)) = self.obstacle() {
            let hopeless = [reason::INVALID_SPEC, reason::NAME_TAKEN, reason::IMAGE_VOLUMES_UNSUPPORTED];
            return hopeless.contains(&reason).then(|| yes(kind, reason, message));
        }
        let error = self.queue_error().filter(|error| error.needs_a_change())?;
        Some(yes(kind, error.reason(), error.to_string()))
    }

    fn degraded(&self) -> Option<Finding> {
        let decision = self.outcome.decision();
        if let Some(failure) = decision.and_then(|decision| decision.history.failing()) {
            let message = format!(
                "every job fails: {}: {}. One worker goes on trying; more follow when a job ends well",
                failure.code, failure.message
            );
            return Some(yes(condition::DEGRADED, reason::JOBS_FAILING, message));
        }
        if decision.is_some_and(|decision| decision.reason == Reason::WorkersBroken)
            && let Some(trouble) = self.trouble.as_ref().or(self.problem.as_ref())
        {
            return Some(yes(condition::DEGRADED, &trouble.reason, trouble.message.clone()));
        }
        let problem = self.problem.as_ref()?;
        Some(yes(condition::DEGRADED, &problem.reason, problem.message.clone()))
    }
}

fn yes(kind: &'static str, reason: &str, message: impl Into<String>) -> Finding {
    finding(kind, "True", reason, message)
}

fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Finding {
    finding(kind, "False", reason, message)
}

fn unknown(kind: &'static str, reason: &str, message: impl Into<String>) -> Finding {
    finding(kind, "Unknown", reason, message)
}

/// The API server takes messages up to 32 KiB and reasons of letters, digits and `_,:`.
fn finding(kind: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Finding {
    let reason: String = reason.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(256).collect();
    let reason = if reason.starts_with(|c: char| c.is_ascii_alphabetic()) { reason } else { format!("Reason{reason}") };
    let message = message.into().chars().take(4096).collect();
    Finding { kind, status, reason, message }
}
