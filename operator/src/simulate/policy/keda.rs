//! KEDA 2.20 with its trigger aws-sqs-queue at its defaults.
//!
//! Its operator polls every 30 s: while `visible + in flight` is more than activationQueueLength 0 the trigger is active;
//! then 0 becomes 1 (pkg/scaling/executor/scale_scaledobjects.go). Once it has not been active for cooldownPeriod, the
//! next poll writes 0. In between the HPA that it makes decides, which asks KEDA's metrics server and so SQS at each of its
//! syncs (useCachedMetrics is off); its minReplicas is 1 where minReplicaCount is 0. scaleOnInFlight is on.

use super::super::random::Random;
use super::hpa::{Hpa, SYNC};
use super::{Look, Policy, Sight, tick_after};

/// `pollingInterval`.
const POLL: f64 = 30.0;

/// What it is set to.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Settings {
    /// `queueLength`: messages for each replica.
    pub(in super::super) queue_length: f64,
    /// `cooldownPeriod`, in seconds.
    pub(in super::super) cooldown: f64,
    /// First poll after the beginning, in seconds.
    pub(in super::super) poll_phase: Option<f64>,
    /// First sync of the HPA after the beginning, in seconds.
    pub(in super::super) sync_phase: Option<f64>,
}

/// What it remembers.
#[derive(Debug)]
pub(in super::super) struct Keda {
    min: i32,
    cooldown: f64,
    hpa: Hpa,
    /// First poll and first sync, in seconds as in the trace.
    first: (f64, f64),
    next_poll: f64,
    next_sync: f64,
    last_active: Option<f64>,
    reason: &'static str,
}

impl Keda {
    /// Where a phase was not given, it is drawn.
    pub(in super::super) fn new(settings: Settings, (min, max): (i32, i32), begin: f64, random: &mut Random) -> Self {
        let (poll, sync) = (random.unit() * POLL, random.unit() * SYNC);
        let first = (begin + settings.poll_phase.unwrap_or(poll), begin + settings.sync_phase.unwrap_or(sync));
        Self {
            min,
            cooldown: settings.cooldown,
            hpa: Hpa::new(settings.queue_length, min.max(1), max),
            first,
            next_poll: first.0,
            next_sync: first.1,
            last_active: None,
            reason: "Begin",
        }
    }

    fn poll(&mut self, now: f64, current: i32, messages: f64) -> i32 {
        if messages > 0.0 {
            self.last_active = Some(now);
            if current == 0 {
                self.reason = "Activated";
                return self.min.max(1);
            }
        } else if current > 0 && self.min == 0 && self.last_active.is_none_or(|last| last + self.cooldown <= now) {
            self.reason = "CooledDown";
            return 0;
        }
        current.max(self.min)
    }
}

impl Policy for Keda {
    fn look(&mut self, sight: &mut Sight<'_>) -> Look {
        let now = sight.now;
        let mut replicas = sight.replicas;
        if now >= self.next_sync {
            let (status, metric) = (sight.status_replicas(), sight.counts().total());
            let before = replicas;
            replicas = self.hpa.sync(now, replicas, status, metric);
            if replicas != before {
                self.reason = "HPA";
            }
            self.next_sync = tick_after(now, self.first.1, SYNC);
        }
        if now >= self.next_poll {
            let messages = sight.counts().total();
            replicas = self.poll(now, replicas, messages);
            self.next_poll = tick_after(now, self.first.0, POLL);
        }
        Look { replicas: Some(replicas), reason: self.reason.into(), next: self.next_poll.min(self.next_sync) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::random::Stream;
    use super::super::fixtures::play;
    use super::*;

    fn keda(min: i32) -> Keda {
        let settings = Settings { queue_length: 5.0, cooldown: 300.0, poll_phase: Some(5.0), sync_phase: Some(10.0) };
        Keda::new(settings, (min, 100), 0.0, &mut Random::new(1, Stream::Policy))
    }

    #[test]
    fn from_none_to_one_by_the_poll_and_on_by_the_hpa() {
        // (second, messages, pods)
        let steps = [(5.0, 100, 0), (10.0, 100, 1), (25.0, 100, 5), (35.0, 100, 5), (40.0, 100, 5)];
        assert_eq!(play(&mut keda(0), &steps), [Some(1), Some(5), Some(5), Some(5), Some(10)]);
    }

    #[test]
    fn to_none_by_the_first_poll_after_the_cooldown() {
        let mut steps = vec![(5.0, 1, 1)];
        steps.extend((1..=10).map(|poll| (f64::from(poll).mul_add(30.0, 5.0), 0, 1)));
        let said = play(&mut keda(0), &steps);
        assert!(said[..10].iter().all(|count| *count == Some(1)), "{said:?}");
        assert_eq!(said[10], Some(0), "305 s");
        let said = play(&mut keda(1), &steps);
        assert_eq!(said[10], Some(1), "minReplicaCount stays");
    }
}
