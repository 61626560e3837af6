//! The queue as SQS has it: messages that wait, messages that somebody holds, and counts that are a little old.

use std::collections::{BTreeSet, VecDeque};

use super::random::Random;

/// What SQS would report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that can be received.
    pub(super) visible: i64,
    /// Messages that are hidden because somebody received them, or holds them no more and they are not back yet.
    pub(super) in_flight: i64,
}

impl Counts {
    pub(super) fn total(self) -> f64 {
        (self.visible + self.in_flight) as f64
    }
}

/// The messages, by the index of their job.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Oldest first: SQS gives older messages first, more or less.
    visible: BTreeSet<usize>,
    in_flight: i64,
    /// The true counts since each of these times, in seconds; only as far back as reports may lag.
    past: VecDeque<(f64, Counts)>,
    lag: f64,
}

impl Queue {
    /// Counts are up to `lag` seconds old.
    pub(super) fn new(lag: f64) -> Self {
        Self { lag, ..Self::default() }
    }

    /// A message is sent, or comes back to be received again.
    pub(super) fn appear(&mut self, now: f64, job: usize, again: bool) {
        self.visible.insert(job);
        self.in_flight -= i64::from(again);
        self.remember(now);
    }

    /// A worker receives the oldest.
    pub(super) fn receive(&mut self, now: f64) -> Option<usize> {
        let job = self.visible.pop_first()?;
        self.in_flight += 1;
        self.remember(now);
        Some(job)
    }

    /// A worker is done with one.
    pub(super) fn delete(&mut self, now: f64) {
        self.in_flight -= 1;
        self.remember(now);
    }

    pub(super) fn has_visible(&self) -> bool {
        !self.visible.is_empty()
    }

    /// The counts as they are.
    pub(super) fn counts(&self) -> Counts {
        Counts { visible: i64::try_from(self.visible.len()).unwrap_or(i64::MAX), in_flight: self.in_flight }
    }

    /// The counts as SQS reports them: each as it was at some moment of the last `lag` seconds, and not the same moment, as
    /// SQS adds them up over many servers. ("approximate", "eventually consistent" in its API reference.)
    pub(super) fn reported(&self, now: f64, random: &mut Random) -> Counts {
        let at = |age: f64| self.at(now - age);
        let (first, second) = (random.unit() * self.lag, random.unit() * self.lag);
        Counts { visible: at(first).visible, in_flight: at(second).in_flight }
    }

    fn at(&self, time: f64) -> Counts {
        let later = self.past.partition_point(|(since, _)| *since <= time);
        match later {
            0 => self.past.front().map_or_else(|| self.counts(), |_| Counts::default()),
            later => self.past[later - 1].1,
        }
    }

    fn remember(&mut self, now: f64) {
        let counts = self.counts();
        match self.past.back_mut() {
            Some(last) if last.0 >= now => last.1 = counts,
            _ => self.past.push_back((now, counts)),
        }
        // The last one before the oldest moment that may be asked for has to stay.
        while self.past.len() > 1 && self.past[1].0 < now - self.lag {
            self.past.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Stream;
    use super::*;

    #[test]
    fn older_messages_come_first_also_after_they_came_back() {
        let mut queue = Queue::new(0.0);
        for job in [0, 1, 2] {
            queue.appear(0.0, job, false);
        }
        assert_eq!(queue.receive(1.0), Some(0));
        assert_eq!(queue.counts(), Counts { visible: 2, in_flight: 1 });
        queue.appear(2.0, 0, true);
        assert_eq!(queue.counts(), Counts { visible: 3, in_flight: 0 });
        assert_eq!(queue.receive(3.0), Some(0));
    }

    #[test]
    fn reports_lag_by_no_more_than_they_may() {
        let mut queue = Queue::new(5.0);
        let mut random = Random::new(1, Stream::World);
        for second in 0..100_i32 {
            queue.appear(f64::from(second), second.unsigned_abs() as usize, false);
            let seen = queue.reported(f64::from(second), &mut random).visible;
            assert!((i64::from(second) - 4..=i64::from(second) + 1).contains(&seen), "{seen} at {second}");
        }
        assert!(queue.past.len() <= 8);
        assert_eq!(queue.reported(200.0, &mut random).visible, 100);
    }

    #[test]
    fn without_lag_reports_are_exact() {
        let mut queue = Queue::new(0.0);
        let mut random = Random::new(1, Stream::World);
        assert_eq!(queue.reported(0.0, &mut random), Counts::default());
        queue.appear(1.0, 0, false);
        assert_eq!(queue.reported(1.0, &mut random), Counts { visible: 1, in_flight: 0 });
    }
}
