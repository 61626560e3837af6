//! The plan in virtual time: how often a queue is read, who is told, and when it stops.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::queue::Depth;

/// A queue whose depth the test sets.
struct Fake {
    depth: Arc<Mutex<Result<Depth, QueueError>>>,
    calls: Arc<AtomicU32>,
}

impl Read for Fake {
    async fn read(&self, _: &QueueAddress) -> Result<Depth, QueueError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.depth.lock().unwrap().clone()
    }
}

struct Bench {
    queues: Queues<Fake>,
    depth: Arc<Mutex<Result<Depth, QueueError>>>,
    calls: Arc<AtomicU32>,
    trigger: Trigger,
    triggered: mpsc::UnboundedReceiver<Key>,
}

impl Bench {
    fn new() -> Self {
        let (depth, calls) = (Arc::new(Mutex::new(Ok(Depth::default()))), Arc::default());
        let (trigger, triggered) = mpsc::unbounded_channel();
        let fake = Fake { depth: Arc::clone(&depth), calls: Arc::clone(&calls) };
        Self { queues: Queues::new(fake, Arc::default()), depth, calls, trigger, triggered }
    }

    fn read(&self, name: &str, url: &str, seconds: u64) -> Reading {
        self.queues.read(&key(name), &address(url), Duration::from_secs(seconds), &self.trigger)
    }

    /// How many calls are made while so much time goes by.
    async fn calls_in(&self, time: Duration) -> u32 {
        let before = self.calls.load(Ordering::Relaxed);
        for _ in 0..time.as_secs() {
            advance(Duration::from_secs(1)).await;
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        self.calls.load(Ordering::Relaxed) - before
    }

    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(key) = self.triggered.try_recv() {
            names.push(key.name);
        }
        names.sort();
        names
    }
}

fn key(name: &str) -> Key {
    ObjectRef::new(name).within("demo")
}

fn address(url: &str) -> QueueAddress {
    QueueAddress { url: url.into(), name: "prompts".into(), region: "us-east-1".into(), endpoint: None }
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn an_idle_queue_is_read_at_most_six_times_a_minute_however_often_it_is_asked_for() {
    let bench = Bench::new();
    for _ in 0..100 {
        bench.read("a", "q", 10);
        bench.read("b", "q", 10);
    }
    let calls = bench.calls_in(10 * MINUTE).await;
    assert!((40..=60).contains(&calls), "{calls} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_interval_counts_at_once() {
    let bench = Bench::new();
    bench.read("a", "q", 10);
    bench.calls_in(Duration::from_secs(6)).await;
    bench.read("a", "q", 5);
    assert_eq!(bench.calls_in(Duration::from_secs(1)).await, 1, "6 s after the last reading");
    let calls = bench.calls_in(MINUTE).await;
    assert!((10..=12).contains(&calls), "{calls} in a minute");
}

#[tokio::test(start_paused = true)]
async fn consumers_are_told_of_changes_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.read("a", "q", 5).depth, Err(QueueError::NotReadYet));
    bench.read("b", "q", 5);
    bench.calls_in(MINUTE).await;
    assert_eq!(bench.names(), ["a", "b"], "the first reading, then nothing new");
    *bench.depth.lock().unwrap() = Ok(Depth { visible: 50, ..Depth::default() });
    bench.calls_in(Duration::from_secs(6)).await;
    assert_eq!(bench.names(), ["a", "b"]);
    assert_eq!(bench.read("a", "q", 5).depth.unwrap().visible, 50);
    *bench.depth.lock().unwrap() = Err(QueueError::NotFound { queue: "q".into(), place: "p".into() });
    bench.calls_in(5 * MINUTE).await;
    assert_eq!(bench.names(), ["a", "b"], "an error that stays is told once");
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_is_missing_changes_nothing_and_many_do() {
    let mut bench = Bench::new();
    let ok = Ok(Depth { visible: 7, ..Depth::default() });
    let throttled = Err(QueueError::Throttled { queue: "q".into(), detail: "slow".into() });
    (*bench.depth.lock().unwrap()).clone_from(&ok);
    bench.read("a", "q", 5);
    bench.calls_in(Duration::from_secs(2)).await;
    assert_eq!(bench.names(), ["a"]);
    (*bench.depth.lock().unwrap()).clone_from(&throttled);
    assert!(bench.calls_in(Duration::from_secs(14)).await >= 2, "it is tried again soon");
    assert_eq!((bench.names(), bench.read("a", "q", 5).depth), (Vec::new(), ok));
    bench.calls_in(2 * MINUTE).await;
    assert_eq!((bench.names(), bench.read("a", "q", 5).depth), (vec!["a".to_owned()], throttled));
}

#[tokio::test(start_paused = true)]
async fn who_shares_a_queue_is_known() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.read(name, if name == "c" { "other" } else { "q" }, 10);
    }
    assert_eq!(bench.queues.sharing(&key("a"), &address("q")), ["demo/b"]);
    assert!(bench.queues.sharing(&key("c"), &address("other")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_wants_is_not_read() {
    let bench = Bench::new();
    bench.read("a", "q", 5);
    bench.read("b", "q", 5);
    bench.queues.forget(&key("a"));
    assert!(bench.calls_in(MINUTE).await > 0, "b still wants it");
    bench.queues.forget(&key("b"));
    assert_eq!(bench.calls_in(MINUTE).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_moves_leaves_its_old_queue() {
    let bench = Bench::new();
    bench.read("a", "old", 5);
    bench.read("a", "new", 5);
    assert_eq!(bench.queues.shared.pollers().by_queue.len(), 1);
    assert!(bench.queues.sharing(&key("b"), &address("old")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_consumers_that_are_gone() {
    let bench = Bench::new();
    for name in ["a", "b"] {
        bench.read(name, "old", 5);
        bench.read(name, "new", 5);
    }
    assert_eq!(bench.queues.sharing(&key("a"), &address("new")), ["demo/b"]);
    for name in ["a", "b", "never seen"] {
        bench.queues.forget(&key(name));
    }
    let pollers = bench.queues.shared.pollers();
    assert_eq!((pollers.by_queue.len(), pollers.queue_of.len()), (0, 0));
}
