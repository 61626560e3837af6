//! What is known of each worker pod, as plain values, and the clocks that are kept between two passes.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use millrace_api::{Activity, DRAIN_LAPSES};

use super::marks::{GOES_FIRST, Marks};
use super::order::Place;
use crate::clock;
use crate::observe::{Observed, deployment_replicas};
use crate::pod;
use crate::scale::Decision;
use crate::workers::{Order, Report, activity};

/// A pod stays protected for so long after its last job, so that a short pause between two costs no writes.
pub(super) const PROTECTED: Duration = Duration::from_secs(30);
/// A worker that was idle for so long was so in two reports in a row.
const QUIET: Duration = Duration::from_secs(10);
/// kube-controller-manager sees a pod's cost by a watch of its own, which may be a little later.
pub(super) const SETTLES: Duration = Duration::from_secs(1);

/// A container that is made on a node comes up within this, unless its image is on the way or something is wrong.
const COMES_UP: Duration = Duration::from_mins(1);

/// A worker that knows no request to drain is asked again after this.
const UNABLE: Duration = Duration::from_mins(5);
/// The worker's copy of the key is renewed within this. One that refuses for longer (its clock is wrong) cannot be asked:
/// its GPU must not be held for ever.
const REFUSES: Duration = Duration::from_mins(5);

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The count that was decided; none where it is held.
    pub(super) desired: Option<i32>,
    /// The Deployment's count.
    pub(super) replicas: i32,
    /// Pods of more than one template are there.
    pub(super) replacing: bool,
    /// Kubernetes has acted on the Deployment as it is.
    pub(super) settled: bool,
    /// Pods that the ReplicaSet counts.
    pub(super) pods: Vec<Candidate>,
}

/// A pod and its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    /// Where it stands in the ReplicaSet's order.
    pub(super) place: Place,
    /// Its cost did not change a moment ago.
    pub(super) certain: bool,
    pub(super) work: Work,
    /// It took the last request to drain, not long ago.
    pub(super) held: bool,
    /// It can be asked to drain.
    pub(super) drains: bool,
    /// It had nothing to do in two reports in a row.
    pub(super) quiet: bool,
    /// It holds jobs, or did a moment ago, or that cannot be excluded.
    pub(super) at_work: bool,
    /// Its node goes.
    pub(super) leaving: bool,
    pub(super) marks: Marks,
}

/// What a worker is about, with the jobs that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Its container does not run.
    Absent,
    /// Its container is being made on a node: the kubelet tells a moment later than it happens that a worker has begun.
    Coming,
    Starting,
    Idle,
    Busy(u32),
    Draining(u32),
    Drained,
    /// It does not answer.
    Silent,
}

impl Work {
    fn of(report: &Report) -> Self {
        match report {
            Report::NotRunning => Self::Absent,
            Report::Silent => Self::Silent,
            Report::State(state) => match activity(state) {
                Activity::Starting => Self::Starting,
                Activity::Idle => Self::Idle,
                Activity::Busy => Self::Busy(state.busy),
                Activity::Draining => Self::Draining(state.busy),
                Activity::Drained => Self::Drained,
            },
        }
    }
}

impl Candidate {
    /// Whether nothing is lost when it goes now.
    pub(super) fn is_harmless(&self) -> bool {
        match self.work {
            Work::Absent => true,
            Work::Drained => self.held,
            Work::Idle | Work::Starting => !self.drains && self.quiet,
            Work::Coming | Work::Busy(_) | Work::Draining(_) | Work::Silent => false,
        }
    }
}

/// What is kept about a pod between two passes. A restart of the operator begins anew, which can only delay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// Since when it had nothing to do, and the jobs that it had done then.
    quiet: Option<(Instant, u64)>,
    /// Its cost as it was seen, and when it changed.
    cost: Option<(i32, Option<Instant>)>,
    /// What it was asked last, and when.
    pub(super) asked: Option<(Order, Instant)>,
    /// When it last took a request to drain; none once it takes jobs again.
    pub(super) drained: Option<Instant>,
    /// When it said that it knows no such request: its image is older, or its configuration is a moment old.
    pub(super) unable: Option<Instant>,
    /// Since when it has refused such requests.
    pub(super) refuses: Option<Instant>,
    /// What was written onto it last, and when.
    pub(super) written: Option<(Marks, Instant)>,
    /// When it was deleted.
    pub(super) deleted: Option<Instant>,
}

impl Kept {
    /// Whether it took a request to drain so lately that it still holds to it.
    fn held(&self, now: Instant) -> bool {
        self.drained.is_some_and(|at| age(at, now) < DRAIN_LAPSES / 2)
    }

