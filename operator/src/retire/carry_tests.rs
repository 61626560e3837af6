//! What workers and the API server are told, by a worker and an API server that write it down.

use std::sync::Mutex;

use axum::Router;
use axum::routing::get;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::build::fixtures::observed;
use crate::retire::drain_key;
use crate::workers::Worker;

type Calls = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// An API server that says yes, or answers with a code.
fn server(code: u16) -> (Client, Calls) {
    let calls = Calls::default();
    let shared = Arc::clone(&calls);
    let service = tower::service_fn(move |request: Request<Body>| {
        let calls = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            calls.lock().unwrap().push((parts.method.clone(), parts.uri.to_string(), body));
            let reason = match code {
                404 => "NotFound",
                409 => "Conflict",
                _ => "Forbidden",
            };
            let failure = json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "not allowed" });
            let answer = if code == 200 { json!({ "metadata": { "name": "a" } }) } else { failure };
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    (Client::new(service, "demo"), calls)
}

/// A worker that drains at once, or answers with a code.
async fn worker(code: u16, told: Arc<Mutex<Vec<Method>>>) -> WorkerClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let drain = move |method: Method| async move {
        let draining = method == Method::POST;
        told.lock().unwrap().push(method);
        let activity = if draining { Activity::Drained } else { Activity::Idle };
        let state = WorkerState { activity, draining, ready: true, ..WorkerState::default() };
        (StatusCode::from_u16(code).unwrap(), serde_json::to_string(&state).unwrap())
    };
    let app = Router::new()
        .route("/drain", axum::routing::post(drain.clone()).delete(drain))
        .route("/state", get(async || "{}"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    WorkerClient::signing_on_port(port, drain_key().0)
}

/// Passes over one pod `a`.
struct Bench {
    client: Client,
    calls: Calls,
    workers: WorkerClient,
    told: Arc<Mutex<Vec<Method>>>,
    memory: Memory,
    activity: Activity,
    bears: Marks,
    now: Instant,
}

impl Bench {
    async fn new(api: u16, worker_code: u16) -> Self {
        let (client, calls) = server(api);
        let told = Arc::default();
        let workers = worker(worker_code, Arc::clone(&told)).await;
        let memory = Memory::default();
        let (activity, bears, now) = (Activity::Idle, Marks::default(), Instant::now());
        Self { client, calls, workers, told, memory, activity, bears, now }
    }

    async fn pass(&mut self, drain: bool, marks: Marks, delete: bool) -> Plan {
        let pod = json!({
            "metadata": { "name": "a", "namespace": "demo", "uid": "uid-a", "annotations": self.bears.annotations() },
            "status": { "podIP": "127.0.0.1", "containerStatuses": [
                { "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }
            ] },
        });
        let state = WorkerState {
            activity: self.activity,
            draining: matches!(self.activity, Activity::Draining | Activity::Drained),
            ..WorkerState::default()
        };
        let workers = vec![Worker { pod: "a".into(), report: Report::State(Box::new(state)) }];
        self.memory.workers = Some((self.now, workers.clone()));
        self.memory.pods.entry("uid-a".into()).or_default();
        let pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
        let seen = Observed { pods, workers, ..observed() };
        let mut plan = Plan { pods: vec![Wanted { pod: "a".into(), drain, marks, delete }], ..Plan::default() };
        let watched = Watched::default();
        let key = ObjectRef::new("sdxl").within("demo");
        let hands = Hands { client: &self.client, workers: &self.workers, watched: &watched, key };
        carry_out(&hands, &mut plan, &seen, &mut self.memory, self.now).await;
        plan
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap()).iter().map(ToString::to_string).collect()
    }

    fn calls(&self) -> Vec<(Method, String, Value)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

const NONE: Marks = Marks { goes: false, protected: false };
const GOES: Marks = Marks { goes: true, protected: false };
const PROTECTED: Marks = Marks { goes: false, protected: true };

#[tokio::test]
async fn a_drain_is_asked_for_renewed_and_taken_back() {
    let mut bench = Bench::new(200, 200).await;
    let plan = bench.pass(true, NONE, false).await;
    assert_eq!((bench.told(), plan.recheck), (vec!["POST".to_owned()], Some(SOON)));
    let said = bench.memory.workers.as_ref().unwrap().1[0].state().unwrap().activity;
    assert_eq!(said, Activity::Drained, "the answer counts at once");
    bench.activity = Activity::Drained;
    bench.later(3);
    bench.pass(true, NONE, false).await;
    assert!(bench.told().is_empty(), "not yet");
    bench.later(2);
    let plan = bench.pass(true, NONE, false).await;
    assert_eq!((bench.told(), plan.recheck), (vec!["POST".to_owned()], None));
    bench.pass(false, NONE, false).await;
    assert_eq!(bench.told(), ["DELETE"], "at once");
    assert!(bench.memory.pods["uid-a"].drained.is_none());
    bench.activity = Activity::Idle;
    bench.later(5);
    bench.pass(false, NONE, false).await;
    assert!(bench.told().is_empty());
    bench.activity = Activity::Drained;
    bench.pass(false, NONE, false).await;
    assert_eq!(bench.told(), ["DELETE"], "one that drains unasked, as after a restart");
    assert_eq!(bench.calls(), []);
}

#[tokio::test]
async fn an_older_worker_is_asked_once_and_one_that_refuses_again() {
    let mut old = Bench::new(200, 404).await;
    old.pass(true, NONE, false).await;
    old.later(9);
    old.pass(true, NONE, false).await;
    assert_eq!(old.told().len(), 1);
    assert!(old.memory.pods["uid-a"].is_unable(old.now));
    let mut stern = Bench::new(200, 403).await;
    for _ in 0..2 {
        let plan = stern.pass(true, NONE, false).await;
        assert!(plan.waits.unwrap().starts_with("worker a: it refuses to drain with 403"));
        stern.later(5);
    }
    assert_eq!(stern.told().len(), 2);
    let kept = &stern.memory.pods["uid-a"];
    assert!(kept.drained.is_none() && kept.refuses.is_some_and(|since| since < stern.now));
}

#[tokio::test]
async fn marks_are_one_apply_onto_the_very_pod() {
    let mut bench = Bench::new(200, 200).await;
    bench.pass(false, Marks { goes: true, protected: true }, false).await;
    let calls = bench.calls();
    assert_eq!(calls.len(), 1);
    let (method, uri, body) = &calls[0];
    assert_eq!(*method, Method::PATCH);
    assert_eq!(uri, "/api/v1/namespaces/demo/pods/a?&force=true&fieldManager=millrace-operator");
    let metadata = json!({ "name": "a", "uid": "uid-a", "annotations": {
        "controller.kubernetes.io/pod-deletion-cost": "-1000",
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    } });
    assert_eq!(*body, json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata }));
    bench.pass(false, Marks { goes: true, protected: true }, false).await;
    assert_eq!(bench.calls(), [], "the watch has not shown it yet");
    bench.bears = Marks { goes: true, protected: true };
    bench.later(60);
    bench.pass(false, bench.bears, false).await;
    assert_eq!(bench.calls(), []);
    bench.pass(false, NONE, false).await;
    assert_eq!(bench.calls()[0].2["metadata"]["annotations"], json!({}), "what is left out goes");
}

