//! One queue: its messages, when the hidden ones are visible again, and what it counts. Every call passes the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use super::attributes::Attributes;
use super::message::{Content, Message, State};
use super::ready::{Key, Place, Ready};
use super::recent::Recent;
use crate::clock::Moment;
use crate::journal::{Event, Journal};

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub name: Arc<str>,
    /// Tells it from an earlier queue of its name.
    pub uid: u64,
    pub attributes: Attributes,
    pub tags: BTreeMap<String, String>,
    pub created: Moment,
    pub modified: Moment,
    pub purged: Option<Moment>,
    /// Wakes long polls.
    pub wake: Arc<Notify>,
    pub ready: Ready,
    /// What receives with an attempt id gave: messages and their receipts.
    pub attempts: Recent<Vec<(Key, u64)>>,
    messages: HashMap<Key, Message>,
    next_key: Key,
    /// Delayed and in flight, by when they are visible.
    hidden: BTreeSet<(Moment, Key)>,
    in_flight: usize,
    /// By when they came in.
    ages: BTreeSet<(Moment, Key)>,
    /// What producers sent: ids and places.
    sent: Recent<(Arc<str>, Key)>,
}

/// What a queue counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Can be received now.
    pub visible: usize,
    /// Held by who received them.
    pub in_flight: usize,
    /// Sent with a delay that has not passed.
    pub delayed: usize,
}

impl Queue {
    pub fn new(name: &str, uid: u64, attributes: Attributes, now: Moment) -> Self {
        Self {
            name: name.into(),
            uid,
            ready: Ready::new(attributes.fifo.is_some()),
            attributes,
            tags: BTreeMap::new(),
            created: now,
            modified: now,
            purged: None,
            wake: Arc::new(Notify::new()),
            attempts: Recent::default(),
            messages: HashMap::new(),
            next_key: 1,
            hidden: BTreeSet::new(),
            in_flight: 0,
            ages: BTreeSet::new(),
            sent: Recent::default(),
        }
    }

    pub fn is_fifo(&self) -> bool {
        self.attributes.fifo.is_some()
    }

    /// Lets happen what time alone brings: leases and delays run out, old messages go.
    pub fn settle(&mut self, now: Moment, journal: &Journal) {
        while let Some(&(until, key)) = self.hidden.first()
            && until <= now
        {
            self.set_state(key, State::Ready);
        }
        while let Some(&(sent, key)) = self.ages.first()
            && sent + self.attributes.retention <= now
        {
            if let Some(message) = self.remove(key) {
                journal.record(now, || Event::Expired { queue: Arc::clone(&self.name), id: message.id });
            }
        }
        self.sent.settle(now);
        self.attempts.settle(now);
    }

    /// When time alone will next make a message visible.
    pub fn next_visible(&self) -> Option<Moment> {
        self.hidden.first().map(|(until, _)| *until)
    }

    /// Takes a message in. It is told its place in the queue.
    pub fn add(&mut self, mut message: Message) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        message.sequence = self.is_fifo().then_some(key);
        message.receives_here = 0;
        let state = std::mem::replace(&mut message.state, State::Ready);
        self.ages.insert((message.sent, key));
        self.ready.place(key, message.content.group.as_ref(), Place::Ready);
        self.messages.insert(key, message);
        self.set_state(key, state);
        key
    }

    pub fn remove(&mut self, key: Key) -> Option<Message> {
        self.set_state(key, State::Ready);
        let message = self.messages.remove(&key)?;
        self.ages.remove(&(message.sent, key));
        self.ready.remove(key, message.content.group.as_ref());
        Some(message)
    }

    /// Drops all messages. What was sent once stays known as such.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.hidden.clear();
        self.ages.clear();
        self.attempts = Recent::default();
        self.in_flight = 0;
        self.ready = Ready::new(self.is_fifo());
    }

    /// Where a message stands from now on.
    pub fn set_state(&mut self, key: Key, state: State) {
        let Some(message) = self.messages.get_mut(&key) else { return };
        match std::mem::replace(&mut message.state, state) {
            State::Ready => {}
            State::Delayed { until } => _ = self.hidden.remove(&(until, key)),
            State::InFlight { until, .. } => {
                self.hidden.remove(&(until, key));
                self.in_flight -= 1;
            }
        }
        let place = match state {
            State::Ready => Place::Ready,
            State::Delayed { until } => {
                self.hidden.insert((until, key));
                Place::Delayed
            }
            State::InFlight { until, .. } => {
                self.hidden.insert((until, key));
                self.in_flight += 1;
                Place::InFlight
            }
        };
        self.ready.place(key, message.content.group.as_ref(), place);
    }

    pub fn get(&self, key: Key) -> Option<&Message> {
        self.messages.get(&key)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut Message> {
        self.messages.get_mut(&key)
    }

    /// All messages, as they came in.
    pub fn in_order(&self) -> Vec<(Key, &Message)> {
        let mut all: Vec<_> = self.messages.iter().map(|(key, message)| (*key, message)).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// The messages in flight, those first whose lease ends first.
    pub fn held(&self) -> impl Iterator<Item = Key> {
        let in_flight = |key: &Key| matches!(self.messages.get(key).map(|m| m.state), Some(State::InFlight { .. }));
        self.hidden.iter().map(|(_, key)| *key).filter(in_flight)
    }

    pub fn counts(&self) -> Counts {
        let (in_flight, delayed) = (self.in_flight, self.hidden.len() - self.in_flight);
        Counts { visible: self.messages.len() - self.hidden.len(), in_flight, delayed }
    }

    /// The message that was sent with these words less than five minutes ago.
    pub fn sent_before(&self, content: &Content) -> Option<(Arc<str>, Key)> {
        self.sent.get(&self.deduplication_key(content)?).cloned()
    }

    pub fn remember_sent(&mut self, content: &Content, id: &Arc<str>, key: Key, now: Moment) {
        if let Some(words) = self.deduplication_key(content) {
            self.sent.insert(words, (Arc::clone(id), key), now);
        }
    }

    fn deduplication_key(&self, content: &Content) -> Option<String> {
        let id = content.deduplication.as_deref()?;
        match (&content.group, self.attributes.fifo?.per_group) {
            (Some(group), true) => Some(format!("{group}\n{id}")),
            _ => Some(id.to_owned()),
        }
    }
}
