//! What the operator keeps about a QueueConsumer between two passes. Nothing in it is needed for correctness: a restart
//! begins with none but the estimates and what was applied, which the status remembers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use millrace_api::{LastScale, QueueConsumer, QueueConsumerStatus};

use crate::apply::{Fingerprint, Whole};
use crate::queue::Depth;
use crate::retire::Kept;
use crate::scale::History;
use crate::workers::Worker;

/// What is kept about one QueueConsumer.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Of which object: another one may have come under the same name.
    uid: Option<String>,
    /// What earlier decisions left behind.
    pub(crate) history: History,
    /// The queue's counts that the last decision was made from.
    pub(crate) depth: Option<Depth>,
    /// What workers said last, and when.
    pub(crate) workers: Option<(Instant, Vec<Worker>)>,
    /// What is kept about each pod, by its uid.
    pub(crate) pods: HashMap<String, Kept>,
    /// Objects as they were applied, by kind.
    pub(crate) applied: BTreeMap<&'static str, Fingerprint>,
    /// Whether those are all, and of which spec.
    pub(crate) whole: Option<Whole>,
    /// The status as it was written last; the watched one may be older.
    pub(crate) status: Option<QueueConsumerStatus>,
    /// When a status was written last.
    pub(crate) status_written: Option<Instant>,
    /// The last change of the count, from when it was made until a status that tells it is written.
    pub(crate) unreported: Option<LastScale>,
    /// Passes that failed in a row.
    pub(crate) failures: u32,
}

impl Memory {
    /// Forgets all if it is about another object of the same name.
    pub(crate) fn about(&mut self, consumer: &QueueConsumer) {
        if self.uid != consumer.uid() {
            let history = History::restored(consumer.status.as_ref());
            *self = Self { uid: consumer.uid(), history, ..Self::default() };
        }
    }
}

type Shared = Arc<tokio::sync::Mutex<Memory>>;

/// What is kept about all of them.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<HashMap<ObjectRef<QueueConsumer>, Shared>>);

impl Memories {
    /// Of one QueueConsumer.
    pub(crate) fn of(&self, key: &ObjectRef<QueueConsumer>) -> Shared {
        self.all().entry(key.clone()).or_default().clone()
    }

    /// It is gone.
    pub(crate) fn forget(&self, key: &ObjectRef<QueueConsumer>) {
        self.all().remove(key);
    }

    /// All that something is kept about.
    pub(crate) fn keys(&self) -> Vec<ObjectRef<QueueConsumer>> {
        self.all().keys().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ObjectRef<QueueConsumer>, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::fixtures::with;

    #[test]
    fn another_object_of_the_same_name_begins_anew() {
        let mut memory = Memory::default();
        memory.about(&with(&[]));
        memory.failures = 3;
        memory.about(&with(&[]));
        assert_eq!(memory.failures, 3);
        memory.about(&with(&[("/metadata/uid", json!("uid-2"))]));
        assert_eq!(memory.failures, 0);
    }
}
