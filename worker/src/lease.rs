//! Leases: a message that is worked on stays hidden, by heartbeats in batches, earliest deadline first.
//!
//! A lease is constant (now + L at each heartbeat), so a worker that dies gives its message back after L, however long
//! the job. SQS being out of reach is not a loss on a standard queue: work goes on, and the record's conditional put
//! decides; on a FIFO queue it is one as soon as the local clock says that the lease ran out, as order is promised there.
//! SQS hides no message for more than twelve hours from its receive, so every lease ends then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry as Entry};
use futures::StreamExt;
use rand::Rng;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::aws::{explain, trouble};
use crate::message::Message;
use crate::metrics::{Loss, Metrics};
use crate::queue::queue_error;
use crate::state::{Part, State};

/// Most entries of one SQS batch call.
const BATCH: usize = 10;
/// SQS's own bound on how long a message may stay hidden, from its receive.
pub const CEILING: Duration = Duration::from_hours(12);
/// Leases that are due within this part of their length share a call.
const TOGETHER: f64 = 0.15;
/// Heartbeat calls at a time.
const CALLS: usize = 8;
/// A lease that is not renewed counts as run out this long before SQS gives its message to others.
const MARGIN: Duration = Duration::from_secs(1);

/// All leases of one worker and the task that renews them.
#[derive(Debug)]
pub struct Leases {
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    length: Duration,
    /// A FIFO queue: a lease that ran out is lost.
    ordered: bool,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    /// By receipt handle: a message that was lost may come again while its first job still ends.
    held: Mutex<HashMap<String, Held>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Held {
    message_id: String,
    renew_at: Instant,
    expires_at: Instant,
    /// The receive and twelve hours.
    ends_at: Instant,
    lost: CancellationToken,
    /// Locked while a heartbeat for it is on its way.
    beating: Arc<tokio::sync::Mutex<()>>,
}

/// The right to work on one message. Dropped without `release`, it is no longer renewed either.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    receipt_handle: String,
    lost: CancellationToken,
}

impl Lease {
    /// Cancelled when SQS says that the message is somebody else's, or the local clock where order is promised.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Stops the heartbeats, and waits for one that is on its way: after that nothing of ours can change the message.
    pub async fn release(self) {
        let entry = self.leases.held().remove(&self.receipt_handle);
        if let Some(entry) = entry {
            let _joined = entry.beating.lock().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held().remove(&self.receipt_handle);
    }
}

impl Leases {
    /// Leases of `length` on the messages of one queue, `ordered` if it is a FIFO queue. `run` must be spawned.
    pub fn new(
        sqs: aws_sdk_sqs::Client,
        queue_url: String,
        length: Duration,
        ordered: bool,
        state: Arc<State>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            sqs,
            queue_url,
            length,
            ordered,
            state,
            metrics,
            held: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a lease is.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Holds a message that was just received, its lease counted from the request.
    pub fn hold(self: &Arc<Self>, message: &Message) -> Lease {
        let lost = CancellationToken::new();
        // where order is promised, an answer that may have been long under way is made sure of at once
        let unsure = self.ordered && message.poll_took > MARGIN;
        let entry = Held {
            message_id: message.id.clone(),
            renew_at: message.polled + if unsure { Duration::ZERO } else { self.half() },
            expires_at: message.polled + self.length,
            ends_at: message.polled + CEILING,
            lost: lost.clone(),
            beating: Arc::default(),
        };
        self.held().insert(message.receipt_handle.clone(), entry);
        self.changed.notify_one();
        Lease { leases: Arc::clone(self), receipt_handle: message.receipt_handle.clone(), lost }
    }

    /// Half the lease, less up to a tenth, so that leases taken together spread out.
    fn half(&self) -> Duration {
        self.length.mul_f64(0.5 - rand::rng().random_range(0.0..0.05))
    }

    /// Renews what is due until `stop`. Heartbeats must outlast every job, so stop it last.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            // a renewal that hangs must not keep a lease from running out
            () = self.watch_expiry() => {}
            () = self.renew_due() => {}
        }
    }

