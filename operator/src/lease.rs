//! Leader election: of all replicas of the operator, the one that holds the lease works.
//!
//! As client-go does it. A holder's times are never compared with the own clock: a lease is free when it was seen
//! unchanged for its own duration. Every write carries the resourceVersion that was read, so of two that try at once
//! one loses. A holder that cannot renew in time must stop working at once: the caller ends the process.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// The lease's name.
const NAME: &str = "millrace-operator";
/// How long the others wait for a holder that is silent: with a try every two seconds and the first pass, another one
/// works within 15 s.
const DURATION: Duration = Duration::from_secs(10);
/// How long a holder goes on without a renewal. Less than `DURATION`, so that two never work at once.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Pause between two tries; a fifth of it is added at random.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for one answer of the API server.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The lease could not be renewed in time, or another replica has it.
#[derive(Debug, thiserror::Error)]
#[error("the lease {NAME} was lost ({0}): stopping, so that two operators never work at once")]
pub(crate) struct Lost(&'static str);

/// One candidate.
pub(crate) struct Elector {
    api: Api<Lease>,
    identity: String,
    /// The lease as it was last seen, and since when it is like that.
    observed: Option<(LeaseSpec, Instant)>,
}

impl Elector {
    /// A candidate named after its pod. A random suffix tells a restarted pod from its former self.
    pub(crate) fn new(client: Client, namespace: &str, pod: &str) -> Self {
        let identity = format!("{pod}_{:08x}", fastrand::u32(..));
        Self { api: Api::namespaced(client, namespace), identity, observed: None }
    }

    /// Waits until this replica holds the lease, and says since when. None when it was stopped before.
    pub(crate) async fn acquire(&mut self, stop: &CancellationToken) -> Option<Instant> {
        loop {
            // From before the request: that is the latest moment at which the others may have begun to count.
            let asked = Instant::now();
            match timeout(ATTEMPT, self.attempt()).await {
                Ok(Ok(true)) => {
                    tracing::info!(lease = NAME, identity = self.identity, "leading");
                    return Some(asked);
                }
                Ok(Ok(false)) => tracing::debug!(lease = NAME, "another replica leads"),
                Ok(Err(error)) => tracing::warn!(lease = NAME, %error, "the lease could not be read or taken"),
                Err(_) => tracing::warn!(lease = NAME, "the API server does not answer"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(RETRY.mul_f64(1.0 + 0.2 * fastrand::f64())) => {}
            }
        }
    }

    /// Renews the lease, held since `renewed`, until stopped.
    pub(crate) async fn hold(&mut self, mut renewed: Instant, stop: &CancellationToken) -> Result<(), Lost> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until((Instant::now() + RETRY).min(renewed + RENEW_DEADLINE)) => {}
            }
            // As in `acquire`.
            let asked = Instant::now();
            match timeout_at(renewed + RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return Err(Lost("another replica holds it")),
                Ok(Err(error)) => tracing::warn!(lease = NAME, %error, "the lease could not be renewed"),
                Err(_) => return Err(Lost("the API server did not answer in time")),
            }
        }
    }

    /// Frees the lease, so that another replica need not wait for it to run out. Call when all work has ended.
    pub(crate) async fn release(&mut self) {
        let freed = async {
            let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
        };
        match timeout(ATTEMPT, freed).await {
            Ok(Ok(())) => tracing::info!(lease = NAME, "released"),
            Ok(Err(error)) => {
                tracing::warn!(lease = NAME, error = %(error as kube::Error), "the lease could not be released");
            }
            Err(_) => tracing::warn!(lease = NAME, "the API server does not answer"),
        }
    }

    /// Takes or renews the lease; false while another replica has it.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let ours = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(ours) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let theirs = lease.spec.take().unwrap_or_default();
        let since = self.unchanged_since(&theirs);
        let holder = theirs.holder_identity.as_deref().unwrap_or_default();
        let held = holder == self.identity;
        let lasts = Duration::from_secs(theirs.lease_duration_seconds.unwrap_or_default().max(1).unsigned_abs().into());
        if !held && !holder.is_empty() && since.elapsed() < lasts {
            return Ok(false);
        }
        let transitions = theirs.lease_transitions.unwrap_or_default();
        lease.spec = Some(if held {
            LeaseSpec { acquire_time: theirs.acquire_time, lease_transitions: Some(transitions), ..ours }
        } else {
            LeaseSpec { lease_transitions: Some(transitions.saturating_add(1)), ..ours }
        });
        won(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn unchanged_since(&mut self, spec: &LeaseSpec) -> Instant {
        match &self.observed {
            Some((seen, since)) if seen == spec => *since,
            _ => {
                let now = Instant::now();
                self.observed = Some((spec.clone(), now));
                now
            }
        }
    }
}

/// Whether a write went through; false where another candidate's came first.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
