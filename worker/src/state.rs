//! The worker's view of itself: what `/state` says, kept by those who know it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use millrace_api::{Failing, JobProgress, JobState, Problem, Received, ServiceSeconds, WorkerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lease::CEILING;
use crate::message::Message;
use crate::standing::Standing;
use crate::time::rfc3339;
use crate::way::Way;

/// Service times kept for the mean and percentile.
const SERVICE_WINDOW: usize = 200;
/// Most characters of a model's error: states are read every few seconds, the whole of it is in the log.
const LONGEST_ERROR: usize = 300;

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
    /// Changed under `inner` where the two belong together.
    standing: watch::Sender<Standing>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By receipt handle: a message that was lost may come again while its first job still ends.
    jobs: BTreeMap<String, Held>,
    completed: u64,
    failed: u64,
    service: VecDeque<f64>,
    last_received: Option<Received>,
    empty_since: Option<Timestamp>,
    failing: Option<Failing>,
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
    /// Of each of its jobs that the model has.
    ways: Vec<Arc<Way>>,
}

impl State {
    /// A worker that has loaded nothing yet.
    pub fn new(worker: String, capacity: u32) -> Self {
        Self { worker, capacity, standing: watch::Sender::default(), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // a panic while it was held leaves counters that are still good
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Where it stands now.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Tells of every change of where it stands.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The model is loaded and one real forward passed.
    pub fn set_loaded(&self) {
        self.standing.send_modify(|standing| standing.loaded = true);
    }

    /// It was told to stop: it takes no new jobs from now on.
    pub fn set_stopping(&self) {
        self.standing.send_modify(|standing| standing.stopping = true);
    }

    /// It takes no new jobs until then. True if that is news, and not a renewal.
    pub fn drain(&self, until: Instant) -> bool {
        let mut inner = self.inner();
        // what receives brought before says nothing of what comes after
        inner.empty_since = None;
        let mut news = false;
        self.standing.send_modify(|standing| news = standing.drained_until.replace(until).is_none());
        news
    }

    /// It may take jobs again. True if it was told to drain.
    pub fn resume(&self) -> bool {
        self.standing.send_if_modified(|standing| standing.drained_until.take().is_some())
    }

    /// As `resume`, if nobody has renewed the drain until now.
    pub fn lapse(&self) -> bool {
        self.standing
            .send_if_modified(|standing| standing.drained_until.take_if(|until| *until <= Instant::now()).is_some())
    }

    /// A poll begins; or it must not, as no new jobs are taken.
    pub fn begin_poll(&self) -> bool {
        self.standing.send_if_modified(|standing| {
            let may = !standing.drains();
            standing.polls += u32::from(may);
            may
        })
    }

    /// It ended, and what it brought is held or given back.
    pub fn end_poll(&self) {
        self.standing.send_modify(|standing| standing.polls = standing.polls.saturating_sub(1));
    }

    /// Waits until it may take new jobs.
    pub async fn receives(&self) {
        // the sender lives as long as `self` does
        let _ = self.watch().wait_for(|standing| !standing.drains()).await;
    }

    /// A receive brought these. A short poll asks only some of SQS's servers, so one that is empty does not say that
    /// nothing waits.
    pub fn received(&self, messages: &[Message], short: bool) {
        let mut inner = self.inner();
        if !messages.is_empty() {
            inner.empty_since = None;
        } else if !short && !self.standing().drains() {
            inner.empty_since.get_or_insert_with(Timestamp::now);
        }
        let new = || messages.iter().filter(|message| message.receive_count == 1);
        let (at, sent_at) = (new().map(|m| m.received_at).max(), new().map(|m| m.sent_at).min());
        if let (Some(at), Some(sent_at)) = (at, sent_at) {
            inner.last_received = Some(Received { at: rfc3339(at), sent_at: rfc3339(sent_at) });
        }
    }

    /// A receive failed: nobody knows what waits.
    pub fn receive_failed(&self) {
        self.inner().empty_since = None;
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
            ways: Vec::new(),
        };
        let mut inner = self.inner();
        inner.jobs.insert(message.receipt_handle.clone(), held);
        self.standing.send_modify(|standing| standing.held = inner.jobs.len());
    }

    /// Its job id and deadline are known.
    pub fn name_job(&self, receipt_handle: &str, job_id: &str, deadline: Option<Timestamp>) {
        if let Some(held) = self.inner().jobs.get_mut(receipt_handle) {
            held.job_id = job_id.into();
            held.must_end_at = deadline.map_or(held.must_end_at, |deadline| deadline.min(held.must_end_at));
        }
    }

    /// The model has it, and tells `way` how far it is.
    pub fn follow(&self, receipt_handle: &str, way: &Arc<Way>) {
        if let Some(held) = self.inner().jobs.get_mut(receipt_handle) {
            held.ways.push(Arc::clone(way));
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
        let mut inner = self.inner();
        inner.jobs.remove(receipt_handle);
        self.standing.send_modify(|standing| standing.held = inner.jobs.len());
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

    /// The model failed an attempt.
    pub fn model_failed(&self, code: &str, message: &str) {
        let mut inner = self.inner();
        let (attempts, since) = match inner.failing.take() {
            Some(before) => (before.attempts + 1, before.since),
            None => (1, rfc3339(Timestamp::now())),
        };
        inner.failing = Some(Failing { attempts, since, code: code.into(), message: shortened(message) });
    }

    /// A job ended COMPLETED, so the model is well.
    pub fn model_did_well(&self) {
        self.inner().failing = None;
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
        let standing = self.standing();
        let job = |held: &Held| JobState {
            job_id: held.job_id.clone(),
            message_id: held.message_id.clone(),
            started_at: rfc3339(held.received_at),
            lease_expires_at: rfc3339(held.lease_expires_at),
            must_end_at: rfc3339(held.must_end_at),
            sent_at: rfc3339(held.sent_at),
            progress: held
                .ways
                .iter()
                .filter_map(|way| way.progress())
                .reduce(|a, b| JobProgress { step: a.step + b.step, steps: a.steps + b.steps }),
        };
        WorkerState {
            worker: self.worker.clone(),
            ready: standing.ready(),
            draining: standing.drains(),
            activity: standing.activity(),
            capacity: self.capacity,
            busy: inner.jobs.len() as u32,
            jobs: inner.jobs.values().map(job).collect(),
            completed: inner.completed,
            failed: inner.failed,
            service_seconds: service(&inner.service),
            receiving: standing.polls,
            last_received: inner.last_received.clone(),
            empty_since: inner.empty_since.filter(|_| !standing.drains()).map(rfc3339),
            failing: inner.failing.clone(),
            oldest_sent_at: inner.jobs.values().map(|held| held.sent_at).min().map(rfc3339),
            problems: inner.problems.values().cloned().collect(),
        }
    }
}

fn after(from: Timestamp, wait: Duration) -> Timestamp {
    from.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// At most [`LONGEST_ERROR`] characters of it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_ERROR) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
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
    use millrace_api::Activity;

    use super::*;
    use crate::model::Progress;

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
    fn ready_means_loaded_and_not_stopping() {
        let state = State::new("w".into(), 4);
        assert!(!state.snapshot().ready);
        state.set_loaded();
        assert!(state.snapshot().ready);
        state.set_problem(Part::Queue, "QueueUnreachable", "an outage is no reason to be unready");
        assert!(state.snapshot().ready);
        state.drain(Instant::now());
        assert!(state.snapshot().ready && state.snapshot().draining, "unready pods are deleted first, busy or not");
        state.set_stopping();
        assert!(!state.snapshot().ready && state.snapshot().draining);
    }

    #[test]
    fn a_poll_begins_only_while_jobs_are_taken() {
        let state = State::new("w".into(), 4);
        state.set_loaded();
        assert!(state.begin_poll());
        assert!(state.drain(Instant::now()) && !state.drain(Instant::now()), "news once");
        assert!(!state.begin_poll());
        assert_eq!((state.snapshot().receiving, state.snapshot().activity), (1, Activity::Draining));
        // what it brings is held before it has ended: in between nobody may think that there is nothing
        state.hold(&message("m", Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH), Duration::from_secs(30));
        state.end_poll();
        assert_eq!((state.snapshot().receiving, state.snapshot().activity), (0, Activity::Draining));
        state.let_go("handle of m");
        assert_eq!(state.snapshot().activity, Activity::Drained);
        assert!(state.resume() && !state.resume());
        assert_eq!(state.snapshot().activity, Activity::Idle);
        assert!(state.begin_poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_lapses_when_nobody_renews_it() {
        let state = State::new("w".into(), 4);
        let wait = Duration::from_mins(1);
        assert!(!state.lapse(), "nobody told it to drain");
        state.drain(Instant::now() + wait);
        tokio::time::advance(wait / 2).await;
        state.drain(Instant::now() + wait);
        tokio::time::advance(wait * 3 / 4).await;
        assert!(!state.lapse() && state.standing().drains(), "it was renewed");
        tokio::time::advance(wait / 4).await;
        assert!(state.lapse() && !state.standing().drains());
    }

    #[test]
    fn tells_what_receives_brought() {
        let state = State::new("w".into(), 4);
        let at = |s| Timestamp::from_second(s).unwrap();
        let seen = || (state.snapshot().last_received.map(|r| (r.at, r.sent_at)), state.snapshot().empty_since);
        assert_eq!(seen(), (None, None));
        state.received(&[], true);
        assert_eq!(seen(), (None, None), "a short poll asks only some of SQS's servers");
        state.received(&[], false);
        let (received, since) = seen();
        state.received(&[], false);
        assert!(received.is_none() && since.is_some() && seen().1 == since);

        state.receive_failed();
        assert_eq!(seen(), (None, None), "nobody knows what waits");
        state.received(&[], false);
        let again = Message { receive_count: 2, ..message("m0", at(20), at(1)) };
        state.received(std::slice::from_ref(&again), false);
        assert_eq!(seen(), (None, None), "a message that comes again does not tell how old those are that wait");
        state.received(&[message("m1", at(30), at(12)), again, message("m2", at(30), at(11))], false);
        let received = Some(("1970-01-01T00:00:30.000Z".to_owned(), "1970-01-01T00:00:11.000Z".to_owned()));
        assert_eq!(seen(), (received.clone(), None));

        state.received(&[], false);
        state.drain(Instant::now());
        state.received(&[], false);
        assert_eq!(seen(), (received.clone(), None));
        state.resume();
        assert_eq!(seen(), (received, None), "what was seen before the drain is no news of after it");
    }

    #[test]
    fn counts_attempts_that_the_model_failed_until_a_job_ends_well() {
        let state = State::new("w".into(), 4);
        state.model_failed("ModelError", "NaN");
        let first = state.snapshot().failing.unwrap();
        state.model_failed("ModelError", &"é".repeat(LONGEST_ERROR + 1));
        let second = state.snapshot().failing.unwrap();
        assert_eq!((first.attempts, first.message.as_str()), (1, "NaN"));
        assert_eq!((second.attempts, second.since), (2, first.since));
        assert_eq!(second.message, format!("{}…", "é".repeat(LONGEST_ERROR)));
        state.model_did_well();
        assert_eq!(state.snapshot().failing, None);
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
        let way = Way::new(2, None);
        state.follow("handle of m1", &way);
        assert_eq!(state.snapshot().jobs[0].progress, None, "the model has not begun");
        way.hook(0).stepped(Progress { step: 3, steps: 20 });
        way.hook(1).stepped(Progress { step: 1, steps: 4 });
        let seen = state.snapshot();
        assert_eq!(seen.jobs[0].progress, Some(JobProgress { step: 4, steps: 24 }));
        assert_eq!(seen.jobs[1].progress, None);
        assert_eq!((seen.busy, seen.jobs[0].job_id.as_str()), (2, "j1"));
        assert_eq!(seen.jobs[0].lease_expires_at, "1970-01-01T00:00:40.000Z");
        assert_eq!(seen.jobs[0].must_end_at, "1970-01-01T00:01:39.000Z");
        assert_eq!(seen.jobs[1].must_end_at, "1970-01-01T12:00:11.000Z", "SQS hides nothing for longer");
        assert_eq!(seen.oldest_sent_at.as_deref(), Some("1970-01-01T00:00:03.000Z"));
        state.let_go("handle of m2");
        assert_eq!(state.snapshot().oldest_sent_at.as_deref(), Some("1970-01-01T00:00:05.000Z"));
    }
}
