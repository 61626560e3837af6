//! How many jobs a worker may hold: a batch while the model is idle, and the next one shortly before it can start.
//!
//! A message is received only with a slot for it, so receive counts are never burnt. While a batch runs nothing can join
//! it, so slots are given again only when it is expected to end within `HORIZON`: the model then finds the next batch
//! ready, and no message waits here while another worker is free. A model that is run step by step can be joined at any
//! time, so there a slot is free as soon as a job leaves, or is expected to within `HORIZON`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::Instant;

/// How long before it can start a job may be received.
const HORIZON: Duration = Duration::from_secs(1);
/// Weight of the newest batch in the expected duration of the next one.
const NEWEST: f64 = 0.3;

/// All slots of one worker.
#[derive(Debug, Clone)]
pub struct Slots {
    capacity: usize,
    held: Arc<watch::Sender<usize>>,
    outlook: Outlook,
    /// Held by every job; a job that may kill its worker holds it alone.
    company: Arc<RwLock<()>>,
}

/// The right to hold one job; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    held: Arc<watch::Sender<usize>>,
    company: Option<Arc<OwnedRwLockReadGuard<()>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.held.send_modify(|held| *held -= 1);
    }
}

/// No other job is held while this lives.
pub type Alone = OwnedRwLockWriteGuard<()>;

impl Slots {
    /// Slots for `capacity` jobs at once; `outlook` is told by the batcher.
    pub fn new(capacity: usize, outlook: Outlook) -> Self {
        Self { capacity, held: Arc::new(watch::Sender::new(0)), outlook, company: Arc::default() }
    }

    /// How many jobs run at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Waits until a job may be received; gives up to `most` slots.
    pub async fn acquire(&self, most: usize) -> Vec<Slot> {
        let mut held = self.held.subscribe();
        let mut model = self.outlook.model.subscribe();
        loop {
            held.mark_unchanged();
            let until = model.borrow_and_update().next_at(Instant::now());
            if self.free() > 0 {
                // only now: whoever waits to be alone may hold the slot that was waited for
                let company = Arc::clone(&self.company).read_owned().await;
                let slots = self.give(most, company);
                if !slots.is_empty() {
                    return slots;
                }
                continue;
            }
            let soon = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // the senders live as long as `self` does
            tokio::select! {
                _ = held.changed() => {}
                _ = model.changed() => {}
                () = soon => {}
            }
        }
    }

    /// Up to `most` slots, if there are any right now.
    pub fn try_acquire(&self, most: usize) -> Vec<Slot> {
        let company = Arc::clone(&self.company).try_read_owned();
        company.map(|company| self.give(most, company)).unwrap_or_default()
    }

    fn give(&self, most: usize, company: OwnedRwLockReadGuard<()>) -> Vec<Slot> {
        let count = self.free().min(most);
        self.held.send_modify(|held| *held += count);
        let company = Arc::new(company);
        let slot = || Slot { held: Arc::clone(&self.held), company: Some(Arc::clone(&company)) };
        std::iter::repeat_with(slot).take(count).collect()
    }

    /// How many more jobs may be received right now.
    pub fn free(&self) -> usize {
        let soon = Instant::now() + HORIZON;
        let may_hold = match &*self.outlook.model.borrow() {
            Model::Idle => self.capacity,
            Model::Running { ends_at } if ends_at.is_some_and(|at| at <= soon) => self.capacity * 2,
            Model::Running { .. } => 0,
            Model::Stepping { ends } => self.capacity + ends.iter().filter(|at| **at <= soon).count(),
        };
        may_hold.saturating_sub(*self.held.borrow())
    }

    /// Whether the model is idle with less than a batch: besides the `asking` slots others are held already.
    pub fn is_gathering(&self, asking: usize) -> bool {
        *self.outlook.model.borrow() == Model::Idle && *self.held.borrow() > asking
    }

    /// Waits until what was gathered runs, or is gone.
    pub async fn gathered(&self) {
        let mut held = self.held.subscribe();
        let mut model = self.outlook.model.subscribe();
        while self.is_gathering(0) {
            tokio::select! {
                _ = held.changed() => {}
                _ = model.changed() => {}
            }
        }
    }

    /// Waits until every job but those that stand aside has ended; nothing is received while it is held.
    pub async fn alone(&self, slot: &mut Slot) -> Alone {
        slot.company = None;
        Arc::clone(&self.company).write_owned().await
    }

    /// Waits for `turn` without a slot, and takes one again: whoever must be alone may be who is waited for.
    pub async fn aside<T>(&self, slot: Slot, turn: impl Future<Output = T>) -> (Option<Slot>, T) {
        drop(slot);
        let turn = turn.await;
        (self.acquire(1).await.pop(), turn)
    }
}