    async fn renew_due(&self) {
        loop {
            let due = self.due(Instant::now());
            let calls = due.chunks(BATCH).map(|batch| self.renew(batch));
            futures::stream::iter(calls).for_each_concurrent(CALLS, |call| call).await;
            let next = self.held().values().map(|entry| entry.renew_at).min();
            if next.is_none() {
                // with nothing to renew nothing fails to be renewed, and no answer would ever clear it
                self.state.clear_problem(Part::Leases);
            }
            let pause = next.map_or(self.length, |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = self.changed.notified() => {}
                // leases that are due within moments of each other share a call
                () = tokio::time::sleep(pause + Duration::from_millis(200)) => {}
            }
        }
    }

    async fn watch_expiry(&self) {
        loop {
            let now = Instant::now();
            self.lose_expired(now);
            let next = self.held().values().map(|entry| self.lost_at(entry)).min();
            // whatever is received meanwhile lasts longer than half a lease
            let half = self.length / 2;
            tokio::time::sleep(next.map_or(half, |at| at.saturating_duration_since(now).min(half))).await;
        }
    }

    /// When a lease that is not renewed any more counts as another's: on a FIFO queue when it runs out, else at the ceiling.
    fn lost_at(&self, held: &Held) -> Instant {
        let at = if self.ordered { held.expires_at.min(held.ends_at) } else { held.ends_at };
        at.checked_sub(MARGIN).unwrap_or(at)
    }

    /// What must be renewed now, earliest first; if anything must, then also what will be soon, so that calls are full.
    fn due(&self, now: Instant) -> Vec<(String, Held)> {
        let held = self.held();
        if !held.values().any(|entry| entry.renew_at <= now) {
            return Vec::new();
        }
        let soon = now + self.length.mul_f64(TOGETHER);
        let candidates = held.iter().filter(|(_, entry)| entry.renew_at <= soon);
        let mut due: Vec<_> = candidates.map(|(handle, entry)| (handle.clone(), entry.clone())).collect();
        drop(held);
        due.sort_by_key(|(_, entry)| entry.renew_at);
        let must = due.iter().filter(|(_, entry)| entry.renew_at <= now).count();
        due.truncate(must.next_multiple_of(BATCH));
        due
    }

    fn lose_expired(&self, now: Instant) {
        self.held().retain(|_, entry| {
            let expired = self.lost_at(entry) <= now;
            if expired {
                let message_id = &entry.message_id;
                tracing::warn!(message_id, "the lease ran out and could not be renewed: its work is given up");
                self.metrics.lease_lost(Loss::Expired);
                entry.lost.cancel();
            }
            !expired
        });
    }

