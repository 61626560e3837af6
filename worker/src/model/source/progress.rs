//! How far a download has come: counted by the download, logged every few seconds, read by `/state`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

const LOG_EVERY: Duration = Duration::from_secs(5);

/// Bytes that have come and bytes to come. Clones share one count.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    description: String,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Nothing known yet. The description names the model: `ModelSource::name`.
    pub fn new(description: impl Into<String>) -> Self {
        Self(Arc::new(Counts { description: description.into(), done: AtomicU64::new(0), total: AtomicU64::new(0) }))
    }

    /// The model's name.
    pub fn description(&self) -> &str {
        &self.0.description
    }

    /// Bytes that have come since the download began.
    pub fn done_bytes(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Bytes that the download consists of; what was in the cache does not count. Zero until that is known.
    pub fn total_bytes(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// A download of `total` bytes begins, or begins again.
    pub(super) fn begin(&self, total: u64) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// So many more bytes are here.
    pub(super) fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Runs `work` and says every few seconds how far it is.
    pub(super) async fn logged<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        let mut tick = interval_at(Instant::now() + LOG_EVERY, LOG_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut before = (Instant::now(), self.done_bytes());
        loop {
            tokio::select! {
                output = &mut work => return output,
                now = tick.tick() => {
                    let done = self.done_bytes();
                    let bytes = done.saturating_sub(before.1) as f64;
                    let rate = bytes / now.duration_since(before.0).as_secs_f64().max(0.001);
                    tracing::info!("model {self}, {:.0} MB/s", rate / 1e6);
                    before = (now, done);
                }
            }
        }
    }
}

/// `s3://models/sdxl/: 1.2/6.9 GB`
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, total) = (self.done_bytes(), self.total_bytes());
        let (unit, size) = match total {
            1_000_000_000.. => ("GB", 1e9),
            1_000_000.. => ("MB", 1e6),
            _ => ("kB", 1e3),
        };
        write!(f, "{}: {:.1}/{:.1} {unit}", self.0.description, done as f64 / size, total as f64 / size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_the_unit_of_the_whole() {
        let progress = Progress::new("s3://m/sdxl/");
        let same = progress.clone();
        progress.begin(6_900_000_000);
        progress.add(1_200_000_000);
        assert_eq!(same.to_string(), "s3://m/sdxl/: 1.2/6.9 GB");
        progress.begin(2_500_000);
        assert_eq!(same.to_string(), "s3://m/sdxl/: 0.0/2.5 MB");
        assert_eq!((same.done_bytes(), same.total_bytes()), (0, 2_500_000));
    }
}
