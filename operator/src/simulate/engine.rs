//! The simulated world: one event after the other, in simulated seconds.
//!
//! An idle worker has a long poll open, so it receives at once; which of several does is drawn. A job holds one slot of
//! its worker for its service time, whatever else the worker holds.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::cluster::{Nodes, Phase, Pod, Removal, victims};
use super::outcome::{Change, Job, Lost, Outcome, Span};
use super::policy::{Policy, Sight, count};
use super::queue::Queue;
use super::random::{Random, Stream};
use super::setup::Setup;
use super::trace::Trace;

/// How long after the trace's end jobs may take before the rest counts as never started, in seconds.
const PATIENCE: f64 = 24.0 * 3600.0;
/// A worker renews its lease after this part of it, so a killed one's job comes back between 2/3 and all of the lease later.
const RENEWAL: f64 = 1.0 / 3.0;

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// A new pod is considered by the scheduler.
    Schedule(usize),
    Ready(usize),
    /// A pod's job is done.
    Done {
        pod: usize,
        job: usize,
    },
    /// A job of a killed worker can be received again.
    Back(usize),
    Gone(usize),
    NodeUp(usize),
    NodeDown {
        node: usize,
        epoch: u64,
    },
    /// The policy looks, unless another look was planned since.
    Look {
        plan: u64,
    },
}

/// An event; earlier ones come first, those of one time in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    number: u64,
    what: What,
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Lets a policy work through a trace.
pub(super) fn run(setup: &Setup, trace: &Trace, policy: &mut dyn Policy) -> Outcome {
    let mut world = World::new(setup, trace);
    world.begin();
    world.plan(trace.begin);
    while let Some(now) = world.step(policy) {
        let over = now >= trace.end && world.done == world.jobs.len() && world.is_at_rest();
        if over || now > trace.end + PATIENCE {
            break;
        }
    }
    world.outcome()
}

