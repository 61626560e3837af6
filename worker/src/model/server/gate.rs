//! How many requests a server is asked at a time: as many as it bears, found out as TCP finds its window (RFC 5681).
//!
//! A request that is refused for want of room halves the limit and closes the gate for a while; each one that is answered
//! raises it: by one up to the half that was good before, then by one for each round. A server that ended gets one request
//! at a time, so that the one to blame shows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// First pause after a refusal that names none; doubled with each round that is refused.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that is chosen here.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(10);
/// Weight of the newest request in what the next one is expected to take.
const NEWEST: f64 = 0.3;

/// Lets requests through to the server.
#[derive(Debug)]
pub(super) struct Gate {
    inner: Mutex<Inner>,
    changed: Notify,
    ends: watch::Sender<Vec<std::time::Instant>>,
}

#[derive(Debug)]
struct Inner {
    most: f64,
    limit: f64,
    /// Up to here the limit grows with each answer.
    good: f64,
    running: BTreeMap<u64, Running>,
    passes: u64,
    /// Rounds that were refused since the last answer.
    refusals: u32,
    lowered: Option<Instant>,
    closed_until: Option<Instant>,
    /// What a request takes; none before the first answer.
    pace: Option<Duration>,
}

#[derive(Debug)]
struct Running {
    began: Instant,
    is_last: bool,
}

/// The right to have one request at the server; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    number: u64,
    began: Instant,
    /// No other request is at the server, and none comes.
    pub(super) alone: bool,
}

impl Gate {
    /// Up to `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1) as f64;
        let inner = Inner {
            most,
            limit: most,
            good: most,
            running: BTreeMap::new(),
            passes: 0,
            refusals: 0,
            lowered: None,
            closed_until: None,
            pace: None,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new(), ends: watch::Sender::default() }
    }

    /// When each job whose last request is at the server is expected to end.
    pub(super) fn ends(&self) -> watch::Receiver<Vec<std::time::Instant>> {
        self.ends.subscribe()
    }

    /// Waits until one more request may go; `is_last` as in its item.
    pub(super) async fn enter(&self, is_last: bool) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // from here on no change is missed
            changed.as_mut().enable();
            let until = match self.try_enter(is_last) {
                Ok(pass) => return pass,
                Err(until) => until,
            };
            let opens = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = opens => {}
            }
        }
    }

    /// A pass, or until when the gate is closed.
    fn try_enter(&self, is_last: bool) -> Result<Pass<'_>, Option<Instant>> {
        let began = Instant::now();
        let mut inner = self.lock();
        if let Some(until) = inner.closed_until.filter(|until| *until > began) {
            return Err(Some(until));
        }
        let others = inner.running.len();
        if others >= inner.limit as usize {
            return Err(None);
        }
        inner.passes += 1;
        let number = inner.passes;
        inner.running.insert(number, Running { began, is_last });
        self.tell_ends(&inner);
        Ok(Pass { gate: self, number, began, alone: others == 0 && inner.limit < 2.0 })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // a panic while it was held leaves counters that are still good
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_ends(&self, inner: &Inner) {
        let Some(pace) = inner.pace else { return };
        let end = |one: &Running| (one.began + pace).into_std();
        self.ends.send_replace(inner.running.values().filter(|one| one.is_last).map(end).collect());
    }
}

impl Pass<'_> {
    /// It was answered.
    pub(super) fn answered(self) {
        let mut inner = self.gate.lock();
        let took = self.began.elapsed();
        inner.pace = Some(inner.pace.map_or(took, |pace| pace.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST)));
        inner.refusals = 0;
        let step = if inner.limit < inner.good { 1.0 } else { 1.0 / inner.limit };
        inner.limit = (inner.limit + step).min(inner.most);
    }

    /// It was refused for now; the server may have said for how long. Gives how long nobody goes.
    pub(super) fn refused(self, asked: Option<Duration>) -> Duration {
        let mut inner = self.gate.lock();
        // those that went beside a request that was refused already tell nothing new
        if inner.lowered.is_none_or(|lowered| lowered < self.began) {
            inner.lowered = Some(Instant::now());
            inner.refusals += 1;
            inner.limit = (inner.limit / 2.0).floor().max(1.0);
            inner.good = inner.limit;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << inner.refusals.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
        let pause =
            asked.map_or_else(|| doubled.mul_f64(1.0 - rand::random::<f64>() / 4.0), |asked| asked.min(LONGEST_ASKED));
        let until = Instant::now() + pause;
        inner.closed_until = Some(inner.closed_until.map_or(until, |before| before.max(until)));
        pause
    }

    /// The server ended over it, or beside it.
    pub(super) fn ended(self) {
        let mut inner = self.gate.lock();
        inner.good = inner.good.max(inner.limit);
        inner.limit = 1.0;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.running.remove(&self.number);
        self.gate.tell_ends(&inner);
        drop(inner);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Passes for all that may go now.
    fn all(gate: &Gate) -> Vec<Pass<'_>> {
        std::iter::from_fn(|| gate.enter(true).now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_the_server_bears() {
        let gate = Gate::new(8);
        let mut passes = all(&gate);
        assert_eq!(passes.len(), 8);
        let (one, other) = (passes.pop().unwrap(), passes.pop().unwrap());
        let pause = one.refused(None);
        assert!(pause >= FIRST_PAUSE.mul_f64(0.75) && pause <= FIRST_PAUSE, "{pause:?}");
        other.refused(None);
        drop(passes);
        assert_eq!(all(&gate).len(), 0, "nobody goes for a while");
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(all(&gate).len(), 4, "two refusals of one round halve once");
        for (answers, limit) in [(3, 4), (1, 5), (5, 6)] {
            for _ in 0..answers {
                gate.enter(true).await.answered();
            }
            let found = all(&gate).len();
            assert!(found == limit || found + 1 == limit, "{found} after {answers} more answers, not {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_that_are_refused_wait_longer_and_longer() {
        let gate = Gate::new(1);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pass = gate.enter(true).await;
            tokio::time::advance(Duration::from_millis(1)).await;
            pauses.push(pass.refused(None));
        }
        assert!(pauses.windows(2).take(5).all(|two| two[1] > two[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        gate.enter(true).await.answered();
        assert!(gate.enter(true).await.refused(None) <= FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_says_itself_how_long() {
        let gate = Gate::new(4);
        assert_eq!(gate.enter(true).await.refused(Some(Duration::from_secs(7))), Duration::from_secs(7));
        tokio::time::advance(Duration::from_millis(6999)).await;
        assert!(gate.enter(true).now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        let day = Duration::from_hours(24);
        assert_eq!(gate.enter(true).await.refused(Some(day)), LONGEST_ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_after_the_server_ended_and_then_quickly_more() {
        let gate = Gate::new(4);
        let passes = all(&gate);
        assert!(passes.iter().all(|pass| !pass.alone));
        passes.into_iter().for_each(Pass::ended);
        let alone = all(&gate);
        assert_eq!((alone.len(), alone[0].alone), (1, true));
        drop(alone);
        for limit in 2..=4 {
            gate.enter(true).await.answered();
            assert_eq!(all(&gate).len(), limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_are_expected_from_what_requests_take() {
        let gate = Gate::new(4);
        let ends = gate.ends();
        let first = gate.enter(true).await;
        assert!(ends.borrow().is_empty(), "nothing is known yet");
        tokio::time::advance(Duration::from_secs(3)).await;
        first.answered();
        let (_last, _more) = (gate.enter(true).await, gate.enter(false).await);
        assert_eq!(*ends.borrow(), [(Instant::now() + Duration::from_secs(3)).into_std()]);
    }
}
