//! The last word on a message: deleted, or visible again after a while. Both in batches of up to ten, or what has come
//! within 100 ms; only entries that failed are tried again.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry as ReturnEntry,
    DeleteMessageBatchRequestEntry as DeleteEntry,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::aws::{explain, trouble};
use crate::lease::is_loss;
use crate::metrics::Metrics;
use crate::queue::{QueueError, queue_error};
use crate::state::{Part, State};

/// Most entries of one SQS batch call.
const BATCH: usize = 10;
/// Longest that the first entry of a batch waits for others.
const LINGER: Duration = Duration::from_millis(100);
/// How often an entry is tried. What is left then comes back by itself when its lease ends, and its record is found.
const ATTEMPTS: u32 = 6;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Delete,
    /// Visible again after so many seconds; 0 is at once.
    Return(u32),
}

/// Hands verdicts to the task that carries them out.
#[derive(Debug, Clone)]
pub struct Settler {
    deletes: mpsc::Sender<Pending>,
    returns: mpsc::Sender<Pending>,
}

#[derive(Debug)]
struct Pending {
    receipt_handle: String,
    verdict: Verdict,
    settled: oneshot::Sender<bool>,
}

impl Pending {
    fn tell(self, settled: bool) {
        // whoever asked may be gone: the worker was hurried
        let _ = self.settled.send(settled);
    }
}

impl Settler {
    /// Starts the two tasks; they end when every clone is dropped and all is carried out.
    pub fn start(sqs: &aws_sdk_sqs::Client, queue_url: &str, state: &Arc<State>, metrics: &Arc<Metrics>) -> Self {
        let start = || {
            let (sender, receiver) = mpsc::channel(BATCH * 10);
            let (state, metrics) = (Arc::clone(state), Arc::clone(metrics));
            let carrier = Carrier { sqs: sqs.clone(), queue_url: queue_url.into(), state, metrics };
            tokio::spawn(carrier.run(receiver));
            sender
        };
        Self { deletes: start(), returns: start() }
    }

    /// Carries out a verdict. False if SQS did not take it, which loses nothing: the message comes back, and whoever
    /// receives it finds its record.
    pub async fn settle(&self, receipt_handle: String, verdict: Verdict) -> bool {
        let (settled, answer) = oneshot::channel();
        let queue = if verdict == Verdict::Delete { &self.deletes } else { &self.returns };
        queue.send(Pending { receipt_handle, verdict, settled }).await.is_ok() && answer.await.unwrap_or(false)
    }
}

struct Carrier {
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    state: Arc<State>,
    metrics: Arc<Metrics>,
}

impl Carrier {
    async fn run(self, mut receiver: mpsc::Receiver<Pending>) {
        let carrier = Arc::new(self);
        // two calls at a time: one answers while the next one fills
        let calls = Arc::new(tokio::sync::Semaphore::new(2));
        while let Some(first) = receiver.recv().await {
            let mut batch = vec![first];
            let until = Instant::now() + LINGER;
            while batch.len() < BATCH {
                match tokio::time::timeout_at(until, receiver.recv()).await {
                    Ok(Some(next)) => batch.push(next),
                    Ok(None) | Err(_) => break,
                }
            }
            let Ok(permit) = Arc::clone(&calls).acquire_owned().await else { return };
            let carrier = Arc::clone(&carrier);
            tokio::spawn(async move {
                carrier.carry_out(batch).await;
                drop(permit);
            });
        }
    }

    async fn carry_out(&self, mut batch: Vec<Pending>) {
        let mut pause = Duration::from_millis(100);
        for attempt in 1..=ATTEMPTS {
            let answer = match batch.first().map(|p| p.verdict) {
                None => return,
                Some(Verdict::Delete) => self.delete(&batch).await,
                Some(Verdict::Return(_)) => self.give_back(&batch).await,
            };
            let failed = match answer {
                Ok(failed) => {
                    self.state.clear_problem(Part::Settling);
                    failed
                }
                Err(error) => {
                    self.state.set_problem(Part::Settling, error.reason, &error.message);
                    tracing::warn!(attempt, %error, "cannot settle {} messages", batch.len());
                    batch.iter().enumerate().map(|(i, _)| (i, false)).collect()
                }
            };
            let mut again = Vec::new();
            for (index, pending) in batch.into_iter().enumerate() {
                match failed.iter().find(|(i, _)| *i == index) {
                    None => pending.tell(true),
                    Some((_, hopeless)) if *hopeless => pending.tell(false),
                    Some(_) => again.push(pending),
                }
            }
            batch = again;
            if batch.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
        for pending in batch {
            pending.tell(false);
        }
    }

    async fn delete(&self, batch: &[Pending]) -> Result<Vec<(usize, bool)>, QueueError> {
        let entry = |(i, p): (usize, &Pending)| {
            DeleteEntry::builder().id(i.to_string()).receipt_handle(&p.receipt_handle).build().ok()
        };
        let entries = batch.iter().enumerate().filter_map(entry).collect();
        let call = self.sqs.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries));
        let answer = call.send().await;
        self.metrics.request("DeleteMessageBatch", answer.is_ok());
        answer
            .map(|a| failures(&a.failed))
            .map_err(|e| queue_error(&self.queue_url, "sqs:DeleteMessage", trouble(&e), &explain(&e)))
    }

    async fn give_back(&self, batch: &[Pending]) -> Result<Vec<(usize, bool)>, QueueError> {
        let entry = |(i, p): (usize, &Pending)| {
            let Verdict::Return(seconds) = p.verdict else { return None };
            let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
            let entry = ReturnEntry::builder().id(i.to_string()).receipt_handle(&p.receipt_handle);
            entry.visibility_timeout(seconds).build().ok()
        };
        let entries = batch.iter().enumerate().filter_map(entry).collect();
        let call = self.sqs.change_message_visibility_batch().queue_url(&self.queue_url).set_entries(Some(entries));
        let answer = call.send().await;
        self.metrics.request("ChangeMessageVisibilityBatch", answer.is_ok());
        answer
            .map(|a| failures(&a.failed))
            .map_err(|e| queue_error(&self.queue_url, "sqs:ChangeMessageVisibility", trouble(&e), &explain(&e)))
    }
}

/// Entries that failed, and whether trying again is hopeless (the handle is no longer good).
fn failures(failed: &[BatchResultErrorEntry]) -> Vec<(usize, bool)> {
    failed.iter().filter_map(|f| Some((f.id.parse().ok()?, is_loss(f)))).collect()
}
