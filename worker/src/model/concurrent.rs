//! Engines that wait for somebody else to compute: their requests run side by side as futures, each by itself.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{Item, Product, RunError};
use crate::metrics::{Device, Metrics};

/// An engine whose requests run side by side.
pub trait Concurrent<R>: Debug + Send + Sync {
    /// Runs one request to its end; one that is cancelled ends at once.
    fn run(&self, item: Item<R>) -> BoxFuture<'_, Result<Product, RunError>>;

    /// When each job that it runs is expected to end, by its last request.
    fn ends(&self) -> watch::Receiver<Vec<Instant>>;
}

/// Such an engine with what its requests take of it.
#[derive(Debug)]
pub(super) struct Crowd<R> {
    engine: Arc<dyn Concurrent<R>>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    running: u32,
    /// When one came or went.
    since: Instant,
    /// What each that ran all the time would have had of it: its time, always divided by how many shared it.
    shared: Duration,
}

impl<R> Crowd<R> {
    pub(super) fn new(engine: Arc<dyn Concurrent<R>>, metrics: Arc<Metrics>) -> Self {
        let inner = Inner { running: 0, since: Instant::now(), shared: Duration::ZERO };
        Self { engine, metrics, inner: Mutex::new(inner) }
    }

    pub(super) fn ends(&self) -> watch::Receiver<Vec<Instant>> {
        self.engine.ends()
    }

    /// Runs one request; and its share of the engine's time.
    pub(super) async fn run(&self, item: Item<R>) -> (Result<Product, RunError>, Duration) {
        let before = self.changed(|running| running + 1);
        let result = self.engine.run(item).await;
        let after = self.changed(|running| running.saturating_sub(1));
        (result, after.saturating_sub(before))
    }

    /// Counts the time since the last change.
    fn changed(&self, by: impl FnOnce(u32) -> u32) -> Duration {
        // a panic while it was held leaves counters that are still good
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let took = now - inner.since;
        let device = if inner.running > 0 { Device::Busy } else { Device::Idle };
        self.metrics.device(device, took.as_secs_f64());
        if let Some(each) = took.checked_div(inner.running) {
            inner.shared += each;
        }
        inner.since = now;
        inner.running = by(inner.running);
        inner.shared
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Barrier;

    use super::*;
    use crate::model::testing::{Number, metrics};
    use crate::model::thread::{EngineThread, finish};
    use crate::model::{Engine, InvalidInput};

    /// Ends a request only when as many others are there as it says.
    #[derive(Debug)]
    struct Meeting(Barrier);

    impl Concurrent<Number> for Meeting {
        fn run(&self, item: Item<Number>) -> BoxFuture<'_, Result<Product, RunError>> {
            Box::pin(async move {
                if item.request.0 == 13 {
                    return Err(InvalidInput::body("unlucky").into());
                }
                self.0.wait().await;
                Ok(Product { seed: Some(item.request.0), ..Product::default() })
            })
        }

        fn ends(&self) -> watch::Receiver<Vec<Instant>> {
            watch::channel(Vec::new()).1
        }
    }

    struct Room(Arc<Meeting>);

    impl Engine for Room {
        type Request = Number;

        fn warm_up(&mut self) -> Result<(), RunError> {
            Ok(())
        }

        fn run(&mut self, batch: &[Item<Number>]) -> Vec<Result<Product, RunError>> {
            batch.iter().map(|_| Err(RunError::Model("it is given no batches".into()))).collect()
        }

        fn concurrent(&self) -> Option<Arc<dyn Concurrent<Number>>> {
            Some(Arc::clone(&self.0) as Arc<dyn Concurrent<Number>>)
        }
    }

    #[tokio::test]
    async fn requests_run_side_by_side_and_each_has_its_share() {
        let room = Room(Arc::new(Meeting(Barrier::new(3))));
        let thread = EngineThread::start(move || Ok(room), Arc::new(metrics())).await.unwrap();
        assert!(thread.ends().is_some(), "it is fed one by one");
        let began = Instant::now();
        let join = |number| thread.join(Item::new(Number(number)));
        let ((one, a), (two, b), (three, c)) = tokio::join!(join(1), join(2), join(3));
        assert!(a + b + c <= began.elapsed(), "{a:?} {b:?} {c:?}");
        for (left, seed) in [(one, 1), (two, 2), (three, 3)] {
            assert_eq!(finish(left.unwrap_or_else(|e| panic!("{e}"))).await.unwrap().seed, Some(seed));
        }
        assert!(matches!(join(13).await.0, Err(RunError::Invalid(_))));
    }
}
