//! Every value that a Deployment's `spec.replicas` ever had: watched, so that none is missed.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::runtime::watcher;
use tokio::task::JoinHandle;

/// The worker counts that were asked for, in order, since the watch began.
#[derive(Debug)]
pub struct Timeline {
    counts: Arc<Mutex<Vec<i32>>>,
    watch: JoinHandle<()>,
}

impl Timeline {
    pub(crate) fn of(api: Api<Deployment>, name: &str) -> Self {
        let counts = Arc::new(Mutex::new(Vec::new()));
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let seen = Arc::clone(&counts);
        let watch = tokio::spawn(async move {
            let changes = watcher(api, config);
            pin_mut!(changes);
            while let Some(change) = changes.next().await {
                let Ok(watcher::Event::Apply(now) | watcher::Event::InitApply(now)) = change else { continue };
                let replicas = now.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let mut counts = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if counts.last() != Some(&replicas) {
                    counts.push(replicas);
                }
            }
        });
        Self { counts, watch }
    }

    /// The counts up to now, each different from the one before.
    pub fn counts(&self) -> Vec<i32> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
