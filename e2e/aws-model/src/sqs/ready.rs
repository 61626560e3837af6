//! Which messages a queue may give out next: in a standard queue any that is visible, in a FIFO queue the first ones
//! of a message group that has none in flight.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A message of a queue, by the order in which they came in.
pub(crate) type Key = u64;

/// Where a message of a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    Delayed,
    InFlight,
}

/// The messages that may be given out.
#[derive(Debug)]
pub(crate) enum Ready {
    Standard(BTreeSet<Key>),
    Fifo(Groups),
}

impl Ready {
    pub fn new(is_fifo: bool) -> Self {
        if is_fifo { Self::Fifo(Groups::default()) } else { Self::Standard(BTreeSet::new()) }
    }

    /// A message is new or stands elsewhere now.
    pub fn place(&mut self, key: Key, group: Option<&Arc<str>>, place: Place) {
        match (self, group) {
            (Self::Standard(ready), _) if place == Place::Ready => _ = ready.insert(key),
            (Self::Standard(ready), _) => _ = ready.remove(&key),
            (Self::Fifo(groups), Some(group)) => groups.place(key, group, place),
            (Self::Fifo(_), None) => {}
        }
    }

    /// A message is gone.
    pub fn remove(&mut self, key: Key, group: Option<&Arc<str>>) {
        match (self, group) {
            (Self::Standard(ready), _) => _ = ready.remove(&key),
            (Self::Fifo(groups), Some(group)) => groups.remove(key, group),
            (Self::Fifo(_), None) => {}
        }
    }

    /// The next `most`, in a FIFO queue of one group.
    pub fn next(&self, most: usize) -> Vec<Key> {
        match self {
            Self::Standard(ready) => ready.iter().copied().take(most).collect(),
            Self::Fifo(groups) => groups.next(most),
        }
    }
}

/// The message groups of a FIFO queue.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Arc<str>, Group>,
    /// The groups that may give, by their first messages.
    open: BTreeMap<Key, Arc<str>>,
}

#[derive(Debug, Default)]
struct Group {
    messages: BTreeMap<Key, Place>,
    in_flight: usize,
    /// Its place in `open`.
    open_at: Option<Key>,
}

impl Groups {
    fn place(&mut self, key: Key, name: &Arc<str>, place: Place) {
        let group = self.groups.entry(Arc::clone(name)).or_default();
        let before = group.messages.insert(key, place);
        group.in_flight -= usize::from(before == Some(Place::InFlight));
        group.in_flight += usize::from(place == Place::InFlight);
        self.settle(name);
    }

    fn remove(&mut self, key: Key, name: &Arc<str>) {
        if let Some(group) = self.groups.get_mut(name) {
            let before = group.messages.remove(&key);
            group.in_flight -= usize::from(before == Some(Place::InFlight));
        }
        self.settle(name);
    }

    /// Keeps `open` true to the group.
    fn settle(&mut self, name: &Arc<str>) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let open_at = match group.messages.first_key_value() {
            Some((first, Place::Ready)) if group.in_flight == 0 => Some(*first),
            _ => None,
        };
        if open_at != group.open_at {
            group.open_at.and_then(|key| self.open.remove(&key));
            open_at.map(|key| self.open.insert(key, Arc::clone(name)));
            group.open_at = open_at;
        }
        if group.messages.is_empty() {
            self.groups.remove(name);
        }
    }

    fn next(&self, most: usize) -> Vec<Key> {
        let Some(group) = self.open.first_key_value().and_then(|(_, name)| self.groups.get(name)) else {
            return Vec::new();
        };
        let ready = group.messages.iter().take_while(|(_, place)| **place == Place::Ready);
        ready.map(|(key, _)| *key).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(messages: &[(Key, &str, Place)]) -> Ready {
        let mut ready = Ready::new(true);
        for (key, group, place) in messages {
            ready.place(*key, Some(&Arc::from(*group)), *place);
        }
        ready
    }

    #[test]
    fn a_receive_fills_from_the_group_whose_head_is_oldest() {
        use Place::{Delayed, InFlight, Ready};
        for (messages, next) in [
            (vec![(1, "a", Ready), (2, "b", Ready), (3, "a", Ready)], vec![1, 3]),
            (vec![(1, "a", InFlight), (2, "b", Ready), (3, "a", Ready)], vec![2]),
            (vec![(1, "a", Ready), (2, "b", Ready), (3, "a", InFlight)], vec![2]),
            (vec![(1, "a", Ready), (2, "a", Delayed), (3, "a", Ready)], vec![1]),
            (vec![(1, "a", Delayed), (2, "a", Ready)], vec![]),
        ] {
            assert_eq!(fifo(&messages).next(10), next, "{messages:?}");
        }
    }

    #[test]
    fn a_group_opens_again_when_nothing_of_it_is_in_flight() {
        let group = Arc::from("a");
        let mut ready = fifo(&[(1, "a", Place::InFlight), (2, "a", Place::InFlight), (3, "a", Place::Ready)]);
        ready.remove(2, Some(&group));
        assert_eq!(ready.next(10), [0; 0]);
        ready.place(1, Some(&group), Place::Ready);
        assert_eq!(ready.next(10), [1, 3]);
        ready.remove(1, Some(&group));
        assert_eq!(ready.next(10), [3]);
    }
}