    /// Whether it knew no such request a while ago.
    pub(super) fn is_unable(&self, now: Instant) -> bool {
        self.unable.is_some_and(|at| age(at, now) < UNABLE)
    }

    /// Takes a look at the pod and its report.
    fn look(&mut self, pod: &Pod, place: Place, report: &Report, now: Instant) {
        let at_work = match Work::of(report) {
            Work::Busy(_) => true,
            Work::Draining(jobs) => jobs > 0,
            // One that was never ready has never had a job.
            Work::Silent => place.ready || Marks::of(pod).protected,
            Work::Absent | Work::Coming | Work::Starting | Work::Idle | Work::Drained => false,
        };
        let done = match report {
            Report::State(state) => state.completed + state.failed,
            Report::Silent | Report::NotRunning => self.quiet.map_or(0, |(_, done)| done),
        };
        self.quiet = match self.quiet {
            _ if at_work => None,
            Some((since, before)) if before == done => Some((since, done)),
            _ => Some((now, done)),
        };
        self.cost = match self.cost {
            Some((seen, changed)) if seen == place.cost => Some((seen, changed)),
            // A pod without a mark may well have had none for long.
            None if place.cost != GOES_FIRST => Some((place.cost, None)),
            _ => Some((place.cost, Some(now))),
        };
    }

    fn candidate(
        &self,
        pod: &Pod,
        place: Place,
        report: &Report,
        leaving: bool,
        signs: bool,
        now: Instant,
    ) -> Candidate {
        let changed = self.cost.and_then(|(_, changed)| changed);
        let quiet = self.quiet.map(|(since, _)| age(since, now));
        let marks = Marks::of(pod);
        Candidate {
            name: pod.name_any(),
            place,
            certain: changed.is_none_or(|at| age(at, now) >= SETTLES),
            work: match Work::of(report) {
                Work::Absent if is_coming(pod, now) => Work::Coming,
                work => work,
            },
            held: self.held(now),
            drains: signs && !self.is_unable(now) && self.refuses.is_none_or(|since| age(since, now) < REFUSES),
            quiet: quiet.is_some_and(|quiet| quiet >= QUIET),
            at_work: quiet.is_none_or(|quiet| marks.protected && quiet < PROTECTED),
            leaving,
            marks,
        }
    }
}

/// Whether a container may have begun that is not known to run: one that is made on a node, for as long as that usually
/// takes. Past that only those that never come up are left, and the rare one that had a long way is given its grace period.
fn is_coming(pod: &Pod, now: Instant) -> bool {
    let young = pod::created(pod).is_some_and(|created| clock::seconds(now) - created < COMES_UP.as_secs_f64());
    let made = pod::containers(pod).filter_map(pod::waits_for).all(pod::is_being_made);
    pod::is_assigned(pod) && young && made
}

/// How long ago that was.
pub(super) fn age(then: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(then)
}

/// Which pod: another one may come under the same name.
pub(super) fn id(pod: &Pod) -> String {
    pod.uid().unwrap_or_else(|| pod.name_any())
}

impl Inputs {
    /// From what a pass has seen. `signs` says whether workers can be asked to drain at all.
    pub(crate) fn of(
        decision: Option<&Decision>,
        seen: &Observed,
        kept: &mut HashMap<String, Kept>,
        signs: bool,
        now: Instant,
    ) -> Self {
        let here: BTreeSet<String> = seen.pods.iter().map(|pod| id(pod)).collect();
        kept.retain(|id, _| here.contains(id));
        let reports: HashMap<&str, &Report> = seen.workers.iter().map(|w| (w.pod.as_str(), &w.report)).collect();
        let mut pods = Vec::new();
        let mut templates = BTreeSet::new();
        for pod in &seen.pods {
            let Some(place) = Place::of(pod) else { continue };
            let report = reports.get(pod.name_any().as_str()).copied().unwrap_or(&Report::Silent);
            let kept = kept.entry(id(pod)).or_default();
            kept.look(pod, place, report, now);
            pods.push(kept.candidate(pod, place, report, seen.leaving.contains(&pod.name_any()), signs, now));
            templates.insert(pod.labels().get("pod-template-hash").cloned());
        }
        let live = seen.deployment.as_deref();
        Self {
            desired: decision.filter(|decision| !decision.holds()).map(|decision| decision.desired),
            replicas: decision.map_or_else(|| live.map_or(0, deployment_replicas), |decision| decision.from),
            replacing: seen.replacing() || templates.len() > 1,
            settled: live
                .is_none_or(|d| d.status.as_ref().and_then(|s| s.observed_generation) >= d.metadata.generation),
            pods,
        }
    }
}

#[cfg(test)]
#[path = "candidate_tests.rs"]
mod tests;
