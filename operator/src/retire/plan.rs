//! The plan: how far the count may be lowered now, and what each pod is to be told and to bear until more may go.
//!
//! The count is lowered only by pods that the ReplicaSet deletes first whatever breaks its ties ([`super::order`]), and
//! that hold nothing. So those that are to go are asked to drain; once drained they get a low deletion cost; once that is
//! seen, the count goes down. Where nobody can be asked, an idle worker's reports have to do.

use std::time::Duration;

use super::candidate::{Candidate, Inputs, PROTECTED, SETTLES, Work};
use super::marks::{GOES_FIRST, Marks};
use super::order::{Phase, Place};

/// Drains are renewed this often, and what is waited for is looked at.
const RENEWS: Duration = Duration::from_secs(5);
/// Names in a sentence.
const NAMES: usize = 3;

/// What is to be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The Deployment's count for now: the decided one, or as near as it may be.
    pub(crate) replicas: i32,
    /// What each pod is to be told and to bear.
    pub(crate) pods: Vec<Wanted>,
    /// What is waited for, where the count is not the decided one yet.
    pub(crate) waits: Option<String>,
    /// When to look again.
    pub(crate) recheck: Option<Duration>,
}

/// What is wanted of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The pod's name.
    pub(crate) pod: String,
    /// Its worker is to take no new jobs.
    pub(crate) drain: bool,
    /// What it is to bear.
    pub(crate) marks: Marks,
    /// Its node goes and its worker holds nothing: another pod is to take its place.
    pub(crate) delete: bool,
}

/// Plans from what is known.
pub(crate) fn plan(inputs: &Inputs) -> Plan {
    let target = inputs.desired.unwrap_or(inputs.replicas);
    let going = going(inputs, target);
    let goes = |pod: &Candidate| going.iter().any(|other| other.name == pod.name);
    let pods = inputs.pods.iter().map(|pod| wanted(pod, goes(pod))).collect::<Vec<_>>();
    let replicas = count(inputs, target);
    let lingers = inputs.pods.iter().any(|pod| pod.marks.protected && pod.at_work && !holds_jobs(pod.work));
    let recheck = [
        (inputs.pods.iter().any(|pod| !pod.certain), SETTLES),
        (replicas > target || pods.iter().any(|pod| pod.drain), RENEWS),
        (lingers, PROTECTED),
    ];
    Plan {
        replicas,
        waits: (replicas > target).then(|| waits(inputs, &going, replicas - target)),
        recheck: recheck.into_iter().filter(|(holds, _)| *holds).map(|(_, wait)| wait).min(),
        pods,
    }
}

fn wanted(pod: &Candidate, goes: bool) -> Wanted {
    let harmless = pod.is_harmless();
    Wanted {
        pod: pod.name.clone(),
        drain: (goes || pod.leaving) && pod.work != Work::Absent,
        marks: Marks {
            // Those that are still pending go first anyway.
            goes: goes && harmless && pod.place.phase == Phase::Running,
            protected: pod.at_work && !pod.leaving,
        },
        delete: pod.leaving && !goes && harmless,
    }
}

/// The pods that are to go, so that `target` stay.
fn going(inputs: &Inputs, target: i32) -> Vec<&Candidate> {
    let surplus = usize::try_from(saturate(inputs.pods.len()) - target).unwrap_or_default();
    if inputs.desired.is_none() || (target > 0 && !inputs.settled) {
        // Nobody new, and those that the ReplicaSet is about to delete are not let go of.
        let about_to = target <= inputs.replicas && (surplus > 0 || !inputs.settled);
        return inputs.pods.iter().filter(|pod| about_to && pod.marks.goes && pod.held).collect();
    }
    if target > 0 && inputs.replacing {
        return Vec::new();
    }
    let mut pods: Vec<&Candidate> = inputs.pods.iter().collect();
    pods.sort_by_key(|pod| preference(pod));
    pods.truncate(surplus);
    pods
}

