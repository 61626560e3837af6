//! What a decision is made from, as plain numbers: it can be written down and replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use millrace_api::WorkerState;
use serde::{Deserialize, Serialize};

use super::budget::Grant;
use super::estimate::{service_prior, unknown_service};
use super::schedule::{Floor, floor};
use crate::clock;
use crate::observe::Observed;
use crate::pod;
use crate::queue::Depth;
use crate::validate::Validated;
use crate::workers::{Report, Worker};

/// Attempts that must have failed in a row, all workers together, before the model is held to be broken.
const FAILURES: u64 = 5;
/// A receive says how old the queue's messages are for so long, in seconds.
const RECENT: f64 = 120.0;

/// What a decision is made from. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inputs {
    /// Workers that the Deployment asks for now.
    pub(crate) from: i32,
    /// The queue's counts, or why they are not known.
    pub(crate) depth: Result<Depth, String>,
    /// When SQS told them.
    pub(crate) read_at: f64,
    /// A FIFO queue.
    pub(crate) fifo: bool,
    /// Pods of an older template are still there, or Kubernetes has not seen the newest template yet.
    pub(crate) rolling: bool,
    /// What became of the workers that were asked for.
    pub(crate) pods: Pods,
    /// Workers that hold jobs, or that run and could not be asked.
    pub(crate) busy: i32,
    /// Of these, those that could not be asked.
    pub(crate) silent: i32,
    /// Jobs that reporting workers hold.
    pub(crate) held: i64,
    /// Jobs that one worker holds at a time.
    pub(crate) slots: f64,
    /// Whether workers use a GPU, which take longer to start.
    pub(crate) gpu: bool,
    /// Wall time that a job may hold a slot, as long as no worker has reported any.
    #[serde(default = "unknown_service")]
    pub(crate) service_prior: f64,
    /// Wall time that a job held a slot, where workers reported it now.
    pub(crate) service_seconds: Option<f64>,
    /// For how long the jobs that run now have held their slots, on average.
    pub(crate) running_seconds: Option<f64>,
    /// Jobs done by each worker since it started.
    pub(crate) done: BTreeMap<String, u64>,
    /// How old the messages are that workers received last.
    pub(crate) oldest_seconds: Option<f64>,
    /// A worker has ended a job well and no attempt failed since.
    pub(crate) healthy: bool,
    /// Every worker that tried jobs failed all of them.
    pub(crate) failing: Option<Failure>,
    /// On a FIFO queue: workers with free slots receive nothing although messages wait.
    pub(crate) blocked: bool,
    /// The fewest workers that `schedules` want now.
    pub(crate) floor: Floor,
    /// What a GPU budget leaves to this consumer; none where there is no budget.
    pub(crate) grant: Option<Grant>,
}

/// What became of the workers that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pods {
    /// Ready, and not about to go.
    pub(crate) ready: i32,
    /// On their way, pods that are still to be made among them.
    pub(crate) starting: i32,
    /// For how long on average, in seconds.
    pub(crate) starting_age: f64,
    /// Waiting for a node for longer than schedulingTimeoutSeconds.
    pub(crate) stuck: i32,
    /// Crashing, without an image, or with a model that cannot be loaded.
    pub(crate) broken: i32,
    /// How long each ready worker took to be ready, by pod name, in seconds.
    pub(crate) took: BTreeMap<String, f64>,
    /// All of them, by name.
    pub(crate) names: BTreeSet<String>,
    /// Those that are or were in trouble: how long they took says nothing.
    pub(crate) troubled: BTreeSet<String>,
}

/// Why no attempt ends well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Inputs {
    pub(super) fn of(spec: &Validated, seen: &Observed, now: Instant) -> Self {
        let now = clock::seconds(now);
        let states = || seen.workers.iter().filter_map(Worker::state);
        let from = seen.replicas(spec);
        let capacities: Vec<f64> = states().map(|s| f64::from(s.capacity)).filter(|c| *c >= 1.0).collect();
        let batch = spec.spec().model.slots() as f64;
        let count = |of: fn(&Worker) -> bool| whole(seen.workers.iter().filter(|w| of(w)).count());
        let fifo = millrace_api::is_fifo(&spec.spec().queue.url);
        let waits = seen.reading.depth.as_ref().is_ok_and(|depth| depth.visible > 0);
        let read_at = clock::seconds(seen.reading.at);
        Self {
            from,
            depth: seen.reading.depth.clone().map_err(|error| error.to_string()),
            read_at,
            fifo,
            rolling: seen.rolling(),
            pods: Pods::of(spec, seen, from, now),
            busy: count(Worker::is_busy),
            silent: count(|worker| worker.report == Report::Silent),
            held: states().map(|s| i64::from(s.busy)).sum(),
            slots: if capacities.is_empty() { batch } else { mean(&capacities).unwrap_or(batch) },
            gpu: spec.spec().worker.gpu.count > 0,
            service_prior: service_prior(&spec.spec().model),
            service_seconds: service(states()),
            running_seconds: running(states(), now),
            done: seen
                .workers
                .iter()
                .filter_map(|worker| worker.state().map(|s| (worker.pod.clone(), s.completed + s.failed)))
                .collect(),
            oldest_seconds: oldest(states(), now),
            healthy: states().any(|s| s.completed > 0 && s.failing.is_none()),
            failing: failing(states()),
            blocked: fifo && waits && states().any(|s| finds_nothing(s, read_at)),
            floor: floor(&spec.schedules, now),
            grant: None,
        }
    }
}

