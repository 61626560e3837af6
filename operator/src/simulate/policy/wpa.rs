//! practo's k8s-worker-pod-autoscaler: pkg/controller/controller.go (getDesiredWorkers) and scale_operation.go.
//!
//! Every 20 s `ceil((visible + in flight) / targetMessagesPerWorker)`, with a tolerance of 10 %, at once. With
//! secondsToProcessOneJob set, never fewer than that times the messages sent a minute / 60 need. Fewer only 600 s after the
//! last change of the count (`--scale-down-delay-after-last-scale-activity`); maxDisruption is 100 %. With nothing in the
//! queue it goes to the least.

use super::{Look, Policy, Sight};

/// `--sqs-short-poll-interval`.
const EVERY: f64 = 20.0;
const COOL_OFF: f64 = 600.0;
const TOLERANCE: f64 = 0.1;

/// What it is set to, and what it remembers.
#[derive(Debug)]
pub(in super::super) struct Wpa {
    min: i32,
    max: i32,
    target: f64,
    seconds_per_job: Option<f64>,
    next: f64,
    last_scale: Option<f64>,
}

impl Wpa {
    /// `first` is its first look, in seconds as in the trace.
    pub(in super::super) fn new((min, max): (i32, i32), target: f64, seconds_per_job: Option<f64>, first: f64) -> Self {
        Self { min, max, target, seconds_per_job, next: first, last_scale: None }
    }

    fn desired(&self, current: i32, messages: f64, sent_per_minute: f64) -> i32 {
        let floor = self.seconds_per_job.map_or(0, |seconds| (seconds * sent_per_minute / 60.0).ceil() as i32);
        let least = self.min.max(floor).min(self.max);
        let workers = messages / self.target;
        let small = current > 0 && messages > 0.0 && (1.0 - workers / f64::from(current)).abs() <= TOLERANCE;
        let desired = if small { current } else { workers.ceil() as i32 };
        desired.clamp(least, self.max)
    }
}

impl Policy for Wpa {
    fn look(&mut self, sight: &mut Sight<'_>) -> Look {
        let (now, current) = (sight.now, sight.replicas);
        if now < self.next {
            return Look { replicas: None, reason: "Begin".into(), next: self.next };
        }
        self.next = now + EVERY;
        // CloudWatch's NumberOfMessagesSent of the last whole minute.
        let minute = (now / 60.0).floor() * 60.0;
        let sent = sight.sent_between(minute - 60.0, minute) as f64;
        let desired = self.desired(current, sight.counts().total(), sent);
        let cool = self.last_scale.is_none_or(|last| last + COOL_OFF < now);
        let (replicas, reason) = match desired {
            desired if desired > current => (desired, "MessagesPerWorker"),
            desired if desired < current && cool => (desired, "MessagesPerWorker"),
            desired if desired < current => (current, "CoolOff"),
            _ => (current, "MessagesPerWorker"),
        };
        if replicas != current {
            self.last_scale = Some(now);
        }
        Look { replicas: Some(replicas), reason: reason.into(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::play;
    use super::*;

    #[test]
    fn its_formula() {
        let with = |seconds| Wpa::new((0, 20), 5.0, seconds, 0.0);
        for (seconds, current, messages, sent, wanted) in [
            (None, 0, 1.0, 0.0, 1),
            (None, 0, 26.0, 0.0, 6),
            (None, 10, 54.0, 0.0, 10),
            (None, 10, 56.0, 0.0, 12),
            (None, 3, 0.0, 100.0, 0),
            (Some(6.0), 3, 0.0, 100.0, 10),
            (None, 0, 1000.0, 0.0, 20),
        ] {
            assert_eq!(with(seconds).desired(current, messages, sent), wanted, "{current} {messages} {sent}");
        }
    }

    #[test]
    fn fewer_only_ten_minutes_after_the_last_change() {
        let mut wpa = Wpa::new((0, 20), 5.0, None, 0.0);
        let said = play(&mut wpa, &[(0.0, 50, 0), (20.0, 10, 10), (600.0, 0, 10), (620.0, 0, 10), (640.0, 50, 0)]);
        assert_eq!(said, [Some(10), Some(10), Some(10), Some(0), Some(10)]);
    }
}
