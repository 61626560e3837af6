//! What could be had by one who knows the whole trace: a plan of pods and jobs, not a policy that looks.
//!
//! Jobs are taken in the order of sending, which is the order of their deadlines (sent + target), so that this is EDF. A job
//! goes to the worker whose time it prolongs least, of those that can start it in time; a worker without a job is kept while
//! that is cheaper than to stop it and start another; otherwise a new worker is begun so much earlier that it is ready when
//! the job shall start, also before the trace begins. Three things are tried out, for the whole trace and in turns for each
//! stretch of it:
//! - When a new worker is ready: after a part of the target, from none (a burst needs all at once) to all of it (what comes
//!   meanwhile is done by the same worker).
//! - How long an idle one is kept: a part of a start's cost, as others may have room for its jobs.
//! - Which of several workers that a job prolongs equally gets it: the one with the longest or the shortest backlog.
//!
//! The plan with the fewest late jobs and, of those, the fewest GPU-seconds counts. Starts take exactly their mean time.
//! Nothing is killed.
//!
//! So it is what good foresight reaches, a bound in practice and not a proven one; the proven one, which no policy can
//! pass, is the work itself: the sum of service times / slots.

use std::cmp::Ordering;

use super::super::outcome::{Change, Job, Outcome, Span};
use super::super::setup::Setup;
use super::super::trace::{Arrival, Trace};
use super::count;

/// Parts of the target after which a new worker is ready.
const PARTS: [f64; 7] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99];
/// Parts of a start's cost for which an idle worker is kept.
const KEEPS: [f64; 4] = [0.0, 0.3, 0.6, 1.0];
/// Jobs of a stretch, at most.
const STRETCH: usize = 150;

/// What is tried out.
#[derive(Debug, Clone, Copy)]
struct Knobs {
    part: f64,
    keep: f64,
    /// Of workers that a job prolongs equally the one with the shortest backlog gets it, not the one with the longest: that
    /// drains all before one ends, so that the next is needed later.
    level: bool,
}

impl Knobs {
    fn all() -> impl Iterator<Item = Self> {
        let pairs = PARTS.into_iter().flat_map(|part| KEEPS.into_iter().map(move |keep| (part, keep)));
        pairs.flat_map(|(part, keep)| [false, true].map(|level| Self { part, keep, level }))
    }
}

#[derive(Debug, Clone)]
struct Worker {
    placed: f64,
    ready: f64,
    /// When each slot is free.
    free: Vec<f64>,
    /// When all are.
    until: f64,
    /// One of minReplicas: it is there from the beginning to the end.
    stays: bool,
}

impl Worker {
    fn new(setup: &Setup, ready: f64, start: f64, stays: bool) -> Self {
        let placed = if stays { ready } else { ready - start };
        Self { placed, ready, free: vec![ready; setup.slots.max(1)], until: ready, stays }
    }

    /// Its first free slot, and when.
    fn slot(&self) -> (usize, f64) {
        let slots = self.free.iter().copied().enumerate();
        slots.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY))
    }

    fn give(&mut self, slot: usize, start: f64, service: f64) {
        self.free[slot] = start + service;
        self.until = self.until.max(start + service);
    }
}

/// A plan as far as it is made.
#[derive(Debug, Clone)]
struct Plan<'a> {
    setup: &'a Setup,
    /// From placed to ready, in seconds.
    start: f64,
    /// Those that may get more to do.
    open: Vec<Worker>,
    closed: Vec<Worker>,
    /// When each job starts.
    starts: Vec<f64>,
    late: usize,
    /// The most workers that were open at a time: each of them pulled the image.
    pulled: usize,
}

impl<'a> Plan<'a> {
    fn new(setup: &'a Setup, trace: &Trace) -> Self {
        let cluster = &setup.cluster;
        let pull = if cluster.node_seconds > 0.0 { cluster.image_pull_seconds } else { 0.0 };
        let start = cluster.ready_seconds + pull;
        let stays = setup.min_replicas.max(0).unsigned_abs() as usize;
        let open = vec![Worker::new(setup, trace.begin, start, true); stays];
        Self { setup, start, open, closed: Vec::new(), starts: Vec::new(), late: 0, pulled: stays }
    }

    /// A new worker's cost besides its work, in seconds.
    fn overhead(&self) -> f64 {
        self.start + self.setup.cluster.stop_seconds
    }

    /// Seconds of all workers so far.
    fn cost(&self) -> f64 {
        let of = |worker: &Worker| if worker.stays { 0.0 } else { worker.until - worker.placed };
        self.open.iter().chain(&self.closed).map(|w| of(w) + self.setup.cluster.stop_seconds).sum()
    }

    fn score(&self) -> (usize, f64) {
        (self.late, self.cost())
    }

