//! The model's time: tokio's clock plus what a test has jumped ahead, so that leases run out at once.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A point in model time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The moment so long after the Unix epoch.
    pub const fn since_epoch(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after `earlier` this is; zero where it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds since the Unix epoch, as SQS writes time.
    pub fn millis(self) -> u128 {
        self.0.as_millis()
    }

    /// Seconds since the Unix epoch.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    pub(crate) fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH + self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// The clock of one model; its clones tell the same time.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    started_at: Duration,
    jumped_nanos: AtomicU64,
    jumped: Notify,
}

impl Clock {
    /// A clock that begins with the machine's time.
    pub(crate) fn new() -> Self {
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let jumped_nanos = AtomicU64::new(0);
        Self(Arc::new(Inner { started: Instant::now(), started_at, jumped_nanos, jumped: Notify::new() }))
    }

    /// What it shows.
    pub fn now(&self) -> Moment {
        let jumped = Duration::from_nanos(self.0.jumped_nanos.load(Ordering::SeqCst));
        Moment(self.0.started_at + self.0.started.elapsed() + jumped)
    }

    /// Jumps ahead: what would have run out by then has run out now, and what waits for it goes on.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.jumped_nanos.fetch_add(nanos, Ordering::SeqCst);
        self.0.jumped.notify_waiters();
    }

    /// Waits until the clock shows `moment`, by the passing of time or by a jump.
    pub async fn until(&self, moment: Moment) {
        loop {
            // asked for before the time is looked at, so that no jump falls between the two
            let jumped = self.0.jumped.notified();
            let left = moment.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = jumped => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_jump_ends_a_wait() {
        let clock = Clock::new();
        let hour = Duration::from_hours(1);
        let wait = tokio::spawn({
            let clock = clock.clone();
            async move { clock.until(clock.now() + hour).await }
        });
        tokio::task::yield_now().await;
        let before = clock.now();
        clock.advance(hour);
        wait.await.unwrap();
        assert!(clock.now().since(before) >= hour);
    }
}
