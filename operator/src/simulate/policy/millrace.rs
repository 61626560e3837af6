//! This operator's own [`decide`], fed with the simulated world. All that the simulator knows of `scale` is in this file.
//!
//! The queue is read and passes are made as the operator does it (queue/plan.rs, controller.rs): a pass when a reading
//! differs from the one before, when a pod is made, becomes ready or is gone, within a second when an idle worker gets a job,
//! and after a time without any of that; each asks the workers, at most every 5 s unless there are others. A decision is carried out at once. Fewer workers are reached by
//! taking idle ones: a busy one is asked to stop receiving and goes when it is done, so here it stays in the count until a
//! later pass finds it idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{self as kube_core, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use millrace_api::{Activity, JobState, Received, ServiceSeconds, WorkerState};

use super::super::cluster::{Phase, Pod, Removal};
use super::super::outcome::Job;
use super::super::queue::Counts;
use super::{Look, Policy, Sight};
use crate::clock;
use crate::controller;
use crate::observe::{ASK_EVERY, Observed};
use crate::queue::{Depth, JITTER, Outlook, Reading, interval};
use crate::scale::{History, decide};
use crate::validate::Validated;
use crate::workers::{self, Report, Worker};

/// The operator hears within so many seconds that a worker has begun to work, and passes then.
const HEARD: f64 = workers::PACE.as_secs() as f64;
/// The Deployment and the pods change after a write of the count, and wake a pass so many seconds later, as measured.
const ECHO: f64 = 0.4;
/// Kubernetes tells of a worker that is ready, by its probe, so many seconds after the worker told of its first job.
const PROBED: f64 = 1.0;

/// What workers said.
#[derive(Debug)]
struct Asked {
    at: f64,
    /// The pods there were.
    pods: Vec<(usize, Phase)>,
    workers: Vec<Worker>,
}

/// This operator.
#[derive(Debug)]
pub(in super::super) struct Millrace {
    spec: Validated,
    slots: usize,
    /// The second of the trace that both clocks below belong to.
    begin: f64,
    instant: Instant,
    history: History,
    /// The last reading, and when it was taken.
    reading: Option<(f64, Counts)>,
    next_poll: f64,
    jitter: f64,
    next_pass: f64,
    asked: Option<Asked>,
    /// When news of workers that have begun to work is to come.
    heard: Vec<f64>,
    reason: String,
}

impl Millrace {
    pub(in super::super) fn new(spec: Validated, slots: usize, begin: f64, first: f64) -> Self {
        Self {
            spec,
            slots,
            begin,
            // The same for all runs, so that rounding is too.
            instant: clock::origin(),
            history: History::default(),
            reading: None,
            next_poll: begin + first,
            jitter: 1.0,
            next_pass: begin,
            asked: None,
            heard: Vec::new(),
            reason: "Begin".into(),
        }
    }

    fn instant(&self, second: f64) -> Instant {
        self.instant + Duration::from_secs_f64((second - self.begin).max(0.0))
    }

    fn timestamp(&self, second: f64) -> Timestamp {
        // Within what a timestamp holds, whatever the trace says.
        Timestamp::from_millisecond((clock::seconds(self.instant(second)) * 1e3) as i64).unwrap_or_default()
    }

    fn rfc3339(&self, second: f64) -> String {
        self.timestamp(second).to_string()
    }