/// Who is to go rather than others: the lower one. One that is not ready is deleted before all that are, so it is the
/// first choice as long as it holds no jobs.
fn preference(pod: &Candidate) -> impl Ord + use<> {
    let (tier, jobs) = match pod.work {
        Work::Absent => (0, 0),
        Work::Starting | Work::Idle | Work::Drained | Work::Draining(0) if !pod.place.ready => (1, 0),
        Work::Starting | Work::Idle | Work::Drained | Work::Draining(0) => (2, 0),
        Work::Busy(jobs) | Work::Draining(jobs) => (3, jobs),
        Work::Silent => (4, 0),
    };
    let draining = matches!(pod.work, Work::Drained | Work::Draining(_));
    (tier, !pod.leaving, !pod.marks.goes, !draining, jobs, pod.name.clone())
}

/// The count that can be written now.
fn count(inputs: &Inputs, target: i32) -> i32 {
    if target >= inputs.replicas {
        return target;
    }
    // All go, so their order does not matter.
    if target == 0 && inputs.pods.iter().all(Candidate::is_harmless) {
        return 0;
    }
    if inputs.replacing || !inputs.settled {
        return inputs.replicas;
    }
    // Pods that are not there yet go for free: nothing was made for them.
    (saturate(inputs.pods.len()) - saturate(leading(&inputs.pods).len())).clamp(target, inputs.replicas)
}

/// The harmless pods that go before every other one, whatever breaks ties.
fn leading(pods: &[Candidate]) -> Vec<&Candidate> {
    let mut pods: Vec<(Place, &Candidate)> = pods.iter().map(|pod| (certain_place(pod), pod)).collect();
    pods.sort_by_key(|(place, _)| *place);
    let ties = pods.chunk_by(|(a, _), (b, _)| a == b);
    ties.take_while(|ties| ties.iter().all(|(_, pod)| pod.is_harmless())).flatten().map(|(_, pod)| *pod).collect()
}

/// Where a pod stands at worst: a cost that has just changed may not have been seen by the ReplicaSet.
fn certain_place(pod: &Candidate) -> Place {
    let cost = match (pod.certain, pod.is_harmless()) {
        (true, _) => pod.place.cost,
        (false, true) => pod.place.cost.max(0),
        (false, false) => pod.place.cost.min(GOES_FIRST),
    };
    Place { cost, ..pod.place }
}

/// What keeps the count from being the decided one, in words.
fn waits(inputs: &Inputs, going: &[&Candidate], missing: i32) -> String {
    let named = |of: fn(&Candidate) -> bool| -> Vec<&str> {
        going.iter().filter(|pod| of(pod)).map(|pod| pod.name.as_str()).collect()
    };
    let busy = named(|pod| holds_jobs(pod.work));
    let silent = named(|pod| pod.work == Work::Silent);
    let draining = named(|pod| !pod.is_harmless() && !holds_jobs(pod.work) && pod.work != Work::Silent);
    let one = missing == 1;
    let first = if one { "1 worker that is to go".into() } else { format!("{missing} workers that are to go") };
    if !busy.is_empty() {
        let words = if busy.len() == 1 { "finishes its jobs first" } else { "finish their jobs first" };
        return format!("{} of {first} {words}: {}", busy.len(), list(&busy));
    }
    if !silent.is_empty() {
        let words = if silent.len() == 1 { "does" } else { "do" };
        return format!("{} of {first} {words} not answer and may be at work: {}", silent.len(), list(&silent));
    }
    if !draining.is_empty() && going.iter().all(|pod| pod.is_harmless() || !pod.drains) {
        let words = if one { "it was" } else { "they were" };
        return format!("{first} can go when {words} idle for a while: {}", list(&draining));
    }
    if !draining.is_empty() {
        let words = if one { "takes no new job, and goes" } else { "take no new jobs, and go" };
        return format!("{first} {words} when that is certain: {}", list(&draining));
    }
    if inputs.replacing || !inputs.settled {
        return "a rollout is going on".into();
    }
    let unready: Vec<&str> = inputs
        .pods
        .iter()
        .filter(|pod| !pod.is_harmless() && !pod.place.ready && going.iter().all(|other| other.name != pod.name))
        .map(|pod| pod.name.as_str())
        .collect();
    if unready.is_empty() {
        let words = if one { "it is" } else { "they are" };
        return format!("{first} can go as soon as Kubernetes knows that {words} to be the first");
    }
    format!("Kubernetes would first delete what is not ready, and that may be at work: {}", list(&unready))
}

fn holds_jobs(work: Work) -> bool {
    matches!(work, Work::Busy(_)) || matches!(work, Work::Draining(jobs) if jobs > 0)
}

fn list(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn saturate(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
