//! Hands requests to the engine, in the order of their rank.
//!
//! One that knows no steps is given batches: requests of one key, up to a size or a wait; while a batch runs, the next one
//! gathers. One that is run step by step is given each request as soon as there is a place, and nobody waits for others.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::model::thread::{EngineThread, finish};
use crate::model::{Batchable, Item, Product, RunError};
use crate::slots::Outlook;

/// What became of one request.
#[derive(Debug)]
pub struct Done {
    /// Its product or why there is none.
    pub result: Result<Product, RunError>,
    /// When its batch began.
    pub began: Instant,
    /// How long the engine had its batch.
    pub took: Duration,
    /// Its share of that: the time of its batch, or of its steps, by how many shared it.
    pub share: Duration,
    /// When it came to wait.
    pub since: Instant,
    /// Since when the engine could have begun with it: it came, or the batch before ended.
    pub could_begin: Instant,
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
    priority: i64,
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

/// One unit of priority counts like so much waiting, in seconds: nobody waits for ever.
const PRIORITY: f64 = 60.0;

impl<R: Batchable> Batcher<R> {
    /// Starts the task that hands out and tells `outlook`; it ends when every batcher is dropped and all is done.
    pub fn start(engine: EngineThread<R>, limits: Limits, outlook: Outlook) -> Self {
        let (waiting, receiver) = mpsc::channel(limits.max_size * 2);
        match engine.ends() {
            None => drop(tokio::spawn(group(engine, limits, outlook, receiver))),
            Some(mut ends) => {
                outlook.stepping(Vec::new());
                tokio::spawn(async move {
                    while ends.changed().await.is_ok() {
                        let expected = ends.borrow_and_update().iter().map(|at| Instant::from_std(*at)).collect();
                        outlook.stepping(expected);
                    }
                });
                tokio::spawn(feed(engine, limits.max_size, receiver));
            }
        }
        Self { waiting }
    }

