//! The one OS thread that owns an engine. Loading, warming up and every batch or step happen there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::concurrent::{Concurrent, Crowd};
use super::session::{Joined, Session};
use super::stepwise::Finish;
use super::{Batchable, Engine, Item, LoadError, Product, RunError};
use crate::metrics::{Device, Metrics, Startup};

/// A batch's results in order, and how long the engine had it.
pub type Ran = (Vec<Result<Product, RunError>>, Duration);

/// How many requests may wait for the next step beside those that run.
const AT_THE_DOOR: usize = 64;

/// Hands batches to the thread that owns the engine. When every clone is dropped, the thread ends.
#[derive(Debug)]
pub struct EngineThread<R> {
    calls: mpsc::Sender<Call<R>>,
    revision: Option<String>,
    ends: Option<watch::Receiver<Vec<Instant>>>,
    crowd: Option<Arc<Crowd<R>>>,
}

impl<R> Clone for EngineThread<R> {
    fn clone(&self) -> Self {
        let (calls, revision) = (self.calls.clone(), self.revision.clone());
        Self { calls, revision, ends: self.ends.clone(), crowd: self.crowd.clone() }
    }
}

/// What the thread is asked for.
#[derive(Debug)]
enum Call<R> {
    /// A batch, of an engine that knows no steps.
    Batch(Vec<Item<R>>, oneshot::Sender<Ran>),
    /// A request that joins the next step.
    Join(Item<R>, oneshot::Sender<Joined>),
}

/// What the thread tells when it has loaded.
struct Loaded<R> {
    revision: Option<String>,
    stepwise: bool,
    concurrent: Option<Arc<dyn Concurrent<R>>>,
}