    /// Plans one more job.
    fn take(&mut self, job: &Arrival, knobs: Knobs) {
        let patience = self.overhead() * knobs.keep;
        let (ends, kept): (Vec<_>, Vec<_>) =
            self.open.drain(..).partition(|worker| !worker.stays && job.at - worker.until > patience);
        self.open = kept;
        self.closed.extend(ends);

        let deadline = job.at + self.setup.target;
        let possible = self.open.iter().enumerate().map(|(index, worker)| {
            let (slot, free) = worker.slot();
            let start = free.max(job.at);
            let longer = if worker.stays { 0.0 } else { (start + job.service - worker.until).max(0.0) };
            (index, slot, start, longer)
        });
        let possible: Vec<_> = possible.collect();
        let in_time = possible.iter().filter(|(.., start, _)| *start <= deadline);
        let backlog = |start: f64| if knobs.level { start } else { -start };
        let least = in_time.min_by(|a, b| {
            let equally = (a.3 - b.3).abs() < 1e-9;
            let longer = if equally { Ordering::Equal } else { a.3.total_cmp(&b.3) };
            longer.then(backlog(a.2).total_cmp(&backlog(b.2))).then(a.0.cmp(&b.0))
        });
        if let Some(&(index, slot, start, _)) = least {
            return self.give(index, slot, start, job);
        }
        // All that are open are at work at the deadline. Is there room for one more?
        let wanted = self.setup.target.mul_add(knobs.part, job.at);
        let ready = self.room(wanted);
        let soonest = possible.iter().min_by(|a, b| a.2.total_cmp(&b.2).then(a.0.cmp(&b.0)));
        match soonest {
            Some(&(index, slot, start, _)) if start <= ready => self.give(index, slot, start, job),
            _ => {
                let mut start = self.start;
                if self.setup.cluster.node_seconds <= 0.0 && self.open.len() >= self.pulled {
                    self.pulled = self.open.len() + 1;
                    start += self.setup.cluster.image_pull_seconds;
                }
                self.open.push(Worker::new(self.setup, ready.max(job.at), start, false));
                let index = self.open.len() - 1;
                self.give(index, 0, ready.max(job.at), job);
            }
        }
    }

    /// When a new worker can be ready, at `wanted` or later, as there may be no more than so many at a time.
    fn room(&self, wanted: f64) -> f64 {
        let most = self.setup.most().max(0).unsigned_abs() as usize;
        let mut ends: Vec<f64> = self.open.iter().map(|_| f64::INFINITY).collect();
        ends.extend(self.closed.iter().rev().take(most).map(|w| w.until + self.setup.cluster.stop_seconds));
        ends.retain(|end| *end > wanted - self.start);
        if ends.len() < most {
            return wanted;
        }
        ends.sort_by(f64::total_cmp);
        ends.get(ends.len() - most).map_or(f64::INFINITY, |end| end + self.start)
    }

    fn give(&mut self, index: usize, slot: usize, start: f64, job: &Arrival) {
        self.open[index].give(slot, start, job.service);
        self.starts.push(start);
        self.late += usize::from(start - job.at > self.setup.target);
    }
}

/// The best plan found.
pub(in super::super) fn run(setup: &Setup, trace: &Trace) -> Outcome {
    let better = |a: &Plan<'_>, b: &Plan<'_>| {
        let ((late, cost), (other_late, other_cost)) = (a.score(), b.score());
        late.cmp(&other_late).then(cost.total_cmp(&other_cost))
    };
    let empty = Plan::new(setup, trace);
    let mut best = stretches(setup, trace, &empty);
    for knobs in Knobs::all() {
        let mut plan = empty.clone();
        for job in &trace.arrivals {
            plan.take(job, knobs);
        }
        if better(&plan, &best).is_lt() {
            best = plan;
        }
    }
    outcome(&best, trace)
}

/// In turns for each stretch, so that each has the part that suits it.
fn stretches<'a>(setup: &'a Setup, trace: &Trace, empty: &Plan<'a>) -> Plan<'a> {
    let mut plan = empty.clone();
    let quiet = setup.target + plan.overhead();
    // What is over is put away, so that trying out copies little.
    let (mut starts, mut closed) = (Vec::with_capacity(trace.arrivals.len()), Vec::new());
    let mut rest = trace.arrivals.as_slice();
    while !rest.is_empty() {
        let gap = rest.windows(2).take(STRETCH).position(|pair| pair[1].at - pair[0].at > quiet);
        let length = gap.map_or(STRETCH, |gap| gap + 1).min(rest.len());
        let (stretch, later) = rest.split_at(length);
        let mut best: Option<Plan<'a>> = None;
        for knobs in Knobs::all() {
            let mut tried = plan.clone();
            for job in stretch {
                tried.take(job, knobs);
            }
            let (a, b) = (tried.score(), best.as_ref().map_or((usize::MAX, f64::INFINITY), Plan::score));
            if a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).is_lt() {
                best = Some(tried);
            }
        }
        plan = best.unwrap_or(plan);
        starts.append(&mut plan.starts);
        let last = plan.closed.len().saturating_sub(setup.most().max(0).unsigned_abs() as usize);
        closed.extend(plan.closed.drain(..last));
        rest = later;
    }
    closed.append(&mut plan.closed);
    Plan { closed, starts, ..plan }
}

