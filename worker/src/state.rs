//! The worker's view of itself: what `/state` says, kept by those who know it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use millrace_api::{Activity, JobState, Problem, ServiceSeconds, WorkerState};

use crate::lease::CEILING;
use crate::message::Message;
use crate::time::rfc3339;

/// Service times kept for the mean and percentile.
const SERVICE_WINDOW: usize = 200;

/// What a problem is about; each has at most one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Reading the queue.
    Queue,
    /// Loading or running the model.
    Model,
    /// Writing results.
    Bucket,
    /// Renewing leases.
    Leases,
    /// Deleting messages and giving them back.
    Settling,
    /// Sending to the dead-letter queue.
    DeadLetters,
    /// Announcing on reply queues.
    Replies,
    /// Announcing to callback URLs.
    Callbacks,
}

/// Shared by every part of the worker.
#[derive(Debug)]
pub struct State {
    worker: String,
    capacity: u32,
    loaded: AtomicBool,
    draining: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By receipt handle: a message that was lost may come again while its first job still ends.
    jobs: BTreeMap<String, Held>,
    completed: u64,
    failed: u64,
    service: VecDeque<f64>,
    problems: BTreeMap<Part, Problem>,
}

#[derive(Debug, Clone)]
struct Held {
    message_id: String,
    job_id: String,
    received_at: Timestamp,
    sent_at: Timestamp,
    lease_expires_at: Timestamp,
    must_end_at: Timestamp,
}