    /// A pod as its API object, as far as it is read.
    fn pod(&self, pod: &Pod) -> Arc<kube_core::Pod> {
        let ready = (pod.phase == Phase::Ready).then(|| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(self.timestamp(pod.ready))),
            ..PodCondition::default()
        });
        Arc::new(kube_core::Pod {
            metadata: ObjectMeta {
                name: Some(format!("worker-{}", pod.id)),
                creation_timestamp: Some(Time(self.timestamp(pod.requested))),
                ..ObjectMeta::default()
            },
            spec: pod.placed.map(|_| PodSpec { node_name: Some("node".into()), ..PodSpec::default() }),
            status: Some(PodStatus { conditions: Some(ready.into_iter().collect()), ..PodStatus::default() }),
        })
    }

    /// When the queue is read next, after what is known now.
    fn plan_poll(&mut self, replicas: i32, any_pods: bool, now: f64) {
        let Some((read, counts)) = self.reading else { return };
        let scaling = &self.spec.spec().scaling;
        let workers = self.asked.iter().flat_map(|asked| &asked.workers);
        let outlook = Outlook {
            target: scaling.target.queue_delay_seconds,
            working: any_pods || replicas > 0,
            receives_nothing: counts == Counts::default() && workers.into_iter().any(Worker::receives_nothing),
            at_most: replicas >= scaling.max_replicas,
            calm: self.history.is_calm(clock::seconds(self.instant(now))),
        };
        self.next_poll = (read + interval(&outlook).as_secs_f64() * self.jitter).max(now);
    }

    /// Reads the queue; whether the reading differs.
    fn poll(&mut self, sight: &mut Sight<'_>) -> bool {
        let counts = sight.counts();
        self.jitter = JITTER.mul_add(sight.random.unit(), 1.0);
        let differs = self.reading.is_none_or(|(_, before)| before != counts);
        self.reading = Some((sight.now, counts));
        self.plan_poll(sight.replicas, sight.pods.iter().any(Pod::counts), sight.now);
        differs
    }

    /// Asks the workers, unless that was done a moment ago and there are no others now.
    fn ask(&mut self, sight: &Sight<'_>) -> Vec<Worker> {
        let pods: Vec<_> = sight.pods.iter().filter(|pod| pod.counts()).map(|pod| (pod.id, pod.phase)).collect();
        if let Some(last) = &self.asked
            && self.heard.iter().all(|heard| sight.now < *heard)
            && last.pods == pods
            && last.workers.iter().any(Worker::is_busy)
            && sight.now < last.at + ASK_EVERY.as_secs_f64()
        {
            return last.workers.clone();
        }
        let workers: Vec<_> = sight.pods.iter().filter(|p| p.counts()).map(|p| self.worker(sight, p)).collect();
        let known = self.asked.replace(Asked { at: sight.now, pods, workers: workers.clone() });
        let known = known.map(|asked| asked.workers).unwrap_or_default();
        let was_busy = |worker: &Worker| known.iter().any(|known| known.pod == worker.pod && known.is_busy());
        let begins = workers.iter().any(|worker| worker.is_busy() && !was_busy(worker));
        self.heard.retain(|heard| sight.now < *heard);
        if begins {
            self.heard.extend([sight.now + HEARD, sight.now + HEARD + PROBED]);
        }
        workers
    }

    /// What a worker says of itself.
    fn worker(&self, sight: &Sight<'_>, pod: &Pod) -> Worker {
        let name = format!("worker-{}", pod.id);
        if pod.running > sight.now {
            return Worker { pod: name, report: Report::NotRunning };
        }
        let ready = pod.phase == Phase::Ready;
        let held = || pod.held.iter().filter_map(|(job, _)| sight.jobs.get(*job));
        let oldest = held().map(|job: &Job| job.sent);
        let state = WorkerState {
            worker: name.clone(),
            ready,
            activity: match ready {
                false => Activity::Starting,
                true if pod.held.is_empty() => Activity::Idle,
                true => Activity::Busy,
            },
            capacity: u32::try_from(self.slots).unwrap_or(u32::MAX),
            busy: u32::try_from(pod.held.len()).unwrap_or(u32::MAX),
            jobs: held().map(|job| self.job(job, sight.now)).collect(),
            completed: pod.completed,
            service_seconds: pod.service().map(|(mean, p95)| ServiceSeconds { mean, p95 }),
            receiving: u32::from(ready && pod.held.len() < self.slots),
            last_received: pod
                .received
                .map(|(at, sent)| Received { at: self.rfc3339(at), sent_at: self.rfc3339(sent) }),
            oldest_sent_at: oldest.min_by(f64::total_cmp).map(|sent| self.rfc3339(sent)),
            empty_since: (ready && pod.held.is_empty()).then(|| self.rfc3339(pod.idle_since)),
            ..WorkerState::default()
        };
        Worker { pod: name, report: Report::State(Box::new(state)) }
    }

    fn job(&self, job: &Job, now: f64) -> JobState {
        let started_at = self.rfc3339(job.started.unwrap_or(now));
        JobState { started_at, sent_at: self.rfc3339(job.sent), ..JobState::default() }
    }

    fn pass(&mut self, sight: &Sight<'_>) -> Option<i32> {
        let reading = match self.reading {
            None => Reading::none(self.instant(sight.now)),
            Some((at, Counts { visible, in_flight })) => {
                Reading { at: self.instant(at), depth: Ok(Depth { visible, in_flight, delayed: 0 }) }
            }
        };
        let workers = self.ask(sight);
        let busy = !reading.depth.as_ref().is_ok_and(Depth::is_idle) || workers.iter().any(Worker::is_busy);
        let unready = workers.iter().any(|worker| worker.state().is_none_or(|state| !state.ready));
        let spec = DeploymentSpec { replicas: Some(sight.replicas), ..DeploymentSpec::default() };
        let seen = Observed {
            deployment: Some(Arc::new(Deployment { spec: Some(spec), ..Deployment::default() })),
            pods: sight.pods.iter().filter(|pod| pod.counts()).map(|pod| self.pod(pod)).collect(),
            ended: Vec::new(),
            terminating: Vec::new(),
            leaving: std::collections::BTreeSet::new(),
            config_map: None,
            service_account: None,
            budget: None,
            reading,
            shared_with: Vec::new(),
            workers,
            history: std::mem::take(&mut self.history),
            last_desired: sight.replicas,
        };
        let decision = decide(&self.spec, &seen, self.instant(sight.now));
        let look = match () {
            () if seen.workers.is_empty() => controller::RESYNC.as_secs_f64(),
            () if busy || unready => controller::WORKING.as_secs_f64(),
            () => HEARD,
        };
        let recheck =
            decision.recheck.map_or(look, |wait| look.min(wait.as_secs_f64() + controller::AFTER.as_secs_f64()));
        self.reason = decision.word();
        let replicas = (!decision.holds()).then_some(decision.desired);
        let echo = replicas.filter(|replicas| *replicas != sight.replicas).map(|_| sight.now + ECHO);
        self.next_pass = self.heard.iter().copied().chain(echo).fold(sight.now + recheck, f64::min);
        self.history = decision.history;
        self.plan_poll(sight.replicas, !seen.pods.is_empty(), sight.now);
        replicas
    }
}

impl Policy for Millrace {
    fn look(&mut self, sight: &mut Sight<'_>) -> Look {
        let pods_changed = sight.now < self.next_poll && sight.now < self.next_pass;
        let differs = sight.now >= self.next_poll && self.poll(sight);
        let replicas = if pods_changed || differs || sight.now >= self.next_pass { self.pass(sight) } else { None };
        Look { replicas, reason: self.reason.clone(), next: self.next_poll.min(self.next_pass) }
    }

    fn removal(&self) -> Removal {
        Removal::IdleOnly
    }

    fn watches_pods(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "../tests/millrace.rs"]
mod tests;