fn outcome(plan: &Plan<'_>, trace: &Trace) -> Outcome {
    let job = |(arrival, start): (&Arrival, &f64)| Job {
        sent: arrival.at,
        service: arrival.service,
        started: Some(*start),
        finished: Some(start + arrival.service),
    };
    let jobs: Vec<Job> = trace.arrivals.iter().zip(&plan.starts).map(job).collect();
    let stop = plan.setup.cluster.stop_seconds;
    let mut end = jobs.iter().filter_map(|job| job.finished).fold(trace.end, f64::max);
    let workers = || plan.open.iter().chain(&plan.closed);
    end = workers().map(|w| w.until + stop).fold(end, f64::max);
    let span = |w: &Worker| {
        let gone = if w.stays { end } else { w.until + stop };
        Span { placed: Some(w.placed), ready: Some(w.ready), gone }
    };
    let pods: Vec<Span> = workers().map(span).collect();
    let begin = pods.iter().filter_map(|pod| pod.placed).fold(trace.begin, f64::min);
    Outcome { begin, end, jobs, lost: Vec::new(), changes: changes(plan, begin), pods, busy_killed: 0 }
}

/// The count of workers that are there and not about to stop.
fn changes(plan: &Plan<'_>, begin: f64) -> Vec<Change> {
    let stays = plan.open.iter().filter(|worker| worker.stays).count();
    let comes_and_goes = plan.open.iter().chain(&plan.closed).filter(|worker| !worker.stays);
    let mut moves: Vec<(f64, i32)> = comes_and_goes.flat_map(|w| [(w.placed, 1), (w.until, -1)]).collect();
    moves.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut replicas = count(stays);
    let mut changes = vec![Change { at: begin, replicas, reason: "Plan".into() }];
    for (at, by) in moves {
        replicas += by;
        match changes.last_mut() {
            Some(last) if last.at >= at => last.replicas = replicas,
            _ => changes.push(Change { at, replicas, reason: "Plan".into() }),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::super::super::setup::fixtures::setup;
    use super::*;

    fn trace(arrivals: &[(f64, f64)]) -> Trace {
        let arrivals: Vec<_> = arrivals.iter().map(|(at, service)| Arrival { at: *at, service: *service }).collect();
        Trace { begin: 0.0, end: arrivals.last().map_or(0.0, |a| a.at), arrivals }
    }

    fn waits(outcome: &Outcome) -> Vec<i32> {
        outcome.jobs.iter().map(|job| (job.started.unwrap() - job.sent).round() as i32).collect()
    }

    #[test]
    fn a_burst_is_done_by_as_few_workers_as_its_deadline_allows() {
        // 26 jobs of 5 s: a worker starts 13 of them in 60 s.
        let outcome = run(&setup(), &trace(&[(100.0, 5.0); 26]));
        assert_eq!(outcome.pods.len(), 2);
        assert_eq!(waits(&outcome).into_iter().max(), Some(60));
        // each begun 10 s ahead
        assert!((outcome.pod_seconds() - (2.0 * 10.0 + 26.0 * 5.0)).abs() < 1e-6, "{}", outcome.pod_seconds());
    }

    #[test]
    fn what_trickles_in_is_gathered() {
        // One job of 5 s every 20 s: a worker that is ready at the first one's deadline finds four of them.
        let outcome = run(&setup(), &trace(&[(0.0, 5.0), (20.0, 5.0), (40.0, 5.0), (60.0, 5.0)]));
        assert_eq!(outcome.pods.len(), 1);
        assert!(outcome.pod_seconds() < 31.0, "{}", outcome.pod_seconds());
        assert!(waits(&outcome).into_iter().all(|wait| wait <= 60));
    }

    #[test]
    fn a_worker_is_kept_only_while_that_is_cheaper_than_another_start() {
        let patient = |gap: f64| run(&setup(), &trace(&[(0.0, 5.0), (gap, 5.0)]));
        assert_eq!(patient(60.0).pods.len(), 1);
        assert_eq!(patient(300.0).pods.len(), 2);
    }

    #[test]
    fn at_the_most_workers_jobs_are_late_and_none_is_left_out() {
        let setup = Setup { max_replicas: 1, ..setup() };
        let outcome = run(&setup, &trace(&[(0.0, 50.0); 4]));
        assert_eq!(waits(&outcome), [0, 50, 100, 150]);
        assert_eq!(outcome.pods.len(), 1);
    }

    #[test]
    fn slots_share_a_worker() {
        let setup = Setup { slots: 4, ..setup() };
        let outcome = run(&setup, &trace(&[(0.0, 50.0); 4]));
        assert_eq!((outcome.pods.len(), waits(&outcome)), (1, vec![0, 0, 0, 0]));
    }
}