impl State {
    /// A worker that has loaded nothing yet.
    pub fn new(worker: String, capacity: u32) -> Self {
        Self {
            worker,
            capacity,
            loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // a panic while it was held leaves counters that are still good
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The model is loaded and one real forward passed.
    pub fn set_loaded(&self) {
        self.loaded.store(true, Ordering::Release);
    }

    /// It takes no new jobs from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ready as a probe means it: loaded, and not on its way out. An outage of SQS or S3 does not count.
    pub fn is_ready(&self) -> bool {
        self.loaded.load(Ordering::Acquire) && !self.draining.load(Ordering::Acquire)
    }

    /// A message was received and is held.
    pub fn hold(&self, message: &Message, lease: Duration) {
        let held = Held {
            message_id: message.id.clone(),
            job_id: message.id.clone(),
            received_at: message.received_at,
            sent_at: message.sent_at,
            lease_expires_at: after(message.received_at, lease),
            must_end_at: after(message.received_at, CEILING),
        };
        self.inner().jobs.insert(message.receipt_handle.clone(), held);
    }

    /// Its job id and deadline are known.
    pub fn name_job(&self, receipt_handle: &str, job_id: &str, deadline: Option<Timestamp>) {
        if let Some(held) = self.inner().jobs.get_mut(receipt_handle) {
            held.job_id = job_id.into();
            held.must_end_at = deadline.map_or(held.must_end_at, |deadline| deadline.min(held.must_end_at));
        }
    }

    /// Its lease was renewed.
    pub fn renewed(&self, receipt_handle: &str, lease: Duration) {
        if let Some(held) = self.inner().jobs.get_mut(receipt_handle) {
            held.lease_expires_at = after(Timestamp::now(), lease);
        }
    }

    /// It is held no more.
    pub fn let_go(&self, receipt_handle: &str) {
        self.inner().jobs.remove(receipt_handle);
    }

    /// A job held its slot for `service`.
    pub fn served(&self, service: Duration) {
        let mut inner = self.inner();
        if inner.service.len() == SERVICE_WINDOW {
            inner.service.pop_front();
        }
        inner.service.push_back(service.as_secs_f64());
    }

    /// A job ended with a record.
    pub fn ended(&self, failed: bool) {
        let mut inner = self.inner();
        if failed { inner.failed += 1 } else { inner.completed += 1 }
    }

    /// Something is wrong. True if that is news, so that it is logged once.
    pub fn set_problem(&self, part: Part, reason: &str, message: &str) -> bool {
        let mut inner = self.inner();
        let known = inner.problems.get(&part).filter(|p| p.reason == reason);
        let (news, since) = match known {
            Some(problem) => (false, problem.since.clone()),
            None => (true, rfc3339(Timestamp::now())),
        };
        inner.problems.insert(part, Problem { reason: reason.into(), message: message.into(), since });
        news
    }

    /// It is well again. True if it was not.
    pub fn clear_problem(&self, part: Part) -> bool {
        self.inner().problems.remove(&part).is_some()
    }

    /// What is wrong now.
    pub fn problems(&self) -> Vec<Problem> {
        self.inner().problems.values().cloned().collect()
    }

    /// What `/state` says.
    pub fn snapshot(&self) -> WorkerState {
        let inner = self.inner();
        let job = |held: &Held| JobState {
            job_id: held.job_id.clone(),
            message_id: held.message_id.clone(),
            started_at: rfc3339(held.received_at),
            lease_expires_at: rfc3339(held.lease_expires_at),
            must_end_at: rfc3339(held.must_end_at),
            sent_at: rfc3339(held.sent_at),
        };
        WorkerState {
            worker: self.worker.clone(),
            ready: self.is_ready(),
            draining: self.draining.load(Ordering::Acquire),
            activity: Activity::default(),
            receiving: 0,
            last_received: None,
            empty_since: None,
            failing: None,
            capacity: self.capacity,
            busy: inner.jobs.len() as u32,
            jobs: inner.jobs.values().map(job).collect(),
            completed: inner.completed,
            failed: inner.failed,
            service_seconds: service(&inner.service),
            oldest_sent_at: inner.jobs.values().map(|held| held.sent_at).min().map(rfc3339),
            problems: inner.problems.values().cloned().collect(),
        }
    }
}

fn after(from: Timestamp, wait: Duration) -> Timestamp {
    from.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Mean and 95th percentile (nearest rank).
fn service(window: &VecDeque<f64>) -> Option<ServiceSeconds> {
    let mut sorted: Vec<f64> = window.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 95).div_ceil(100);
    let p95 = *sorted.get(rank.checked_sub(1)?)?;
    Some(ServiceSeconds { mean: sorted.iter().sum::<f64>() / sorted.len() as f64, p95 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_news_once_and_again_after_it_was_cleared() {
        let state = State::new("w".into(), 4);
        assert!(state.set_problem(Part::Bucket, "BucketNotFound", "a"));
        assert!(!state.set_problem(Part::Bucket, "BucketNotFound", "b"));
        assert_eq!(state.problems()[0].message, "b");
        assert!(state.set_problem(Part::Bucket, "BucketAccessDenied", "c"));
        assert!(state.clear_problem(Part::Bucket) && !state.clear_problem(Part::Bucket));
    }

    #[test]
    fn ready_means_loaded_and_not_draining() {
        let state = State::new("w".into(), 4);
        assert!(!state.is_ready());
        state.set_loaded();
        assert!(state.is_ready());
        state.set_problem(Part::Queue, "QueueUnreachable", "an outage is no reason to be unready");
        assert!(state.is_ready());
        state.set_draining();
        assert!(!state.is_ready() && state.snapshot().draining);
    }

    #[test]
    fn service_time_is_of_the_last_jobs() {
        let state = State::new("w".into(), 4);
        assert_eq!(state.snapshot().service_seconds, None);
        for _ in 0..SERVICE_WINDOW {
            state.served(Duration::from_secs(1000));
        }
        for n in 1..=SERVICE_WINDOW {
            state.served(Duration::from_secs(n as u64));
        }
        let service = state.snapshot().service_seconds.unwrap();
        assert!((service.mean - 100.5).abs() < 1e-9 && (service.p95 - 190.0).abs() < 1e-9, "{service:?}");
    }

    fn message(id: &str, received_at: Timestamp, sent_at: Timestamp) -> Message {
        Message {
            id: id.into(),
            receipt_handle: format!("handle of {id}"),
            body: String::new(),
            receive_count: 1,
            sent_at,
            received_at,
            polled: std::time::Instant::now(),
            poll_took: std::time::Duration::ZERO,
            attributes: BTreeMap::new(),
            group: None,
            trace_header: None,
        }
    }

    #[test]
    fn tells_the_jobs_it_holds_and_the_oldest() {
        let state = State::new("w".into(), 4);
        let at = |s| Timestamp::from_second(s).unwrap();
        state.hold(&message("m1", at(10), at(5)), Duration::from_secs(30));
        state.hold(&message("m2", at(11), at(3)), Duration::from_secs(30));
        state.name_job("handle of m1", "j1", Some(at(99)));
        let seen = state.snapshot();
        assert_eq!((seen.busy, seen.jobs[0].job_id.as_str()), (2, "j1"));
        assert_eq!(seen.jobs[0].lease_expires_at, "1970-01-01T00:00:40.000Z");
        assert_eq!(seen.jobs[0].must_end_at, "1970-01-01T00:01:39.000Z");
        assert_eq!(seen.jobs[1].must_end_at, "1970-01-01T12:00:11.000Z", "SQS hides nothing for longer");
        assert_eq!(seen.oldest_sent_at.as_deref(), Some("1970-01-01T00:00:03.000Z"));
        state.let_go("handle of m2");
        assert_eq!(state.snapshot().oldest_sent_at.as_deref(), Some("1970-01-01T00:00:05.000Z"));
    }
}
