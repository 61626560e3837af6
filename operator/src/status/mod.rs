//! The status: computed from all that a pass found, and written only when it says something new.

mod conditions;
mod trouble;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use millrace_api::{LastScale, QueueConsumer, QueueConsumerStatus, QueueDepth, ScalingMode, condition};
use serde_json::json;

use crate::apply::{Applied, ApplyError, FIELD_MANAGER};
use crate::clock;
use crate::error::{Error, within};
use crate::observe::Observed;
use crate::retire::Plan;
use crate::scale::{Decision, two_digits};
use crate::validate::Problem;

/// How a pass ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The spec cannot work; nothing was touched.
    Invalid(Vec<Problem>),
    /// Decided, and not all could be applied.
    Failed(Box<Decision>, ApplyError),
    /// Decided and applied.
    Done(Box<Decision>, Box<Applied>, Box<Plan>),
}

impl Outcome {
    /// The decision, where one could be made.
    pub(crate) fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Invalid(_) => None,
            Self::Failed(decision, _) | Self::Done(decision, ..) => Some(decision),
        }
    }

    /// What was applied, where all was.
    pub(crate) fn applied(&self) -> Option<&Applied> {
        match self {
            Self::Done(_, applied, _) => Some(applied),
            Self::Invalid(_) | Self::Failed(..) => None,
        }
    }

    /// How workers are to go, where all was applied.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Done(_, _, plan) => Some(plan),
            Self::Invalid(_) | Self::Failed(..) => None,
        }
    }

    /// The count that the Deployment was left with, where that is known: a live one may have stayed against the decision.
    fn written(&self) -> Option<i32> {
        self.applied().map(|applied| applied.replicas)
    }
}

/// The status after a pass. `before` is the one of the pass before, `unreported` a change of the count that it lacks.
pub(crate) fn compute(
    consumer: &QueueConsumer,
    seen: &Observed,
    outcome: &Outcome,
    before: &QueueConsumerStatus,
    unreported: Option<&LastScale>,
    now: Timestamp,
) -> QueueConsumerStatus {
    let workers = seen.deployment.as_ref().and_then(|d| d.status.clone()).unwrap_or_default();
    let depth = seen.reading.depth.as_ref().ok();
    let generation = consumer.metadata.generation;
    let asked = outcome.written().or(unreported.map(|scale| scale.to)).unwrap_or(before.desired_replicas);
    let conditions = conditions::of(seen, outcome, asked);
    let decision = outcome.decision();
    let dry = decision.filter(|decision| decision.mode == ScalingMode::DryRun);
    QueueConsumerStatus {
        observed_generation: generation,
        replicas: workers.replicas.unwrap_or_default(),
        ready_replicas: workers.ready_replicas.unwrap_or_default(),
        desired_replicas: dry.map_or(asked, |decision| decision.desired),
        // The last known counts stay while the queue cannot be read; QueueAccessible says that they are old.
        queue: depth
            .map(|depth| QueueDepth {
                visible: depth.visible,
                in_flight: depth.in_flight,
                delayed: depth.delayed,
                oldest_message_age_seconds: decision
                    .and_then(|decision| decision.oldest_seconds)
                    .map(|age| two_digits(age) as i64),
            })
            .or(before.queue),
        estimates: decision.and_then(|d| d.history.estimates.remembered(clock::of(now))).or(before.estimates),
        applied_hash: outcome
            .applied()
            .and_then(|applied| applied.hash.clone())
            .or_else(|| before.applied_hash.clone()),
        last_scale: unreported.or(before.last_scale.as_ref()).cloned(),
        conditions: conditions.into_iter().map(|finding| finding.dated(&before.conditions, generation, now)).collect(),
    }
}

/// What a status says that the one before did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    None,
    /// Other counts and measurements, and the reckoning with them.
    Counts,
    /// More than that.
    More,
}

pub(crate) fn news(before: &QueueConsumerStatus, after: &QueueConsumerStatus) -> News {
    if before == after {
        return News::None;
    }
    let mut same = after.clone();
    (same.queue, same.estimates) = (before.queue, before.estimates);
    for condition in &mut same.conditions {
        let reckoning = before.conditions.iter().find(|c| {
            c.type_ == condition::SCALING_ACTIVE
                && c.type_ == condition.type_
                && (&c.status, &c.reason) == (&condition.status, &condition.reason)
        });
        if let Some(reckoning) = reckoning {
            condition.message.clone_from(&reckoning.message);
        }
    }
    if same == *before { News::Counts } else { News::More }
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Finding {
    /// As a condition: dated now, or as before where its status is as before.
    fn dated(self, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let same = before.iter().find(|c| c.type_ == self.kind && c.status == self.status);
        Condition {
            last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
            type_: self.kind.into(),
            status: self.status.into(),
            reason: self.reason,
            message: self.message,
            observed_generation: generation,
        }
    }
}

/// Writes a status.
pub(crate) async fn write(
    client: &Client,
    consumer: &QueueConsumer,
    status: &QueueConsumerStatus,
) -> Result<(), Error> {
    let name = consumer.name_any();
    let api: Api<QueueConsumer> = Api::namespaced(client.clone(), &consumer.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": QueueConsumer::api_version(&()),
        "kind": QueueConsumer::kind(&()),
        "metadata": { "name": name, "uid": consumer.metadata.uid },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match within(api.patch_status(&name, &parameters, &Patch::Apply(&patch))).await {
        Ok(_) => Ok(()),
        // Deleted since: there is nobody to tell.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}

#[cfg(test)]
mod tests;