    async fn renew(&self, batch: &[(String, Held)]) {
        let mut guards = Vec::with_capacity(batch.len());
        for (_, entry) in batch {
            guards.push(entry.beating.clone().lock_owned().await);
        }
        // released while we waited: must not be touched any more
        let live: Vec<_> = {
            let held = self.held();
            batch.iter().enumerate().filter(|(_, (handle, _))| held.contains_key(handle)).collect()
        };
        let asked = Instant::now();
        let entries: Vec<Entry> =
            live.iter().filter_map(|(i, (handle, held))| self.entry(*i, handle, held, asked)).collect();
        if entries.is_empty() {
            return;
        }
        let call = self.sqs.change_message_visibility_batch().queue_url(&self.queue_url).set_entries(Some(entries));
        let patience = self.length.mul_f64(0.2).min(Duration::from_secs(20));
        let Ok(answer) = tokio::time::timeout(patience, call.send()).await else {
            self.metrics.request("ChangeMessageVisibilityBatch", false);
            tracing::warn!(seconds = patience.as_secs(), "SQS did not answer a heartbeat in time; trying again");
            return;
        };
        self.metrics.request("ChangeMessageVisibilityBatch", answer.is_ok());
        let failed: Vec<BatchResultErrorEntry> = match answer {
            Ok(answer) => {
                self.state.clear_problem(Part::Leases);
                answer.failed
            }
            Err(error) => {
                // not a loss: nobody but SQS knows who has the message
                let error =
                    queue_error(&self.queue_url, "sqs:ChangeMessageVisibility", trouble(&error), &explain(&error));
                self.state.set_problem(Part::Leases, error.reason, &error.message);
                tracing::warn!(%error, "cannot renew {} leases; trying again", live.len());
                self.postpone(&live, Instant::now() + self.length.mul_f64(0.1).min(Duration::from_secs(5)));
                return;
            }
        };
        let mut held = self.held();
        for (index, (handle, entry)) in live {
            let failure = failed.iter().find(|f| f.id == index.to_string());
            let Some(current) = held.get_mut(handle) else { continue };
            match failure {
                None => {
                    let length = self.within_ceiling(entry, asked);
                    // cut short by the ceiling: there is no next time
                    current.renew_at = if length < self.length { entry.ends_at } else { asked + self.half() };
                    current.expires_at = asked + length;
                    self.state.renewed(handle, length);
                }
                Some(failure) if is_loss(failure) => {
                    tracing::warn!(
                        message_id = entry.message_id,
                        code = failure.code,
                        "lease lost: its work is given up"
                    );
                    self.metrics.lease_lost(Loss::Told);
                    entry.lost.cancel();
                    held.remove(handle);
                }
                Some(_) => current.renew_at = Instant::now() + (self.length / 20).min(Duration::from_secs(1)),
            }
        }
        drop(held);
        drop(guards);
    }

    /// The lease's length, or what SQS's ceiling leaves of it.
    fn within_ceiling(&self, held: &Held, now: Instant) -> Duration {
        self.length.min(held.ends_at.saturating_duration_since(now + MARGIN))
    }

    fn entry(&self, index: usize, receipt_handle: &str, held: &Held, now: Instant) -> Option<Entry> {
        let seconds = i32::try_from(self.within_ceiling(held, now).as_secs()).unwrap_or(i32::MAX);
        if seconds == 0 {
            // that would show the message to others; it is lost at the ceiling anyway
            return None;
        }
        let entry = Entry::builder().id(index.to_string()).receipt_handle(receipt_handle).visibility_timeout(seconds);
        entry.build().ok()
    }

    fn postpone(&self, live: &[(usize, &(String, Held))], until: Instant) {
        let mut held = self.held();
        for (_, (handle, _)) in live {
            if let Some(entry) = held.get_mut(handle) {
                entry.renew_at = until;
            }
        }
    }
}

/// SQS says that the handle is no longer good. Being throttled or forbidden says nothing about who has the message.
pub(crate) fn is_loss(failure: &BatchResultErrorEntry) -> bool {
    let code = failure.code.as_str();
    // LocalStack says this without calling it the sender's fault
    let bad_handle = ["InvalidParameterValue", "ReceiptHandleIsInvalid", "MessageNotInflight"];
    let throttled = aws_runtime::retries::classifiers::THROTTLING_ERRORS.contains(&code);
    bad_handle.iter().any(|c| code.contains(c)) || failure.sender_fault && !throttled && !code.contains("AccessDenied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bad_handle_is_a_loss() {
        let table = [
            ("ReceiptHandleIsInvalid", true, true),
            ("InvalidParameterValue", true, true),
            ("InvalidParameterValueException", false, true),
            ("RequestThrottled", true, false),
            ("AccessDenied", true, false),
            ("InternalError", false, false),
        ];
        for (code, sender_fault, loss) in table {
            let failure =
                BatchResultErrorEntry::builder().id("0").code(code).sender_fault(sender_fault).build().unwrap();
            assert_eq!(is_loss(&failure), loss, "{code}");
        }
    }
}
