//! What earlier decisions leave behind. It is kept in memory only: a restart of the operator begins anew, which can only
//! delay a scale-down.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What earlier decisions leave behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    /// Wishes in falling order, each the highest since the one before: the first is the highest of all.
    wishes: VecDeque<(Instant, i32)>,
    /// When there was last something to do, or that could not be excluded.
    pub(super) last_active: Option<Instant>,
    /// The service time that workers reported last, in seconds.
    pub(super) service_seconds: Option<f64>,
}

impl History {
    /// Whether nothing was decided yet.
    pub(super) fn is_new(&self) -> bool {
        self.last_active.is_none()
    }

    /// Adds a wish and drops those that are older than the window.
    pub(super) fn wish(&mut self, now: Instant, replicas: i32, window: Duration) {
        while self.wishes.back().is_some_and(|(_, wish)| *wish <= replicas) {
            self.wishes.pop_back();
        }
        self.wishes.push_back((now, replicas));
        while self.wishes.len() > 1
            && self.wishes.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= window)
        {
            self.wishes.pop_front();
        }
    }

    /// The highest wish of the window, and when it leaves.
    pub(super) fn highest(&self, window: Duration) -> Option<(i32, Instant)> {
        self.wishes.front().map(|(at, wish)| (*wish, *at + window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_wish_of_the_window_rules() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let window = Duration::from_mins(1);
        let mut history = History::default();
        for (seconds, wish, highest) in
            [(0, 5, 5), (10, 3, 5), (20, 4, 5), (59, 1, 5), (60, 1, 4), (79, 1, 4), (80, 1, 1), (81, 7, 7)]
        {
            history.wish(at(seconds), wish, window);
            assert_eq!(history.highest(window).unwrap().0, highest, "at {seconds} s");
        }
    }

    #[test]
    fn without_a_window_the_last_wish_rules() {
        let now = Instant::now();
        let mut history = History::default();
        for wish in [5, 1] {
            history.wish(now, wish, Duration::ZERO);
        }
        assert_eq!(history.highest(Duration::ZERO).unwrap().0, 1);
    }
}
