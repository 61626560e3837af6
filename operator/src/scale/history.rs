//! What earlier decisions leave behind. Clocks are kept in memory only: a restart of the operator begins them anew, which
//! can only delay a scale-down. Estimates survive it in the status.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::estimate::Estimates;
use super::inputs::Failure;

/// So many seconds without a change are calm.
const CALM: f64 = 120.0;

/// What earlier decisions leave behind. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Wishes in falling order, each the highest since the one before: the first is the highest of all.
    wishes: VecDeque<(f64, i32)>,
    /// When there was last something to do, or that could not be excluded.
    pub(super) last_active: Option<f64>,
    /// When another count was wanted last, or messages were old.
    pub(super) unsettled: Option<f64>,
    /// Since when messages are in flight that no worker holds.
    pub(super) unheld_since: Option<f64>,
    /// Workers that were seen ready or in trouble, by name: each tells once how long it took, if all went well.
    pub(super) seen: BTreeSet<String>,
    /// Workers were at work, and all their slots were taken.
    pub(super) was: (bool, bool),
    /// What was measured.
    pub(crate) estimates: Estimates,
    /// Every attempt fails, and none ended well since; and since when that is known.
    pub(super) failing: Option<(f64, Failure)>,
    /// On a FIFO queue: until when no worker is added, because those that are there find no free message group.
    pub(super) groups_until: Option<f64>,
    /// How many workers found messages then.
    pub(super) groups_workers: i32,
    /// On a FIFO queue: since when most slots are taken.
    pub(super) groups_full_since: Option<f64>,
}

impl History {
    /// As a status remembers it.
    pub(crate) fn restored(status: Option<&millrace_api::QueueConsumerStatus>) -> Self {
        let remembered = status.and_then(|status| status.estimates.as_ref());
        Self { estimates: remembered.map(Estimates::restored).unwrap_or_default(), ..Self::default() }
    }

    /// Only what was measured stays.
    pub(super) fn forget(self) -> Self {
        Self { estimates: self.estimates, ..Self::default() }
    }

    /// Why every job fails, while every job does.
    pub(crate) fn failing(&self) -> Option<&Failure> {
        self.failing.as_ref().map(|(_, failure)| failure)
    }

    /// Whether nothing was decided yet.
    pub(super) fn is_new(&self) -> bool {
        self.last_active.is_none()
    }

    /// Nothing was to be changed for minutes: the queue may be read less often.
    pub(crate) fn is_calm(&self, now: f64) -> bool {
        self.unsettled.is_some_and(|unsettled| now - unsettled > CALM)
    }

    /// Adds a wish and drops those that are older than the window.
    pub(super) fn wish(&mut self, now: f64, replicas: i32, window: f64) {
        while self.wishes.back().is_some_and(|(_, wish)| *wish <= replicas) {
            self.wishes.pop_back();
        }
        self.wishes.push_back((now, replicas));
        while self.wishes.len() > 1 && self.wishes.front().is_some_and(|(at, _)| now - at >= window) {
            self.wishes.pop_front();
        }
    }

    /// The highest wish of the window, and when it leaves.
    pub(super) fn highest(&self, window: f64) -> Option<(i32, f64)> {
        self.wishes.front().map(|(at, wish)| (*wish, at + window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_wish_of_the_window_rules() {
        let mut history = History::default();
        for (second, wish, highest) in [
            (0.0, 5, 5),
            (10.0, 3, 5),
            (20.0, 4, 5),
            (59.0, 1, 5),
            (60.0, 1, 4),
            (79.0, 1, 4),
            (80.0, 1, 1),
            (81.0, 7, 7),
        ] {
            history.wish(second, wish, 60.0);
            assert_eq!(history.highest(60.0).unwrap().0, highest, "at {second} s");
        }
    }

    #[test]
    fn without_a_window_the_last_wish_rules() {
        let mut history = History::default();
        for wish in [5, 1] {
            history.wish(7.0, wish, 0.0);
        }
        assert_eq!(history.highest(0.0).unwrap().0, 1);
    }
}
