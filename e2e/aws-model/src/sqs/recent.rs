//! What is known for five minutes: how SQS tells a repeat.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Moment;

/// How long a producer's or a consumer's repeat is known as one.
const KNOWN: Duration = Duration::from_mins(5);

/// Values by the words of who may repeat them.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    values: HashMap<String, (Moment, V)>,
    ages: VecDeque<(Moment, String)>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), ages: VecDeque::new() }
    }
}

impl<V> Recent<V> {
    pub fn insert(&mut self, words: String, value: V, now: Moment) {
        self.ages.push_back((now, words.clone()));
        self.values.insert(words, (now, value));
    }

    pub fn get(&self, words: &str) -> Option<&V> {
        self.values.get(words).map(|(_, value)| value)
    }

    /// Forgets what is too old.
    pub fn settle(&mut self, now: Moment) {
        while let Some((at, _)) = self.ages.front()
            && *at + KNOWN <= now
        {
            let Some((at, words)) = self.ages.pop_front() else { return };
            if self.values.get(&words).is_some_and(|(newest, _)| *newest == at) {
                self.values.remove(&words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_known_for_five_minutes_since_the_last() {
        let start = Moment::since_epoch(Duration::from_hours(1));
        let mut recent = Recent::default();
        recent.insert("a".into(), 1, start);
        recent.insert("a".into(), 2, start + Duration::from_secs(100));
        for (after, known) in [(299, Some(&2)), (300, Some(&2)), (399, Some(&2)), (400, None)] {
            recent.settle(start + Duration::from_secs(after));
            assert_eq!(recent.get("a"), known, "after {after} s");
        }
    }
}
