//! What is told about a pass when the API server fails in the middle of it.

use std::sync::Mutex;

use http::{Request, Response};
use kube::client::Body;
use kube::runtime::events::Reporter;
use serde_json::{Value, json};

use super::*;
use crate::apply::Applied;
use crate::build::fixtures::{defaults, observed, validated, with};
use crate::queue::{Depth, QueueAddress, QueueError, Reading};

struct Unread;

impl Read for Unread {
    async fn read(&self, _: &QueueAddress) -> Result<Depth, QueueError> {
        Err(QueueError::NotReadYet)
    }
}

/// An API server that refuses the first status and keeps the others.
fn context(statuses: &Arc<Mutex<Vec<Value>>>) -> Context<Unread> {
    let (statuses, refused) = (Arc::clone(statuses), Arc::new(Mutex::new(false)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (statuses, refused) = (Arc::clone(&statuses), Arc::clone(&refused));
        async move {
            let is_status = request.uri().path().ends_with("/status");
            let bytes = request.into_body().collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            let (code, answer) = if is_status && !std::mem::replace(&mut *refused.lock().unwrap(), true) {
                let failure = json!({ "kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500, "message": "m" });
                (500, failure)
            } else if is_status {
                statuses.lock().unwrap().push(body["status"].clone());
                (200, serde_json::to_value(&*with(&[])).unwrap())
            } else {
                (200, body)
            };
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    let client = Client::new(service, "demo");
    let metrics = Arc::<Metrics>::default();
    Context {
        defaults: defaults(),
        queues: Queues::new(Unread, Arc::clone(&metrics)),
        workers: WorkerClient::default(),
        watched: Watched::default(),
        recorder: Recorder::new(client.clone(), Reporter::from("test")),
        metrics,
        memories: Memories::default(),
        ledger: Ledger::default(),
        client,
    }
}

#[tokio::test]
async fn a_change_of_the_count_is_told_until_a_status_has_it() {
    let statuses = Arc::default();
    let context = context(&statuses);
    let consumer = with(&[]);
    let seen = observed();
    let scale = json!({ "time": "2026-11-23T00:00:00Z", "from": 0, "to": 4, "reason": "QueueDelay", "message": "m" });
    let memory = context.memories.of(&ObjectRef::from(&*consumer));
    let mut memory = memory.lock().await;
    memory.unreported = serde_json::from_value(scale.clone()).unwrap();
    let decision = Box::new(decide(&validated(&[]), &seen, Instant::now()));
    let refused = ApplyError::Refused { kind: "PodDisruptionBudget", name: "sdxl".into(), message: "no".into() };
    let outcome = Outcome::Failed(decision, refused);
    let first = tell(&consumer, &context, &seen, &outcome, &mut memory).await;
    assert_eq!(first.unwrap_err().reason(), "StatusNotWritten");
    assert!(memory.unreported.is_some());
    tell(&consumer, &context, &seen, &outcome, &mut memory).await.unwrap();
    assert!(memory.unreported.is_none());
    tell(&consumer, &context, &seen, &outcome, &mut memory).await.unwrap();
    let statuses = statuses.lock().unwrap();
    assert_eq!(statuses.len(), 1, "then there is nothing new");
    assert_eq!((&statuses[0]["lastScale"], &statuses[0]["desiredReplicas"]), (&scale, &json!(4)));
}

#[tokio::test]
async fn after_a_restart_the_status_stands_until_the_queue_is_read() {
    let statuses = Arc::default();
    let context = context(&statuses);
    let decided = |seen: &Observed| {
        let decision = Box::new(decide(&validated(&[]), seen, Instant::now()));
        Outcome::Done(decision, Box::default(), Box::default())
    };
    let read = Observed { reading: Reading { at: Instant::now(), depth: Ok(Depth::default()) }, ..observed() };
    let before = QueueConsumerStatus::default();
    let before = status::compute(&with(&[]), &read, &decided(&read), &before, None, Timestamp::UNIX_EPOCH);
    let consumer = with(&[("/status", serde_json::to_value(&before).unwrap())]);
    let next = with(&[("/status", serde_json::to_value(&before).unwrap()), ("/metadata/generation", json!(4))]);
    let unread = |seconds| {
        let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        Observed { reading: Reading::none(at), ..observed() }
    };
    let created = |seen: &Observed| {
        let Outcome::Done(decision, _, plan) = decided(seen) else { panic!("not done") };
        Outcome::Done(decision, Box::new(Applied { created: true, ..Applied::default() }), plan)
    };
    let five = Observed {
        reading: Reading { at: Instant::now(), depth: Ok(Depth { delayed: 5, ..Depth::default() }) },
        ..observed()
    };
    let table = [
        ("nothing was read yet", &consumer, unread(1), false),
        ("nothing was read for long", &consumer, unread(31), true),
        ("the status is of an older spec", &next, unread(1), true),
        ("it is as it was", &consumer, read, false),
        ("other counts", &consumer, five, false),
    ];
    for (what, consumer, seen, written) in table {
        let (mut memory, outcome) = (Memory::default(), decided(&seen));
        // The API server refuses the first one.
        let told = match tell(consumer, &context, &seen, &outcome, &mut memory).await {
            Err(_) => None,
            told => told.unwrap(),
        };
        assert_eq!(memory.status.as_ref() != Some(&before), written, "{what}");
        assert!(told.is_none_or(|wait| wait <= FIRST_READING), "{what}");
    }
    let seen = unread(1);
    tell(&consumer, &context, &seen, &created(&seen), &mut Memory::default()).await.unwrap();
    assert_eq!(statuses.lock().unwrap().len(), 2, "what was done is told");
}

#[tokio::test]
async fn passes_come_in_the_order_of_their_asking() {
    let (turns, order) = (Turns::new(CancellationToken::new()), Mutex::new(Vec::new()));
    let (most, now) = (Mutex::new(0_usize), Mutex::new(0_usize));
    let pass = |number: usize| {
        let (order, most, now) = (&order, &most, &now);
        turns.take(async move {
            order.lock().unwrap().push(number);
            *now.lock().unwrap() += 1;
            let running = *now.lock().unwrap();
            let so_far = *most.lock().unwrap();
            *most.lock().unwrap() = so_far.max(running);
            // the later ones are quicker
            tokio::time::sleep(Duration::from_micros(200 - number as u64)).await;
            *now.lock().unwrap() -= 1;
        })
    };
    futures::future::join_all((0..100).map(pass)).await;
    assert_eq!(order.into_inner().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(most.into_inner().unwrap(), CONCURRENCY);
}

#[tokio::test]
async fn who_waits_for_a_turn_does_not_hold_up_the_end() {
    let stop = CancellationToken::new();
    let turns = Turns::new(stop.clone());
    let taken = turns.free.acquire_many(CONCURRENCY as u32).await.unwrap();
    let waiting = turns.take(async { panic!("it is not its turn") });
    let stopped = async {
        tokio::task::yield_now().await;
        stop.cancel();
    };
    assert_eq!(tokio::join!(waiting, stopped).0, None::<()>);
    drop(taken);
    assert_eq!(turns.take(async {}).await, None, "nor does anything begin after it");
}
