//! Ray Serve's policy for asynchronous inference at its defaults: python/ray/serve/autoscaling_policy.py
//! (async_inference_autoscaling_policy, _apply_delay_logic, _get_cold_start_scale_up_replicas) and config.py.
//!
//! The work is the queue's length, asked every 10 s, and what replicas hold, averaged over a look-back of 30 s (which
//! target_ongoing_requests refers to); the wish `ceil(work / target_ongoing_requests)`. More after 30 s in which every wish was for more, fewer
//! after 600 s, and to none only from one, after another 600 s. From none to one at once. Its queue monitor reads Redis and
//! RabbitMQ only: with SQS it raises NotImplementedError, so this is what it would do. It looks every 0.1 s; here every
//! second.

use std::collections::VecDeque;

use super::{Look, Policy, Sight};

const EVERY: f64 = 1.0;
/// The queue monitor's interval.
const QUEUE_EVERY: f64 = 10.0;
/// `look_back_period_s`.
const LOOK_BACK: f64 = 30.0;
/// `upscale_delay_s`.
const UP_DELAY: f64 = 30.0;
/// `downscale_delay_s`, and `downscale_to_zero_delay_s` where that is not set.
const DOWN_DELAY: f64 = 600.0;

/// What it is set to, and what it remembers.
#[derive(Debug)]
pub(in super::super) struct Ray {
    min: i32,
    max: i32,
    target_ongoing: f64,
    next_queue: f64,
    queued: f64,
    ongoing: VecDeque<(f64, f64)>,
    /// Since when every wish was for more (1) or for fewer (-1).
    streak: Option<(i32, f64)>,
}

impl Ray {
    /// `first` is its first look at the queue, in seconds as in the trace.
    pub(in super::super) fn new((min, max): (i32, i32), target_ongoing: f64, first: f64) -> Self {
        Self { min, max, target_ongoing, next_queue: first, queued: 0.0, ongoing: VecDeque::new(), streak: None }
    }

    /// The count to have, where the work so far says so long enough.
    fn decide(&mut self, now: f64, current: i32, running: i32, work: f64) -> (i32, &'static str) {
        if current == 0 && running == 0 {
            self.streak = None;
            return if work > 0.0 { (1, "ColdStart") } else { (0, "Idle") };
        }
        let wish = ((work / self.target_ongoing).ceil() as i32).clamp(self.min, self.max);
        let direction = (wish - current).signum();
        if direction == 0 {
            self.streak = None;
            return (current, "OngoingRequests");
        }
        let since = match self.streak {
            Some((before, since)) if before == direction => since,
            _ => now,
        };
        self.streak = Some((direction, since));
        let delay = if direction > 0 { UP_DELAY } else { DOWN_DELAY };
        if now - since < delay {
            return (current, if direction > 0 { "UpscaleDelay" } else { "DownscaleDelay" });
        }
        self.streak = None;
        // To none only from one.
        (if current > 1 { wish.max(1) } else { wish }, "OngoingRequests")
    }
}

impl Policy for Ray {
    fn look(&mut self, sight: &mut Sight<'_>) -> Look {
        let now = sight.now;
        if now >= self.next_queue {
            self.queued = sight.counts().visible as f64;
            self.next_queue = now + QUEUE_EVERY;
        }
        let held: usize = sight.pods.iter().map(|pod| pod.held.len()).sum();
        self.ongoing.push_back((now, held as f64));
        self.ongoing.retain(|(at, _)| *at > now - LOOK_BACK);
        let ongoing = self.ongoing.iter().map(|(_, held)| held).sum::<f64>() / self.ongoing.len() as f64;
        let (replicas, reason) = self.decide(now, sight.replicas, sight.ready(), self.queued + ongoing);
        Look { replicas: Some(replicas.max(self.min)), reason: reason.into(), next: now + EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_after_30_s_and_fewer_after_600_s() {
        let mut ray = Ray::new((0, 10), 2.0, 0.0);
        let mut at = |now: f64, current: i32, work: f64| ray.decide(now, current, current, work).0;
        assert_eq!(at(0.0, 0, 100.0), 1, "from none at once, and to one");
        assert_eq!(at(1.0, 1, 100.0), 1);
        assert_eq!(at(30.0, 1, 7.0), 1);
        assert_eq!(at(31.0, 1, 7.0), 4, "the last wish counts");
        assert_eq!(at(32.0, 4, 0.0), 4);
        assert_eq!(at(500.0, 4, 8.0), 4, "which breaks the streak");
        assert_eq!(at(501.0, 4, 0.0), 4);
        assert_eq!(at(1101.0, 4, 0.0), 1, "to none only from one");
        assert_eq!(at(1102.0, 1, 0.0), 1);
        assert_eq!(at(1702.0, 1, 0.0), 0);
    }
}