impl Pods {
    fn of(spec: &Validated, seen: &Observed, from: i32, now: f64) -> Self {
        let patience = f64::from(spec.spec().scaling.scheduling_timeout_seconds);
        let mut pods = Self::default();
        let mut ages = Vec::new();
        for pod in &seen.pods {
            let name = pod.name_any();
            let age = pod::created(pod).map_or(0.0, |created| (now - created).max(0.0));
            let state = seen.workers.iter().find(|worker| worker.pod == name).and_then(Worker::state);
            pods.names.insert(name.clone());
            let hopeless = state.is_some_and(|s| !s.ready && !s.draining && !s.problems.is_empty());
            if seen.leaving.contains(&name) {
                // Its node goes: it is neither there nor on its way.
            } else if let Some(ready_at) = pod::ready_since(pod) {
                pods.ready += 1;
                if let Some(created) = pod::created(pod).filter(|_| restarts(pod) == 0) {
                    pods.took.insert(name, (ready_at - created).max(0.0));
                }
            } else if hopeless || is_broken(pod) {
                pods.broken += 1;
                pods.troubled.insert(name);
            } else if age > patience && !pod::is_assigned(pod) {
                pods.stuck += 1;
            } else {
                ages.push(age);
            }
        }
        let to_come = usize::try_from(from).unwrap_or_default().saturating_sub(seen.pods.len());
        ages.extend(std::iter::repeat_n(0.0, to_come));
        pods.starting = whole(ages.len());
        pods.starting_age = mean(&ages).unwrap_or_default();
        pods
    }
}

/// The mean over workers, weighted by jobs done, so that a worker's first job does not count as much as another's
/// thousandth.
fn service<'a>(states: impl Iterator<Item = &'a WorkerState>) -> Option<f64> {
    let (mut seconds, mut jobs) = (0.0, 0.0);
    for state in states {
        if let Some(service) = state.service_seconds.filter(|s| s.mean.is_finite() && s.mean > 0.0) {
            let done = ((state.completed + state.failed) as f64).max(1.0);
            seconds += service.mean * done;
            jobs += done;
        }
    }
    (jobs > 0.0).then(|| seconds / jobs)
}

fn running<'a>(states: impl Iterator<Item = &'a WorkerState>, now: f64) -> Option<f64> {
    let ages: Vec<f64> =
        states.flat_map(|s| &s.jobs).filter_map(|job| Some((now - time(&job.started_at)?).max(0.0))).collect();
    mean(&ages)
}

/// The wait of what was received last: what still waits came later, more or less, and is not older than that message
/// would be now.
fn oldest<'a>(states: impl Iterator<Item = &'a WorkerState>, now: f64) -> Option<f64> {
    let received = states.filter_map(|s| s.last_received.as_ref());
    let times = received.filter_map(|received| Some((time(&received.at)?, time(&received.sent_at)?)));
    let last = times.filter(|(at, _)| now - at <= RECENT).max_by(|a, b| a.0.total_cmp(&b.0));
    last.map(|(_, sent)| (now - sent).max(0.0))
}

fn failing<'a>(states: impl Iterator<Item = &'a WorkerState>) -> Option<Failure> {
    let (mut attempts, mut failure) = (0, None);
    for state in states {
        match &state.failing {
            Some(failing) => {
                attempts += failing.attempts;
                failure = Some(Failure { code: failing.code.clone(), message: failing.message.clone() });
            }
            // It gets through, or may do so with its first jobs.
            None if state.completed > 0 || state.busy > 0 => return None,
            None => {}
        }
    }
    failure.filter(|_| attempts >= FAILURES)
}

/// It has a free slot, and its receives came back empty since before the queue was read.
fn finds_nothing(state: &WorkerState, read_at: f64) -> bool {
    let since = state.empty_since.as_deref().and_then(time);
    state.ready && !state.draining && state.busy < state.capacity && since.is_some_and(|since| since < read_at)
}

fn restarts(pod: &Pod) -> i32 {
    pod::containers(pod).map(|container| container.restart_count).max().unwrap_or_default()
}

/// Its container waits for something other than its turn, or it ended badly more than once.
fn is_broken(pod: &Pod) -> bool {
    pod::containers(pod).filter(|container| !container.ready).any(|container| {
        pod::waits_for(container).is_some_and(|reason| !pod::is_being_made(reason)) || container.restart_count >= 2
    })
}

/// RFC 3339 in seconds since 1970.
fn time(text: &str) -> Option<f64> {
    text.parse::<Timestamp>().ok().map(clock::of)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn whole(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