impl<R: Batchable> EngineThread<R> {
    /// Starts the thread, loads the engine on it and has it infer once; returns when that is done.
    pub async fn start<E: Engine<Request = R>>(
        load: impl FnOnce() -> Result<E, LoadError> + Send + 'static,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let (calls, receiver) = mpsc::channel(AT_THE_DOOR);
        let (loaded, answer) = oneshot::channel();
        let (ends, expected) = watch::channel(Vec::new());
        // an engine that waits for others waits there
        let runtime = tokio::runtime::Handle::current();
        let counted = Arc::clone(&metrics);
        let own = move || {
            let _within = runtime.enter();
            let began = Instant::now();
            let ready = load_and_warm(load, &metrics);
            metrics.device(Device::Starting, began.elapsed().as_secs_f64());
            match ready {
                Ok(mut engine) => {
                    let (revision, concurrent) = (engine.revision(), engine.concurrent());
                    let serves = concurrent.is_none();
                    let told = Loaded { revision, stepwise: engine.stepwise().is_some(), concurrent };
                    // if nobody waits any more, `calls` is dropped too and the loop below ends at once
                    drop(loaded.send(Ok(told)));
                    if serves {
                        serve(engine, receiver, &metrics, &ends);
                    }
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let spawned = thread::Builder::new().name("engine".into()).spawn(own);
        spawned.map_err(|e| LoadError { reason: "ThreadFailed", message: format!("cannot start a thread: {e}") })?;
        let died = || LoadError { reason: "ModelCrashed", message: "the model's thread ended while it loaded".into() };
        let Loaded { revision, stepwise, concurrent } = answer.await.map_err(|_| died())??;
        let crowd = concurrent.map(|engine| Arc::new(Crowd::new(engine, counted)));
        let ends = crowd.as_ref().map(|crowd| crowd.ends()).or(stepwise.then_some(expected));
        Ok(Self { calls, revision, ends, crowd })
    }

    /// The same engine, under the revision that its source gave it, which is exacter than what the engine can tell.
    #[must_use]
    pub fn with_revision(self, revision: Option<String>) -> Self {
        Self { revision: revision.or(self.revision), ..self }
    }

    /// What was loaded, for records.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Of an engine that is given one request after another: when each job that it runs is expected to end. None of one
    /// that is given batches.
    pub fn ends(&self) -> Option<watch::Receiver<Vec<Instant>>> {
        self.ends.clone()
    }

    /// Runs a batch of requests with one key; waits for its turn.
    pub async fn run(&self, batch: Vec<Item<R>>) -> Ran {
        let size = batch.len();
        let (answer, ran) = oneshot::channel();
        let gone = || (vec![Err(ended()); size], Duration::ZERO);
        if self.calls.send(Call::Batch(batch, answer)).await.is_err() {
            return gone();
        }
        ran.await.unwrap_or_else(|_| gone())
    }

    /// Runs one request on an engine that knows steps, or that runs requests side by side; it joins those that run already.
    /// What is left to do for its product is for [`finish`], when the engine has gone on.
    pub async fn join(&self, item: Item<R>) -> (Result<Finish, RunError>, Duration) {
        if let Some(crowd) = &self.crowd {
            let (result, share) = crowd.run(item).await;
            return (result.map(|product| -> Finish { Box::new(move || Ok(product)) }), share);
        }
        let (answer, joined) = oneshot::channel();
        if self.calls.send(Call::Join(item, answer)).await.is_err() {
            return (Err(ended()), Duration::ZERO);
        }
        match joined.await {
            Err(_) => (Err(ended()), Duration::ZERO),
            Ok(Joined { result, share }) => (result, share),
        }
    }
}

/// Does what is left for a product, on a thread for such work.
pub async fn finish(left: Finish) -> Result<Product, RunError> {
    let finished = tokio::task::spawn_blocking(left).await;
    finished.unwrap_or_else(|error| Err(RunError::Model(format!("the result could not be made: {error}"))))
}

fn ended() -> RunError {
    RunError::Model("the model's thread has ended".into())
}

fn load_and_warm<E: Engine>(load: impl FnOnce() -> Result<E, LoadError>, metrics: &Metrics) -> Result<E, LoadError> {
    let both = || {
        let began = Instant::now();
        let mut engine = load()?;
        let loaded = Instant::now();
        metrics.startup(Startup::Load, loaded - began);
        engine.warm_up().map_err(|e| LoadError {
            reason: if matches!(e, RunError::OutOfMemory(_)) { "OutOfMemory" } else { "WarmUpFailed" },
            message: format!("the first forward failed: {e}"),
        })?;
        metrics.startup(Startup::WarmUp, loaded.elapsed());
        Ok(engine)
    };
    catch_unwind(AssertUnwindSafe(both))
        .unwrap_or_else(|panic| Err(LoadError { reason: "ModelCrashed", message: panic_text(panic.as_ref()) }))
}

fn serve<E: Engine>(
    mut engine: E,
    mut calls: mpsc::Receiver<Call<E::Request>>,
    metrics: &Metrics,
    ends: &watch::Sender<Vec<Instant>>,
) {
    let mut idle_since = Instant::now();
    while let Some(call) = calls.blocking_recv() {
        let began = Instant::now();
        metrics.device(Device::Idle, (began - idle_since).as_secs_f64());
        match call {
            Call::Batch(batch, answer) => {
                metrics.batch_size.observe(batch.len() as f64);
                let results = run_in_halves(&mut engine, &batch);
                let took = began.elapsed();
                metrics.device(Device::Busy, took.as_secs_f64());
                // whoever asked may have given up
                drop(answer.send((results, took)));
            }
            Call::Join(item, answer) => {
                if let Some(stepwise) = engine.stepwise() {
                    let mut session = Session::new(stepwise, metrics, ends);
                    session.admit(item, answer);
                    while session.is_running() {
                        // a batch among them is nobody's: whoever sends them knows which kind of engine this is
                        while let Ok(Call::Join(item, answer)) = calls.try_recv() {
                            session.admit(item, answer);
                        }
                        session.step();
                    }
                }
            }
        }
        idle_since = Instant::now();
    }
}

/// Runs a batch. One that does not fit into memory, crashes, or fails as a whole is tried again in halves, down to single
/// requests: a request's error is then its own.
fn run_in_halves<E: Engine>(engine: &mut E, batch: &[Item<E::Request>]) -> Vec<Result<Product, RunError>> {
    let ran = catch_unwind(AssertUnwindSafe(|| engine.run(batch)));
    let results = ran.unwrap_or_else(|panic| {
        let error = RunError::Model(format!("the model crashed: {}", panic_text(panic.as_ref())));
        vec![Err(error); batch.len()]
    });
    let too_big = results.iter().any(|r| matches!(r, Err(RunError::OutOfMemory(_))));
    let failed = results.iter().all(|r| matches!(r, Err(RunError::Model(_))));
    if batch.len() < 2 || !(too_big || failed) {
        return results;
    }
    let why = if too_big { "does not fit into memory" } else { "failed as a whole" };
    tracing::warn!(size = batch.len(), "the batch {why}; trying halves");
    let (left, right) = batch.split_at(batch.len() / 2);
    let mut results = run_in_halves(engine, left);
    results.extend(run_in_halves(engine, right));
    results
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Number, metrics};
    use super::*;

    /// Has room for two; fails on 13, crashes on 66.
    struct Small {
        sizes: Arc<std::sync::Mutex<Vec<usize>>>,
    }

    impl Engine for Small {
        type Request = Number;

        fn warm_up(&mut self) -> Result<(), RunError> {
            Ok(())
        }

        fn run(&mut self, batch: &[Item<Number>]) -> Vec<Result<Product, RunError>> {
            self.sizes.lock().unwrap().push(batch.len());
            let one = |item: &Item<Number>| match item.request.0 {
                _ if batch.len() > 2 => Err(RunError::OutOfMemory("2 at most".into())),
                13 => Err(RunError::Model("unlucky".into())),
                66 => panic!("crash on 66"),
                n => Ok(Product { seed: Some(n), ..Product::default() }),
            };
            batch.iter().map(one).collect()
        }
    }

    async fn run(numbers: &[u64]) -> (Vec<Result<Product, RunError>>, Vec<usize>) {
        let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
        let engine = Small { sizes: Arc::clone(&sizes) };
        let thread = EngineThread::start(move || Ok(engine), Arc::new(metrics())).await.unwrap();
        let item = |n: &u64| Item::new(Number(*n));
        let (results, _) = thread.run(numbers.iter().map(item).collect()).await;
        let sizes = sizes.lock().unwrap().clone();
        (results, sizes)
    }

    #[tokio::test]
    async fn a_batch_that_does_not_fit_is_halved_and_keeps_its_order() {
        let (results, sizes) = run(&[1, 2, 3, 4, 5]).await;
        let seeds: Vec<_> = results.into_iter().map(|r| r.unwrap().seed.unwrap()).collect();
        assert_eq!((seeds, sizes), (vec![1, 2, 3, 4, 5], vec![5, 2, 3, 1, 2]));
    }

    #[tokio::test]
    async fn one_bad_request_does_not_fail_its_batch_mates() {
        let (results, _) = run(&[1, 13]).await;
        assert!(results[0].is_ok());
        assert_eq!(results[1], Err(RunError::Model("unlucky".into())));
    }

    #[tokio::test]
    async fn a_crash_is_the_error_of_its_request_alone_and_the_thread_lives_on() {
        let (results, sizes) = run(&[1, 66]).await;
        assert!(results[0].is_ok());
        assert_eq!(results[1], Err(RunError::Model("the model crashed: crash on 66".into())));
        assert_eq!(sizes, [2, 1, 1]);
    }

    #[tokio::test]
    async fn what_crashes_after_the_engine_is_an_error_too() {
        let (good, bad): (Finish, Finish) = (Box::new(|| Ok(Product::default())), Box::new(|| panic!("no memory")));
        assert_eq!(finish(good).await, Ok(Product::default()));
        let error = finish(bad).await.unwrap_err().to_string();
        assert!(error.starts_with("the result could not be made"), "{error}");
    }
}
