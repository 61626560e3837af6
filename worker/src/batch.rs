//! Groups requests of one key, up to a size or a wait. While a batch runs, the next one gathers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::model::thread::EngineThread;
use crate::model::{Cancel, Item, Product, Request, RunError};

/// What became of one request.
#[derive(Debug)]
pub struct Done {
    /// Its product or why there is none.
    pub result: Result<Product, RunError>,
    /// When its batch began.
    pub began: Instant,
    /// How long the engine had its batch.
    pub took: Duration,
}

/// Takes requests and gives each its result.
#[derive(Debug)]
pub struct Batcher<R> {
    waiting: mpsc::Sender<Waiting<R>>,
}

#[derive(Debug)]
struct Waiting<R> {
    item: Item<R>,
    since: Instant,
    done: oneshot::Sender<Done>,
}

/// When a batch is full, and when it has waited enough.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most requests of a batch.
    pub max_size: usize,
    /// Longest wait of its first request.
    pub max_wait: Duration,
}

impl<R: Request> Batcher<R> {
    /// Starts the task that groups; it ends when every batcher is dropped and all is done.
    pub fn start(engine: EngineThread<R>, limits: Limits) -> Self {
        let (waiting, receiver) = mpsc::channel(limits.max_size * 2);
        tokio::spawn(group(engine, limits, receiver));
        Self { waiting }
    }

    /// Runs one request; `cancel` gives it up.
    pub async fn run(&self, request: Arc<R>, cancel: Cancel) -> Done {
        let (done, answer) = oneshot::channel();
        let since = Instant::now();
        let gone = move || Done { result: Err(RunError::Cancelled), began: since, took: Duration::ZERO };
        if self.waiting.send(Waiting { item: Item { request, cancel }, since, done }).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }
}

async fn group<R: Request>(engine: EngineThread<R>, limits: Limits, mut receiver: mpsc::Receiver<Waiting<R>>) {
    let mut waiting: Vec<Waiting<R>> = Vec::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        while let Ok(next) = receiver.try_recv() {
            waiting.push(next);
        }
        waiting.retain(|w| !w.item.cancel.is_cancelled());
        let keys: Vec<_> = waiting.iter().map(|w| (w.item.request.batch_key(), w.since)).collect();
        match choose(&keys, limits, Instant::now()) {
            Choice::Run(key) => {
                let (batch, rest) = split(waiting, key, limits.max_size);
                waiting = rest;
                run(&engine, batch).await;
            }
            Choice::Wait(until) => {
                let until = until.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
                match tokio::time::timeout_at(until, receiver.recv()).await {
                    Ok(Some(next)) => waiting.push(next),
                    Ok(None) => {
                        open = false;
                        if let Some(until) = (!waiting.is_empty()).then_some(until) {
                            tokio::time::sleep_until(until).await;
                        }
                    }
                    Err(_) => {}
                }
            }
        }
    }
}

async fn run<R: Request>(engine: &EngineThread<R>, batch: Vec<Waiting<R>>) {
    let began = Instant::now();
    let (items, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.item, w.done)).unzip();
    let (results, took) = engine.run(items).await;
    for (result, answer) in results.into_iter().zip(answers) {
        // a job that was given up waits no longer
        drop(answer.send(Done { result, began, took }));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// A batch of this key, now.
    Run(u64),
    /// Nothing until then, or until a request comes.
    Wait(Option<Instant>),
}

/// The oldest request's group once it has waited enough, so that nobody starves; else the oldest group that is full.
fn choose(waiting: &[(u64, Instant)], limits: Limits, now: Instant) -> Choice {
    let oldest = waiting.iter().min_by_key(|(_, since)| *since);
    if let Some((key, _)) = oldest.filter(|(_, since)| now >= *since + limits.max_wait) {
        return Choice::Run(*key);
    }
    let mut sizes: HashMap<u64, usize> = HashMap::new();
    for (key, _) in waiting {
        *sizes.entry(*key).or_default() += 1;
    }
    if let Some((key, _)) = waiting.iter().find(|(key, _)| sizes[key] >= limits.max_size) {
        return Choice::Run(*key);
    }
    match oldest {
        None => Choice::Wait(None),
        // as many wait as there are slots, so no other can come
        Some((key, _)) if waiting.len() >= limits.max_size => Choice::Run(*key),
        Some((_, since)) => Choice::Wait(Some(*since + limits.max_wait)),
    }
}

/// Takes up to `size` requests of a key, oldest first.
fn split<R: Request>(waiting: Vec<Waiting<R>>, key: u64, size: usize) -> (Vec<Waiting<R>>, Vec<Waiting<R>>) {
    let mut taken = 0;
    waiting.into_iter().partition(|w| {
        let take = taken < size && w.item.request.batch_key() == key;
        taken += usize::from(take);
        take
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, Vec<(u64, Instant)>, u64, Choice);

    #[test]
    fn a_batch_runs_when_it_is_full_or_has_waited() {
        let limits = Limits { max_size: 3, max_wait: Duration::from_millis(50) };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let table: Vec<Row> = vec![
            ("nothing waits", vec![], 0, Choice::Wait(None)),
            ("one waits for others", vec![(1, at(0))], 49, Choice::Wait(Some(at(50)))),
            ("one has waited enough", vec![(1, at(0))], 50, Choice::Run(1)),
            ("full", vec![(1, at(0)), (1, at(1)), (1, at(1))], 1, Choice::Run(1)),
            (
                "a full group goes before an older single",
                vec![(2, at(0)), (1, at(1)), (1, at(1)), (1, at(1))],
                2,
                Choice::Run(1),
            ),
            (
                "one that has waited enough goes before a full group",
                vec![(2, at(0)), (1, at(49)), (1, at(49)), (1, at(49))],
                50,
                Choice::Run(2),
            ),
            ("every slot waits, so nobody else can come", vec![(2, at(0)), (1, at(1)), (3, at(1))], 2, Choice::Run(2)),
        ];
        for (name, waiting, now, wanted) in table {
            assert_eq!(choose(&waiting, limits, at(now)), wanted, "{name}");
        }
    }
}
