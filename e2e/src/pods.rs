//! The pods of a scenario's namespace as they come and go: watched, so that none is missed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;
use tokio::task::JoinHandle;

use crate::{Lab, name_of};

/// The pods that were there since the watch began.
#[derive(Debug)]
pub struct PodWatch {
    seen: Arc<Mutex<Seen>>,
    watch: JoinHandle<()>,
}

/// A pod that was told to go.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// As it was then.
    pub pod: Pod,
    /// When that was seen: moments after it was told.
    pub at: Timestamp,
}

#[derive(Debug, Default)]
struct Seen {
    there: BTreeMap<String, Pod>,
    most: usize,
    deletions: Vec<Deletion>,
}

impl Lab {
    /// The pods that are there from now on.
    pub fn watch_pods(&self) -> PodWatch {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (api, shared) = (self.api::<Pod>(), Arc::clone(&seen));
        let watch = tokio::spawn(async move {
            let changes = watcher(api, watcher::Config::default());
            pin_mut!(changes);
            while let Some(change) = changes.next().await {
                if let Ok(change) = change {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).take(change);
                }
            }
        });
        PodWatch { seen, watch }
    }
}

impl PodWatch {
    /// Most that were there at a time, terminating ones too.
    pub fn most(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).most
    }

    /// Those that were told to go, in order.
    pub fn deletions(&self) -> Vec<Deletion> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).deletions.clone()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Seen {
    fn take(&mut self, change: watcher::Event<Pod>) {
        match change {
            watcher::Event::Init => self.there.clear(),
            watcher::Event::InitApply(pod) => self.put(pod),
            watcher::Event::InitDone => self.count(),
            watcher::Event::Apply(pod) => {
                self.put(pod);
                self.count();
            }
            watcher::Event::Delete(pod) => {
                self.note(&pod);
                self.there.remove(&name_of(&pod));
            }
        }
    }

    fn put(&mut self, pod: Pod) {
        if pod.metadata.deletion_timestamp.is_some() {
            self.note(&pod);
        }
        self.there.insert(name_of(&pod), pod);
    }

    fn note(&mut self, pod: &Pod) {
        if self.deletions.iter().all(|deletion| deletion.pod.metadata.uid != pod.metadata.uid) {
            self.deletions.push(Deletion { pod: pod.clone(), at: Timestamp::now() });
        }
    }

    /// A pod whose containers have ended holds nothing of its node any more.
    fn count(&mut self) {
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase))
        };
        self.most = self.most.max(self.there.values().filter(|pod| !ended(pod)).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, phase: &str, deleted: bool) -> Pod {
        let deleted = deleted.then_some("2026-01-01T00:00:00Z");
        let metadata = json!({ "name": name, "uid": name, "deletionTimestamp": deleted });
        serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } })).unwrap()
    }

    #[test]
    fn who_was_there_and_who_was_told_to_go() {
        let mut seen = Seen::default();
        for change in vec![
            watcher::Event::Init,
            watcher::Event::InitApply(pod("a", "Running", false)),
            watcher::Event::InitDone,
            watcher::Event::Apply(pod("b", "Pending", false)),
            watcher::Event::Apply(pod("b", "Running", false)),
            watcher::Event::Apply(pod("a", "Running", true)),
            watcher::Event::Apply(pod("c", "Running", false)),
            watcher::Event::Apply(pod("a", "Succeeded", true)),
            watcher::Event::Apply(pod("d", "Pending", false)),
            watcher::Event::Delete(pod("a", "Succeeded", true)),
            watcher::Event::Delete(pod("d", "Pending", false)),
        ] {
            seen.take(change);
        }
        assert_eq!(seen.most, 3, "a while it terminates, b and c");
        let deleted: Vec<String> = seen.deletions.iter().map(|deletion| name_of(&deletion.pod)).collect();
        assert_eq!(deleted, ["a", "d"]);
        assert_eq!(seen.there.into_keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