/// What the model does, and how long batches take.
#[derive(Debug, Clone)]
pub struct Outlook {
    model: Arc<watch::Sender<Model>>,
    expected: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Model {
    Idle,
    /// A batch runs; before the first one has ended, nothing is known of when it will.
    Running {
        ends_at: Option<Instant>,
    },
    /// It is run step by step, and these are its requests' ends.
    Stepping {
        ends: Vec<Instant>,
    },
}

impl Model {
    /// When, after `now`, more jobs may be received.
    fn next_at(&self, now: Instant) -> Option<Instant> {
        let ends = match self {
            Self::Idle => &[],
            Self::Running { ends_at } => ends_at.as_slice(),
            Self::Stepping { ends } => ends.as_slice(),
        };
        ends.iter().map(|at| at.checked_sub(HORIZON).unwrap_or(*at)).filter(|at| *at > now).min()
    }
}

impl Default for Outlook {
    fn default() -> Self {
        Self { model: Arc::new(watch::Sender::new(Model::Idle)), expected: None }
    }
}

impl Outlook {
    /// The model is run step by step, and its requests are expected to end then.
    pub fn stepping(&self, ends: Vec<Instant>) {
        self.model.send_replace(Model::Stepping { ends });
    }

    /// A batch begins.
    pub fn begin(&self) {
        let ends_at = self.expected.map(|took| Instant::now() + took);
        self.model.send_replace(Model::Running { ends_at });
    }

    /// It took this long.
    pub fn end(&mut self, took: Duration) {
        let expected = self.expected.map_or(took, |expected| expected.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST));
        self.expected = Some(expected);
        self.model.send_replace(Model::Idle);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn slots(capacity: usize) -> (Slots, Outlook) {
        let outlook = Outlook::default();
        (Slots::new(capacity, outlook.clone()), outlook)
    }

    fn now(slots: &Slots, most: usize) -> usize {
        slots.acquire(most).now_or_never().map_or(0, |mut given| {
            let count = given.len();
            // kept: the test counts what is held
            given.drain(..).for_each(std::mem::forget);
            count
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_while_the_model_is_idle_and_none_while_it_runs() {
        let (slots, outlook) = slots(4);
        assert_eq!((now(&slots, 3), slots.is_gathering(3), slots.is_gathering(2)), (3, false, true));
        outlook.begin();
        assert_eq!((now(&slots, 3), slots.free(), slots.is_gathering(0)), (0, 0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_batch_shortly_before_this_one_ends() {
        let (slots, mut outlook) = slots(2);
        outlook.end(Duration::from_secs(30));
        assert_eq!((now(&slots, 10), now(&slots, 10)), (2, 0));
        outlook.begin();
        tokio::time::advance(Duration::from_secs(28)).await;
        assert_eq!(now(&slots, 10), 0);
        let began = Instant::now();
        let waited = slots.acquire(10).await;
        assert_eq!((waited.len(), began.elapsed().as_secs()), (2, 1));
        assert_eq!(now(&slots, 10), 0);
        drop(waited);
        assert_eq!(now(&slots, 1), 1, "an ended job's slot is free, in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_run_by_steps_is_joined_as_soon_as_a_job_leaves() {
        let (slots, outlook) = slots(2);
        outlook.stepping(Vec::new());
        let mut held = slots.acquire(10).await;
        assert_eq!((held.len(), slots.free(), slots.is_gathering(0)), (2, 0, false));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        outlook.stepping(vec![at(30), at(20)]);
        assert_eq!(slots.free(), 0);
        drop(held.pop());
        assert_eq!(now(&slots, 10), 1, "others run, and one can join them");
        let began = Instant::now();
        let next = slots.acquire(10).await;
        assert_eq!((next.len(), began.elapsed().as_secs()), (1, 19), "one is about to end");
        outlook.stepping(Vec::new());
        assert_eq!(slots.free(), 0, "none was about to, after all");
    }

    #[tokio::test(start_paused = true)]
    async fn gathering_ends_when_the_batch_begins() {
        let (slots, outlook) = slots(2);
        assert_eq!(now(&slots, 1), 1);
        assert!(slots.gathered().now_or_never().is_none());
        outlook.begin();
        assert!(slots.gathered().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_runs_alone() {
        let (slots, _) = slots(3);
        let mut given = slots.acquire(3).await;
        let (mut suspect, other) = (given.pop().unwrap(), given.pop().unwrap());
        drop(given);
        {
            let alone = slots.alone(&mut suspect);
            tokio::pin!(alone);
            assert!(alone.as_mut().now_or_never().is_none(), "another job is held");
            drop(other);
            let _alone = alone.now_or_never().expect("all others have ended");
            assert_eq!(now(&slots, 3), 0, "nothing is received meanwhile");
        }
        assert_eq!(now(&slots, 3), 2);
    }
}