    /// Runs one request; its `cancel` gives it up.
    pub async fn run(&self, item: Item<R>, priority: i64) -> Done {
        let (done, answer) = oneshot::channel();
        let since = Instant::now();
        let gone = move || Done {
            result: Err(RunError::Cancelled),
            began: since,
            took: Duration::ZERO,
            share: Duration::ZERO,
            since,
            could_begin: since,
        };
        if self.waiting.send(Waiting { item, since, priority, done }).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }
}

async fn group<R: Batchable>(
    engine: EngineThread<R>,
    limits: Limits,
    mut outlook: Outlook,
    mut receiver: mpsc::Receiver<Waiting<R>>,
) {
    let start = Instant::now();
    let mut free_since = start;
    let mut waiting: Vec<Waiting<R>> = Vec::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        while let Ok(next) = receiver.try_recv() {
            waiting.push(next);
        }
        waiting.retain(|w| !w.item.cancel.is_cancelled());
        waiting.sort_by(|a, b| a.rank(start).total_cmp(&b.rank(start)));
        let keys: Vec<_> = waiting.iter().map(|w| (w.item.request.key(), w.since)).collect();
        match choose(&keys, limits, Instant::now()) {
            Choice::Run(key) => {
                let (batch, rest) = split(waiting, key, limits.max_size);
                waiting = rest;
                run(&engine, batch, free_since, &mut outlook).await;
                free_since = Instant::now();
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

/// Feeds an engine that is run step by step: up to `most` requests at a time.
async fn feed<R: Batchable>(engine: EngineThread<R>, most: usize, mut receiver: mpsc::Receiver<Waiting<R>>) {
    let start = Instant::now();
    let mut waiting: Vec<Waiting<R>> = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut free_since = start;
    let mut open = true;
    while open || !waiting.is_empty() || !running.is_empty() {
        waiting.retain(|w| !w.item.cancel.is_cancelled());
        waiting.sort_by(|a, b| a.rank(start).total_cmp(&b.rank(start)));
        while running.len() < most && !waiting.is_empty() {
            running.push(join(&engine, waiting.remove(0), free_since));
        }
        tokio::select! {
            next = receiver.recv(), if open => match next {
                Some(next) => waiting.push(next),
                None => open = false,
            },
            Some(()) = running.next(), if !running.is_empty() => free_since = Instant::now(),
            // closed, and all that waited were cancelled
            else => {}
        }
    }
}

/// Ends when the engine is done with the request; its files are made while the next one has its place.
async fn join<R: Batchable>(engine: &EngineThread<R>, waiting: Waiting<R>, free_since: Instant) {
    let Waiting { item, since, done, .. } = waiting;
    let began = Instant::now();
    let (result, share) = engine.join(item).await;
    let could_begin = since.max(free_since).min(began);
    let rest = async move {
        let result = match result {
            Ok(left) => finish(left).await,
            Err(error) => Err(error),
        };
        // a job that was given up waits no longer
        drop(done.send(Done { result, began, took: began.elapsed(), share, since, could_begin }));
    };
    tokio::spawn(rest);
}

impl<R> Waiting<R> {
    /// Lower goes first.
    fn rank(&self, start: Instant) -> f64 {
        (self.since - start).as_secs_f64() - self.priority as f64 * PRIORITY
    }
}

async fn run<R: Batchable>(
    engine: &EngineThread<R>,
    batch: Vec<Waiting<R>>,
    free_since: Instant,
    outlook: &mut Outlook,
) {
    let began = Instant::now();
    let size = u32::try_from(batch.len()).unwrap_or(u32::MAX).max(1);
    let (items, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.item, (w.since, w.done))).unzip();
    outlook.begin();
    let (results, took) = engine.run(items).await;
    // before anyone hears of a result: a slot that comes free while the batch still seems about to end is one too many
    outlook.end(took);
    let share = took / size;
    for (result, (since, answer)) in results.into_iter().zip(answers) {
        // a job that was given up waits no longer
        drop(answer.send(Done { result, began, took, share, since, could_begin: since.max(free_since) }));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// A batch of this key, now.
    Run(u64),
    /// Nothing until then, or until a request comes.
    Wait(Option<Instant>),
}

/// The first request's group once the oldest has waited enough; else the first group that is full. `waiting` is in order.
fn choose(waiting: &[(u64, Instant)], limits: Limits, now: Instant) -> Choice {
    let Some((first, _)) = waiting.first() else { return Choice::Wait(None) };
    let overdue = waiting.iter().map(|(_, since)| *since + limits.max_wait).min();
    if overdue.is_some_and(|at| now >= at) {
        return Choice::Run(*first);
    }
    let mut sizes: HashMap<u64, usize> = HashMap::new();
    for (key, _) in waiting {
        *sizes.entry(*key).or_default() += 1;
    }
    if let Some((key, _)) = waiting.iter().find(|(key, _)| sizes[key] >= limits.max_size) {
        return Choice::Run(*key);
    }
    // as many wait as there are slots, so hardly another will come
    if waiting.len() >= limits.max_size { Choice::Run(*first) } else { Choice::Wait(overdue) }
}

/// Takes up to `size` requests of a key, in their order.
fn split<R: Batchable>(waiting: Vec<Waiting<R>>, key: u64, size: usize) -> (Vec<Waiting<R>>, Vec<Waiting<R>>) {
    let mut taken = 0;
    waiting.into_iter().partition(|w| {
        let take = taken < size && w.item.request.key() == key;
        taken += usize::from(take);
        take
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::stepwise::{Stepped, Stepwise, Ticket, run_all};
    use crate::model::testing::{Number, metrics};
    use crate::model::{Engine, Progress};

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

    /// What a stepper did: the requests in the order in which they joined, and the most that shared a step.
    #[derive(Debug, Default)]
    struct Log {
        joined: Vec<u64>,
        most: usize,
    }

    /// Takes its first step when it is told to go; a request is how many steps it takes.
    struct Stepper {
        go: Option<std::sync::mpsc::Receiver<()>>,
        left: BTreeMap<Ticket, (Item<Number>, u64)>,
        log: Arc<Mutex<Log>>,
    }

    impl Engine for Stepper {
        type Request = Number;

        fn warm_up(&mut self) -> Result<(), RunError> {
            Ok(())
        }

        fn run(&mut self, batch: &[Item<Number>]) -> Vec<Result<Product, RunError>> {
            run_all(self, batch)
        }

        fn stepwise(&mut self) -> Option<&mut dyn Stepwise<Number>> {
            Some(self)
        }
    }

    impl Stepwise<Number> for Stepper {
        fn begin(&mut self, item: Item<Number>) -> Result<Ticket, RunError> {
            let steps = item.request.0;
            let mut log = self.log.lock().unwrap();
            log.joined.push(steps);
            let ticket = Ticket(log.joined.len() as u64);
            self.left.insert(ticket, (item, steps));
            Ok(ticket)
        }

        fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped> {
            if let Some(go) = self.go.take() {
                go.recv().unwrap();
            }
            let mut log = self.log.lock().unwrap();
            log.most = log.most.max(tickets.len());
            let one = |ticket: &Ticket| {
                let (item, left) = self.left.get_mut(ticket).unwrap();
                *left -= 1;
                let steps = item.request.0;
                if *left == 0 {
                    return Stepped::Ended(Ok(Box::new(move || {
                        Ok(Product { seed: Some(steps), ..Product::default() })
                    })));
                }
                Stepped::Running(Progress { step: (steps - *left) as u32, steps: steps as u32 })
            };
            tickets.iter().map(one).collect()
        }

        fn forget(&mut self, ticket: Ticket) {
            self.left.remove(&ticket);
        }
    }

    /// A batcher over a stepper that waits for its go.
    async fn stepper(max_size: usize) -> (Batcher<Number>, std::sync::mpsc::Sender<()>, Arc<Mutex<Log>>) {
        let (go, told) = std::sync::mpsc::channel();
        let log = Arc::new(Mutex::new(Log::default()));
        let engine = Stepper { go: Some(told), left: BTreeMap::new(), log: Arc::clone(&log) };
        let thread = EngineThread::start(move || Ok(engine), Arc::new(metrics())).await.unwrap();
        let limits = Limits { max_size, max_wait: Duration::from_hours(1) };
        (Batcher::start(thread, limits, Outlook::default()), go, log)
    }

    /// Lets every task come to where it has to wait for the engine.
    async fn settle(mut requests: Pin<&mut impl Future>) {
        for _ in 0..100 {
            assert!(futures::poll!(requests.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_engine_with_steps_is_fed_by_rank_up_to_its_limit() {
        let (batcher, go, log) = stepper(2).await;
        let run = |steps, priority| batcher.run(Item::new(Number(steps)), priority);
        let requests = async { tokio::join!(run(5, 0), run(4, 0), run(3, -1), run(2, 0), run(1, 1)) };
        tokio::pin!(requests);
        settle(requests.as_mut()).await;
        go.send(()).unwrap();
        let (five, four, three, two, one) = requests.await;
        for (done, steps) in [(five, 5), (four, 4), (three, 3), (two, 2), (one, 1)] {
            assert_eq!(done.result.unwrap().seed, Some(steps));
            assert!(done.since <= done.could_begin && done.could_begin <= done.began);
        }
        let log = log.lock().unwrap();
        assert_eq!((log.joined[0] + log.joined[1], &log.joined[2..]), (9, &[1, 2, 3][..]));
        assert_eq!(log.most, 2);
    }

    #[tokio::test]
    async fn one_that_is_cancelled_while_it_waits_never_joins() {
        let (batcher, go, log) = stepper(1).await;
        let unwanted = Item::new(Number(2));
        let cancel = unwanted.cancel.clone();
        let requests = async {
            tokio::join!(
                batcher.run(Item::new(Number(3)), 0),
                batcher.run(unwanted, 0),
                batcher.run(Item::new(Number(1)), 0)
            )
        };
        tokio::pin!(requests);
        settle(requests.as_mut()).await;
        cancel.cancel();
        go.send(()).unwrap();
        let (first, unwanted, last) = requests.await;
        assert!(first.result.is_ok() && last.result.is_ok());
        assert_eq!(unwanted.result, Err(RunError::Cancelled));
        assert_eq!(log.lock().unwrap().joined, [3, 1]);
    }
}