struct World<'a> {
    setup: &'a Setup,
    begin: f64,
    /// The time of the last event that happened to jobs, pods or the trace, which is when the simulation is over.
    now: f64,
    end: f64,
    events: BinaryHeap<Reverse<Event>>,
    /// Of all events so far.
    made: u64,
    /// Of the next look.
    look: u64,
    jobs: Vec<Job>,
    /// How many of them are sent.
    sent: usize,
    done: usize,
    queue: Queue,
    nodes: Nodes,
    /// Nodes on their way.
    coming: usize,
    /// Pods that are not gone, by their ids in rising order.
    pods: Vec<Pod>,
    /// Pods there ever were.
    created: usize,
    spans: Vec<Span>,
    replicas: i32,
    changes: Vec<Change>,
    lost: Vec<Lost>,
    busy_killed: u64,
    /// A pod was made, became ready or is gone since the last look.
    pods_changed: bool,
    random: Random,
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup, trace: &Trace) -> Self {
        let job = |a: &super::trace::Arrival| Job { sent: a.at, service: a.service, started: None, finished: None };
        Self {
            setup,
            begin: trace.begin,
            now: trace.begin,
            end: trace.end,
            events: BinaryHeap::new(),
            made: 0,
            look: 0,
            jobs: trace.arrivals.iter().map(job).collect(),
            sent: 0,
            done: 0,
            queue: Queue::new(setup.cluster.count_lag_seconds),
            nodes: Nodes::new(&setup.cluster, setup.nodes()),
            coming: 0,
            pods: Vec::new(),
            created: 0,
            spans: Vec::new(),
            replicas: setup.replicas,
            changes: vec![Change { at: trace.begin, replicas: setup.replicas, reason: "Begin".into() }],
            lost: Vec::new(),
            busy_killed: 0,
            pods_changed: false,
            random: Random::new(setup.seed, Stream::World),
        }
    }

    /// Workers that were there before, all ready.
    fn begin(&mut self) {
        for _ in 0..self.setup.replicas {
            let mut pod = Pod::new(self.created, self.begin);
            self.created += 1;
            if let Some(place) = self.nodes.place_early() {
                pod.node = place.node;
                pod.phase = Phase::Ready;
                pod.placed = Some(self.begin);
                (pod.running, pod.ready) = (self.begin, self.begin);
            } else {
                self.at(self.begin, What::Schedule(pod.id));
            }
            self.pods.push(pod);
        }
    }

    /// Does what happens next; the time then.
    fn step(&mut self, policy: &mut dyn Policy) -> Option<f64> {
        let event = self.events.peek().map(|Reverse(event)| *event);
        let arrival = self.jobs.get(self.sent).map(|job| job.sent);
        match (arrival, event) {
            // What is sent at some moment is seen at that moment.
            (Some(at), event) if event.is_none_or(|event| at <= event.at) => {
                self.now = at;
                self.queue.appear(at, self.sent, false);
                self.sent += 1;
                self.dispatch();
            }
            (_, Some(event)) => {
                self.events.pop();
                self.now = event.at;
                self.happen(event.what, policy);
            }
            (_, None) => return None,
        }
        if std::mem::take(&mut self.pods_changed) && policy.watches_pods() {
            self.plan(self.now);
        }
        Some(self.now)
    }

    fn happen(&mut self, what: What, policy: &mut dyn Policy) {
        match what {
            What::Schedule(pod) => {
                self.pods_changed = true;
                self.schedule(pod);
            }
            What::Ready(id) => {
                if let Some(pod) = self.pod(id).filter(|pod| pod.phase == Phase::Starting) {
                    pod.phase = Phase::Ready;
                    pod.idle_since = pod.ready;
                    self.pods_changed = true;
                    self.dispatch();
                }
            }
            What::Done { pod, job } => self.finish(pod, job),
            What::Back(job) => {
                self.queue.appear(self.now, job, true);
                self.dispatch();
            }
            What::Gone(id) => self.remove(id),
            What::NodeUp(node) => {
                self.nodes.arrive(node);
                self.coming -= 1;
                self.schedule_pending();
            }
            What::NodeDown { node, epoch } => self.nodes.remove(node, epoch),
            What::Look { plan } if plan == self.look => self.decide(policy),
            What::Look { .. } => {}
        }
    }

    fn at(&mut self, at: f64, what: What) {
        self.made += 1;
        self.events.push(Reverse(Event { at, number: self.made, what }));
    }

    /// The policy looks next at this time, and not at any that was planned before.
    fn plan(&mut self, at: f64) {
        self.look += 1;
        self.at(at.max(self.now), What::Look { plan: self.look });
    }

    fn pod(&mut self, id: usize) -> Option<&mut Pod> {
        let index = self.pods.binary_search_by_key(&id, |pod| pod.id).ok()?;
        self.pods.get_mut(index)
    }

    fn decide(&mut self, policy: &mut dyn Policy) {
        let Self { now, replicas, pods, queue, jobs, random, .. } = self;
        let mut sight = Sight { now: *now, replicas: *replicas, pods, queue, jobs, random };
        let look = policy.look(&mut sight);
        if let Some(wished) = look.replicas.map(|wished| wished.max(0)) {
            self.scale(wished, policy.removal());
        }
        let changed =
            self.changes.last().is_none_or(|last| last.replicas != self.replicas || last.reason != look.reason);
        if changed {
            self.changes.push(Change { at: self.now, replicas: self.replicas, reason: look.reason });
        }
        // A clock that does not move on would hold the world still.
        self.plan(look.next.max(self.now + 1e-3));
    }

    fn scale(&mut self, wished: i32, removal: Removal) {
        let present = count(self.pods.iter().filter(|pod| pod.counts()).count());
        for _ in present..wished {
            let pod = Pod::new(self.created, self.now);
            self.created += 1;
            self.at(self.now + self.setup.cluster.scheduling_seconds, What::Schedule(pod.id));
            self.pods.push(pod);
            self.pods_changed = true;
        }
        let mut left = present.max(wished);
        for id in victims(&self.pods, (present - wished).max(0).unsigned_abs() as usize, removal) {
            self.stop(id);
            left -= 1;
        }
        self.replicas = left;
    }

    fn schedule(&mut self, id: usize) {
        let pending = self.pod(id).is_some_and(|pod| pod.phase == Phase::Pending);
        if !pending {
            return;
        }
        if let Some(place) = self.nodes.place() {
            let cluster = &self.setup.cluster;
            let (now, load) = (self.now, self.random.lognormal(cluster.ready_seconds, cluster.ready_cv));
            let ready = now + place.pull + load;
            if let Some(pod) = self.pod(id) {
                pod.node = place.node;
                pod.phase = Phase::Starting;
                pod.placed = Some(now);
                pod.running = now + place.pull;
                pod.ready = ready;
            }
            self.at(ready, What::Ready(id));
        } else if self.nodes.elastic() {
            let pending = self.pods.iter().filter(|pod| pod.phase == Phase::Pending).count();
            if pending > self.coming * self.nodes.per_node()
                && let Some(node) = self.nodes.order()
            {
                self.nodes.ordered(node);
                self.coming += 1;
                self.at(self.now + self.setup.cluster.node_seconds, What::NodeUp(node));
            }
        }
    }

    fn schedule_pending(&mut self) {
        let pending: Vec<usize> =
            self.pods.iter().filter(|pod| pod.phase == Phase::Pending).map(|pod| pod.id).collect();
        for id in pending {
            self.schedule(id);
        }
    }

    /// A pod gets the signal to stop: what it holds and can finish within its grace is finished, the rest comes back.
    fn stop(&mut self, id: usize) {
        let (now, setup) = (self.now, self.setup);
        let Some(pod) = self.pod(id) else { return };
        let phase = std::mem::replace(&mut pod.phase, Phase::Stopping);
        if phase == Phase::Pending {
            self.at(now, What::Gone(id));
            return;
        }
        let last = pod.held.iter().map(|(_, done)| *done).fold(now, f64::max);
        let (killed, busy) = (now + setup.grace, !pod.held.is_empty());
        let cut: Vec<usize> = pod.held.iter().filter(|(_, done)| *done > killed).map(|(job, _)| *job).collect();
        pod.held.retain(|(_, done)| *done <= killed);
        let gone = (now + setup.cluster.stop_seconds).max(last).min(killed.max(now + setup.cluster.stop_seconds));
        self.busy_killed += u64::from(busy);
        for job in cut {
            let started = self.jobs[job].started.unwrap_or(now);
            let renewal = setup.visibility * RENEWAL;
            let back = ((killed - started) / renewal).floor().mul_add(renewal, started) + setup.visibility;
            self.lost.push(Lost { job, started, back });
            self.at(back, What::Back(job));
        }
        self.at(gone, What::Gone(id));
    }

    fn remove(&mut self, id: usize) {
        let Ok(index) = self.pods.binary_search_by_key(&id, |pod| pod.id) else { return };
        let mut pod = self.pods.remove(index);
        (pod.phase, pod.gone) = (Phase::Gone, Some(self.now));
        self.spans.push(span(&pod, self.now));
        self.pods_changed = true;
        if pod.placed.is_some() {
            if let Some(epoch) = self.nodes.leave(pod.node) {
                self.at(self.now + self.setup.cluster.node_idle_seconds, What::NodeDown { node: pod.node, epoch });
            }
            self.schedule_pending();
        }
    }

    /// Workers with free slots receive what waits.
    fn dispatch(&mut self) {
        let slots = self.setup.slots;
        while self.queue.has_visible() {
            let free = |pod: &&mut Pod| pod.phase == Phase::Ready && pod.held.len() < slots;
            let waiting = self.pods.iter_mut().filter(free).count();
            let chosen = self.random.index(waiting);
            let Some(pod) = self.pods.iter_mut().filter(free).nth(chosen) else { return };
            let Some(job) = self.queue.receive(self.now) else { return };
            let work = &mut self.jobs[job];
            if work.started.replace(self.now).is_none() {
                pod.received = Some((self.now, work.sent));
            }
            let (id, done) = (pod.id, self.now + work.service);
            pod.held.push((job, done));
            self.at(done, What::Done { pod: id, job });
        }
    }

    fn finish(&mut self, id: usize, job: usize) {
        let (now, service) = (self.now, self.jobs[job].service);
        let Some(pod) = self.pod(id) else { return };
        // One that was cut short is held no more.
        let Some(index) = pod.held.iter().position(|(held, _)| *held == job) else { return };
        pod.held.swap_remove(index);
        pod.complete(service);
        if pod.held.is_empty() {
            pod.idle_since = now;
        }
        self.jobs[job].finished = Some(now);
        self.done += 1;
        self.queue.delete(now);
        self.dispatch();
    }

    /// No worker is left but those that stay for ever.
    fn is_at_rest(&self) -> bool {
        self.pods.len() <= self.setup.min_replicas.max(0).unsigned_abs() as usize
            && self.replicas <= self.setup.min_replicas
    }

    fn outcome(mut self) -> Outcome {
        let now = self.now.max(self.end);
        self.spans.extend(self.pods.iter().map(|pod| span(pod, now)));
        Outcome {
            begin: self.begin,
            end: now,
            jobs: self.jobs,
            lost: self.lost,
            pods: self.spans,
            changes: self.changes,
            busy_killed: self.busy_killed,
        }
    }
}

fn span(pod: &Pod, now: f64) -> Span {
    let gone = pod.gone.unwrap_or(now);
    Span { placed: pod.placed, ready: Some(pod.ready).filter(|ready| *ready <= gone), gone }
}

#[cfg(test)]
#[path = "tests/engine.rs"]
mod tests;
