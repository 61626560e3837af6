//! Every value that a Deployment's `spec.replicas` ever had: watched, so that none is missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::runtime::watcher;
use tokio::task::JoinHandle;

/// The worker counts that were asked for, in order, since the watch began.
#[derive(Debug)]
pub struct Timeline {
    changes: Arc<Mutex<Vec<(Instant, i32)>>>,
    watch: JoinHandle<()>,
}

impl Timeline {
    pub(crate) fn of(api: Api<Deployment>, name: &str) -> Self {
        let changes = Arc::new(Mutex::new(Vec::<(Instant, i32)>::new()));
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let seen = Arc::clone(&changes);
        let watch = tokio::spawn(async move {
            let deployments = watcher(api, config);
            pin_mut!(deployments);
            while let Some(change) = deployments.next().await {
                let Ok(watcher::Event::Apply(now) | watcher::Event::InitApply(now)) = change else { continue };
                let replicas = now.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let mut changes = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if changes.last().is_none_or(|(_, last)| *last != replicas) {
                    changes.push((Instant::now(), replicas));
                }
            }
        });
        Self { changes, watch }
    }

    /// The counts up to now, each different from the one before.
    pub fn counts(&self) -> Vec<i32> {
        self.changes().into_iter().map(|(_, count)| count).collect()
    }

    /// The same, with when each was seen.
    pub fn changes(&self) -> Vec<(Instant, i32)> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often fewer were asked for than before.
    pub fn falls(&self) -> usize {
        self.counts().windows(2).filter(|step| step[1] < step[0]).count()
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