#[tokio::test]
async fn marks_that_change_twice_are_written_twice() {
    let mut bench = Bench::new(200, 200).await;
    for marks in [PROTECTED, GOES] {
        bench.pass(false, marks, false).await;
        assert_eq!(bench.calls().len(), 1, "{marks:?}");
    }
}

#[tokio::test]
async fn a_drained_pod_of_a_leaving_node_is_deleted_once_and_only_that_pod() {
    let mut bench = Bench::new(200, 200).await;
    for _ in 0..2 {
        bench.pass(false, GOES, true).await;
    }
    let calls = bench.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!((&calls[0].0, calls[0].1.as_str()), (&Method::DELETE, "/api/v1/namespaces/demo/pods/a?"));
    assert_eq!(calls[0].2["preconditions"], json!({ "uid": "uid-a" }));
}

#[tokio::test]
async fn what_kubernetes_refuses_is_said_and_what_is_gone_is_not() {
    let mut refused = Bench::new(403, 200).await;
    let plan = refused.pass(false, GOES, false).await;
    assert_eq!(plan.waits.as_deref(), Some("pod a cannot be annotated: not allowed"));
    let plan = refused.pass(false, NONE, true).await;
    assert_eq!(plan.waits.as_deref(), Some("pod a cannot be deleted: not allowed"));
    for code in [404, 409] {
        let mut gone = Bench::new(code, 200).await;
        assert_eq!(gone.pass(false, GOES, false).await.waits, None);
        assert_eq!(gone.pass(false, NONE, true).await.waits, None);
    }
}

#[tokio::test]
async fn without_a_key_nobody_is_told() {
    let mut bench = Bench::new(200, 200).await;
    bench.workers = WorkerClient::default();
    bench.activity = Activity::Drained;
    bench.pass(true, NONE, false).await;
    bench.pass(false, NONE, false).await;
    assert!(bench.told().is_empty());
}
