//! Who decides how many workers there are: this operator, and what it is compared with.

pub(super) mod hpa;
pub(super) mod keda;
pub(super) mod millrace;
pub(super) mod oracle;
pub(super) mod ray;
pub(super) mod wpa;

use super::cluster::{Phase, Pod, Removal};
use super::outcome::Job;
use super::queue::{Counts, Queue};
use super::random::Random;

/// What a policy can see.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    /// Seconds, as in the trace.
    pub(super) now: f64,
    /// The wished count.
    pub(super) replicas: i32,
    /// Pods that are not gone.
    pub(super) pods: &'a [Pod],
    pub(super) queue: &'a Queue,
    /// All jobs that were sent, and those that will be.
    pub(super) jobs: &'a [Job],
    pub(super) random: &'a mut Random,
}

impl Sight<'_> {
    /// Asks SQS.
    pub(super) fn counts(&mut self) -> Counts {
        self.queue.reported(self.now, self.random)
    }

    /// The Deployment's `status.replicas`: pods that are not told to stop.
    pub(super) fn status_replicas(&self) -> i32 {
        count(self.pods.iter().filter(|pod| pod.counts()).count())
    }

    /// Workers that receive.
    pub(super) fn ready(&self) -> i32 {
        count(self.pods.iter().filter(|pod| pod.phase == Phase::Ready).count())
    }

    /// Jobs sent in a time.
    pub(super) fn sent_between(&self, from: f64, to: f64) -> usize {
        let before = |time: f64| self.jobs.partition_point(|job| job.sent < time);
        before(to.min(self.now)).saturating_sub(before(from))
    }
}

/// What a policy says when it looks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    /// The count to wish for; none: as it is.
    pub(super) replicas: Option<i32>,
    /// Why, in one word.
    pub(super) reason: String,
    /// When it looks next, in seconds as in the trace.
    pub(super) next: f64,
}

/// Decides how many workers there are.
pub(super) trait Policy {
    /// Looks when it wanted to, or when pods changed.
    fn look(&mut self, sight: &mut Sight<'_>) -> Look;
    /// Whom to take where there are to be fewer.
    fn removal(&self) -> Removal {
        Removal::ReplicaSet
    }
    /// Whether it looks whenever a pod is made, becomes ready or is gone.
    fn watches_pods(&self) -> bool {
        false
    }
}

/// A count of things as a count of replicas.
pub(super) fn count(things: usize) -> i32 {
    i32::try_from(things).unwrap_or(i32::MAX)
}

/// A next time of a clock that ticks every `period` from `first` on: the first after `now`.
pub(super) fn tick_after(now: f64, first: f64, period: f64) -> f64 {
    if now < first {
        return first;
    }
    let next = first + ((now - first) / period + 1e-9).floor().mul_add(period, period);
    if next > now { next } else { next + period }
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::super::random::Stream;
    use super::*;

    /// Lets a policy look at a queue of so many messages while it has so many ready pods, at each of these times.
    pub(in super::super) fn play(policy: &mut dyn Policy, steps: &[(f64, usize, usize)]) -> Vec<Option<i32>> {
        let mut random = Random::new(1, Stream::World);
        let mut said = Vec::new();
        for (now, messages, pods) in steps {
            let mut queue = Queue::new(0.0);
            for job in 0..*messages {
                queue.appear(*now, job, false);
            }
            let pods: Vec<Pod> = (0..*pods)
                .map(|id| {
                    let mut pod = Pod::new(id, 0.0);
                    pod.phase = Phase::Ready;
                    pod
                })
                .collect();
            let replicas = count(pods.len());
            let mut sight = Sight { now: *now, replicas, pods: &pods, queue: &queue, jobs: &[], random: &mut random };
            said.push(policy.look(&mut sight).replicas);
        }
        said
    }

    #[test]
    fn clocks_tick_on() {
        for (now, wanted) in [(-1.0, 3.0), (3.0, 18.0), (3.1, 18.0), (17.99, 18.0), (18.0, 33.0)] {
            assert!((tick_after(now, 3.0, 15.0) - wanted).abs() < 1e-6, "at {now}");
        }
    }
}
