//! What is sent to the API server, by an API server that keeps objects in memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::build::fixtures::{defaults, observed, validated};
use crate::build::{Defaults, build};
use crate::queue::{Depth, QueueError, Reading};
use crate::retire::{Inputs, plan};
use crate::scale::decide;

/// A request as it arrived: method, path with query, body.
type Call = (Method, String, Value);

/// Objects by path, and what was asked.
#[derive(Default)]
struct Server {
    objects: std::collections::HashMap<String, Value>,
    calls: Vec<Call>,
    fail: bool,
    /// Part of the paths that cannot be written.
    broken: Option<&'static str>,
    images: Images,
}

/// What it does with image volumes.
#[derive(Default, Clone, Copy, PartialEq)]
enum Images {
    #[default]
    Known,
    LeftOut,
    /// The dry run is answered by another server, which knows them.
    LeftOutOfWrites,
    Unknown,
}

impl Server {
    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> (u16, Value) {
        let (path, body) = (uri.path().to_owned(), serde_json::from_slice(body).unwrap_or_default());
        self.calls.push((method.clone(), uri.to_string(), body));
        let failure = |code, reason| {
            (code, json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "m" }))
        };
        if self.fail || self.broken.is_some_and(|part| *method == Method::PATCH && path.contains(part)) {
            return failure(500, "InternalError");
        }
        match *method {
            Method::GET => {
                self.objects.get(&path).map_or_else(|| failure(404, "NotFound"), |object| (200, object.clone()))
            }
            Method::PATCH => {
                let mut object = self.calls.last().unwrap().2.clone();
                let dry_run = uri.query().is_some_and(|query| query.contains("dryRun=All"));
                if let Some(volumes) = object.pointer_mut("/spec/template/spec/volumes").and_then(Value::as_array_mut) {
                    let there = volumes.len();
                    let leaves_out = self.images != Images::LeftOutOfWrites || !dry_run;
                    volumes.retain(|volume| self.images == Images::Known || !leaves_out || volume["image"].is_null());
                    if self.images == Images::Unknown && volumes.len() < there {
                        let message =
                            r#".spec.template.spec.volumes[name="models"].image: field not declared in schema"#;
                        return (
                            500,
                            json!({ "kind": "Status", "status": "Failure", "code": 500, "message": message }),
                        );
                    }
                }
                if dry_run {
                    return (200, object);
                }
                let generation =
                    self.objects.get(&path).map_or(0, |o| o["metadata"]["generation"].as_i64().unwrap()) + 1;
                object["metadata"]["generation"] = json!(generation);
                object["metadata"]["resourceVersion"] = json!(generation.to_string());
                object["metadata"]["uid"] = json!(path);
                self.objects.insert(path, object.clone());
                (200, object)
            }
            Method::DELETE => {
                self.objects.remove(&path);
                (200, json!({ "kind": "Status", "status": "Success" }))
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }
}

struct Bench {
    server: Arc<Mutex<Server>>,
    client: Client,
    memory: Memory,
    /// The spec's changes, and their generation.
    spec: (Vec<(String, Value)>, i64),
    /// `status.appliedHash` of the last pass.
    told: Option<String>,
    built: usize,
    image: &'static str,
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/demo/deployments/sdxl";
const ACCOUNT: &str = "/api/v1/namespaces/demo/serviceaccounts/sdxl";

impl Bench {
    fn new() -> Self {
        let server = Arc::<Mutex<Server>>::default();
        let shared = Arc::clone(&server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&shared);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let (code, answer) = server.lock().unwrap().answer(&parts.method, &parts.uri, &body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Self {
            server,
            client: Client::new(service, "demo"),
            memory: Memory::default(),
            spec: (Vec::new(), 1),
            told: None,
            built: 0,
            image: "worker:1-cuda",
        }
    }

    /// A pass over a queue of this depth; `watched` is what the operator believes to be there.
    async fn pass(
        &mut self,
        changes: &[(&str, Value)],
        depth: Result<Depth, QueueError>,
        watched: bool,
    ) -> Result<Applied, ApplyError> {
        let consumer = self.consumer(changes);
        let seen = Observed {
            deployment: watched.then(|| self.object(DEPLOYMENT).map(Arc::new)).flatten(),
            pods: Vec::new(),
            ended: Vec::new(),
            terminating: Vec::new(),
            leaving: BTreeSet::new(),
            config_map: self.meta("/api/v1/namespaces/demo/configmaps/sdxl"),
            service_account: self.meta(ACCOUNT),
            budget: self.meta("/apis/policy/v1/namespaces/demo/poddisruptionbudgets/sdxl"),
            reading: Reading { at: Instant::now(), depth },
            shared_with: Vec::new(),
            workers: Vec::new(),
            history: self.memory.history.clone(),
            last_desired: 0,
        };
        let decision = decide(&consumer, &seen, Instant::now());
        let plan = plan(&Inputs::of(Some(&decision), &seen, &mut self.memory.pods, false, Instant::now()));
        if let Some(applied) = standing(&consumer, &plan, &seen, &self.memory) {
            return Ok(applied);
        }
        self.built += 1;
        let built = build(&consumer, &Defaults { cuda_image: self.image.into(), ..defaults() }).unwrap();
        let applied =
            Box::pin(apply(&self.client, &consumer, built, &decision, &plan, &seen, &mut self.memory)).await?;
        self.told = applied.hash.clone().or(self.told.take());
        Ok(applied)
    }

    /// With a generation that moves with the spec, and what the status tells.
    fn consumer(&mut self, changes: &[(&str, Value)]) -> Validated {
        let mut changes: Vec<(String, Value)> = changes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        if self.spec.0 != changes {
            self.spec = (changes.clone(), self.spec.1 + 1);
        }
        changes.push(("/metadata/generation".into(), json!(self.spec.1)));
        if let Some(told) = &self.told {
            changes.push(("/status".into(), json!({ "appliedHash": told })));
        }
        validated(&changes.iter().map(|(k, v)| (k.as_str(), v.clone())).collect::<Vec<_>>())
    }

    /// Another process goes on.
    fn restart(&mut self) {
        self.memory = Memory::default();
        self.built = 0;
        self.calls();
    }

    /// Paths of objects that were written.
    fn written(&self) -> Vec<String> {
        let patches = self.calls().into_iter().filter(|(method, ..)| *method == Method::PATCH);
        patches.map(|(_, uri, _)| uri.split('?').next().unwrap_or_default().to_owned()).collect()
    }

    /// Somebody changes an object, as the API server counts it.
    fn edit(&self, path: &str, change: impl Fn(&mut Value)) {
        let mut live: Value = self.object(path).unwrap();
        change(&mut live);
        let generation = live["metadata"]["generation"].as_i64().unwrap() + 1;
        live["metadata"]["generation"] = json!(generation);
        live["metadata"]["resourceVersion"] = json!(generation.to_string());
        self.put(path, live);
    }

    fn object<K: DeserializeOwned>(&self, path: &str) -> Option<K> {
        let server = self.server.lock().unwrap();
        server.objects.get(path).map(|object| serde_json::from_value(object.clone()).unwrap())
    }

    fn meta(&self, path: &str) -> Option<ObjectMeta> {
        let object: Value = self.object(path)?;
        serde_json::from_value(object["metadata"].clone()).ok()
    }

    fn put(&self, path: &str, object: Value) {
        self.server.lock().unwrap().objects.insert(path.into(), object);
    }

    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.server.lock().unwrap().calls)
    }

    /// The change of the count that is to be reported.
    fn scaled(&mut self) -> Option<(i32, i32)> {
        self.memory.unreported.take().map(|scale| (scale.from, scale.to))
    }

    /// Kubernetes has acted on the Deployment.
    fn settle(&self) {
        let mut live: Value = self.object(DEPLOYMENT).unwrap();
        live["status"] = json!({ "observedGeneration": live["metadata"]["generation"] });
        self.put(DEPLOYMENT, live);
    }

    fn replicas(&self) -> i32 {
        deployment_replicas(&self.object(DEPLOYMENT).unwrap())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a pass is given")]
fn visible(visible: i64) -> Result<Depth, QueueError> {
    Ok(Depth { visible, ..Depth::default() })
}

fn by_five() -> (&'static str, Value) {
    ("/spec/scaling", json!({ "target": { "messagesPerReplica": 5 }, "maxReplicas": 4 }))
}

#[tokio::test]
async fn everything_is_applied_once_with_one_field_manager() {
    let mut bench = Bench::new();
    let applied = bench.pass(&[by_five()], visible(0), true).await.unwrap();
    assert!(applied.created && bench.scaled().is_none(), "{applied:?}");
    let patches: Vec<Call> = bench.calls().into_iter().filter(|(method, ..)| *method == Method::PATCH).collect();
    assert_eq!(patches.len(), 4);
    for (_, uri, body) in &patches {
        assert!(uri.ends_with("force=true&fieldManager=millrace-operator"), "{uri}");
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        assert_eq!(body["metadata"]["ownerReferences"][0]["controller"], true);
    }
    assert_eq!(bench.replicas(), 0, "an apply always carries the count");
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    assert_eq!(bench.calls(), [], "a pass without news costs nothing");
    assert_eq!(bench.built, 1, "and builds nothing");
}

fn in_image(reference: &str) -> (&'static str, Value) {
    let source = json!({ "image": { "reference": reference } });
    ("/spec/model", json!({ "task": "TextToImage", "source": source }))
}

#[tokio::test]
async fn without_image_volumes_nothing_is_written() {
    for images in [Images::LeftOut, Images::Unknown] {
        let mut bench = Bench::new();
        bench.pass(&[by_five()], visible(5), true).await.unwrap();
        bench.written();
        bench.server.lock().unwrap().images = images;
        let error = bench.pass(&[by_five(), in_image("sdxl:1")], visible(5), true).await.unwrap_err();
        assert_eq!(error.reason(), "ImageVolumesUnsupported", "{error}");
        assert!(error.to_string().contains("feature gate ImageVolume"), "{error}");
        let calls = bench.calls();
        assert!(calls.iter().all(|(_, uri, _)| uri.contains("dryRun=All")), "workers stay as they are: {calls:?}");

        bench.server.lock().unwrap().images = Images::Known;
        bench.pass(&[by_five(), in_image("sdxl:1")], visible(5), true).await.unwrap();
        let live: Value = bench.object(DEPLOYMENT).unwrap();
        let volumes = live["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.last().unwrap()["image"]["reference"], "sdxl:1");
    }
}

#[tokio::test]
async fn an_image_volume_is_tried_once() {
    let mut bench = Bench::new();
    let tried = |bench: &Bench| bench.calls().iter().filter(|(_, uri, _)| uri.contains("dryRun=All")).count();
    bench.pass(&[by_five(), in_image("sdxl:1")], visible(5), true).await.unwrap();
    assert_eq!(tried(&bench), 1);
    bench.pass(&[by_five(), in_image("sdxl:1")], visible(20), true).await.unwrap();
    assert_eq!((bench.replicas(), tried(&bench)), (4, 0), "another count");
    bench.pass(&[by_five(), in_image("sdxl:2")], visible(20), true).await.unwrap();
    assert_eq!(tried(&bench), 1);
}

#[tokio::test]
async fn an_image_volume_that_got_lost_is_written_again() {
    let mut bench = Bench::new();
    bench.server.lock().unwrap().images = Images::LeftOutOfWrites;
    bench.pass(&[by_five(), in_image("sdxl:1")], visible(5), true).await.unwrap();
    bench.server.lock().unwrap().images = Images::Known;
    bench.pass(&[by_five(), in_image("sdxl:1")], visible(5), true).await.unwrap();
    let live: Value = bench.object(DEPLOYMENT).unwrap();
    assert!(live["spec"]["template"]["spec"]["volumes"].to_string().contains("sdxl:1"), "{live}");
}

#[tokio::test]
async fn a_restart_writes_nothing_where_all_is_as_it_was_left() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(5), true).await.unwrap();
    bench.restart();
    for built in [1, 1] {
        let applied = bench.pass(&[by_five()], Err(QueueError::NotReadYet), true).await.unwrap();
        assert_eq!((applied.replicas, applied.hash.as_ref(), bench.built), (1, bench.told.as_ref(), built));
    }
    assert_eq!(bench.calls(), []);
    bench.restart();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!(bench.written(), [DEPLOYMENT], "another count is one write also then");
}

#[tokio::test]
async fn a_restart_puts_back_what_changed_meanwhile() {
    const CONFIG: &str = "/api/v1/namespaces/demo/configmaps/sdxl";
    let image = |live: &mut Value| live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    let bare = |live: &mut Value| drop(live["spec"]["template"]["spec"].as_object_mut().unwrap().remove("containers"));
    let data = |live: &mut Value| live["data"] = json!({});
    let edits = [(DEPLOYMENT, &image as &dyn Fn(&mut Value)), (DEPLOYMENT, &bare), (CONFIG, &data)];
    for (path, change) in edits {
        let mut bench = Bench::new();
        bench.pass(&[by_five()], visible(20), true).await.unwrap();
        let left: Value = bench.object(path).unwrap();
        bench.edit(path, change);
        bench.restart();
        bench.pass(&[by_five()], visible(20), true).await.unwrap();
        assert_eq!(bench.written().len(), 4);
        let live: Value = bench.object(path).unwrap();
        assert_eq!((&live["spec"], &live["data"]), (&left["spec"], &left["data"]));
    }
}

#[tokio::test]
async fn a_restart_applies_what_is_new_gone_or_untold() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    let all = bench.written();
    bench.image = "worker:2-cuda";
    bench.restart();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!(bench.written(), all, "a newer operator wants something else");
    bench.server.lock().unwrap().objects.remove(ACCOUNT);
    bench.restart();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!(bench.written(), all);
    bench.told = None;
    bench.restart();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!(bench.written(), all);
}

#[tokio::test]
async fn a_decided_count_is_one_write_of_one_object() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    bench.calls();
    let applied = bench.pass(&[by_five()], visible(50), true).await.unwrap();
    assert_eq!((bench.scaled(), applied.rollout.len()), (Some((0, 4)), 0));
    let calls = bench.calls();
    assert_eq!(calls.iter().map(|(method, ..)| method.as_str()).collect::<Vec<_>>(), ["GET", "PATCH"]);
    assert!(calls.iter().all(|(_, uri, _)| uri.starts_with(DEPLOYMENT)));
    assert_eq!(calls[1].2["spec"]["replicas"], 4);
    assert_eq!(calls[1].2["metadata"]["uid"], DEPLOYMENT, "the very object that was read");
}

#[tokio::test]
async fn a_change_is_to_be_reported_also_where_something_fails_after_it() {
    let mut bench = Bench::new();
    bench.server.lock().unwrap().broken = Some("poddisruptionbudgets");
    let error = bench.pass(&[by_five()], visible(50), true).await.unwrap_err();
    assert!(error.to_string().contains("PodDisruptionBudget"), "{error}");
    assert_eq!((bench.replicas(), bench.scaled()), (4, Some((0, 4))));
}

#[tokio::test]
async fn an_unknown_depth_carries_the_live_count() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!(bench.scaled(), Some((0, 4)));
    let mut live: Value = bench.object(DEPLOYMENT).unwrap();
    live["spec"]["replicas"] = json!(7);
    bench.put(DEPLOYMENT, live);
    let image = ("/spec/worker/image", json!("other:2"));
    let applied = bench.pass(&[by_five(), image], Err(QueueError::NotReadYet), true).await.unwrap();
    assert_eq!(bench.replicas(), 7);
    assert_eq!(bench.scaled(), None);
    assert_eq!(applied.rollout, ["image worker:1-cuda → other:2"]);
}

#[tokio::test]
async fn a_count_that_moved_under_the_decision_stays() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    assert_eq!((bench.replicas(), bench.scaled()), (4, Some((0, 4))));
    // Not seen by the watch yet: decided as if there were none.
    let applied = bench.pass(&[by_five()], visible(0), false).await.unwrap();
    assert!(applied.moved && bench.scaled().is_none(), "{applied:?}");
    assert_eq!(bench.replicas(), 4);
}

#[tokio::test]
async fn the_plan_s_count_is_written_and_told_with_what_it_waits_for() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(20), true).await.unwrap();
    bench.scaled();
    let consumer = validated(&[by_five()]);
    let seen = Observed { deployment: bench.object(DEPLOYMENT).map(Arc::new), ..observed() };
    let decision = crate::scale::Decision { desired: 1, ..decide(&consumer, &seen, Instant::now()) };
    let waits = Some("1 of 2 workers that are to go finishes its jobs first: a".to_owned());
    let plan = crate::retire::Plan { replicas: 3, waits, ..Default::default() };
    let built = build(&consumer, &defaults()).unwrap();
    let applied = apply(&bench.client, &consumer, built, &decision, &plan, &seen, &mut bench.memory);
    Box::pin(applied).await.unwrap();
    assert_eq!(bench.replicas(), 3);
    let scale = bench.memory.unreported.take().unwrap();
    assert_eq!((scale.from, scale.to), (4, 3));
    assert!(scale.message.ends_with("; 1 of 2 workers that are to go finishes its jobs first: a"), "{}", scale.message);
}

#[tokio::test]
async fn what_somebody_changed_is_put_back() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    let mut live: Value = bench.object(DEPLOYMENT).unwrap();
    live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    live["metadata"]["generation"] = json!(9);
    bench.put(DEPLOYMENT, live);
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    let live: Value = bench.object(DEPLOYMENT).unwrap();
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["image"], "worker:1-cuda");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_touched() {
    for owner in
        [json!([]), json!([{ "apiVersion": "v1", "kind": "X", "name": "x", "uid": "other", "controller": true }])]
    {
        let mut bench = Bench::new();
        bench.put(
            DEPLOYMENT,
            json!({ "metadata": { "name": "sdxl", "generation": 1, "uid": "u", "ownerReferences": owner } }),
        );
        let error = bench.pass(&[by_five()], visible(50), false).await.unwrap_err();
        assert_eq!(error.reason(), "NameTaken");
        assert!(error.to_string().contains("Deployment sdxl"), "{error}");
        let touched =
            bench.calls().into_iter().any(|(method, uri, _)| method != Method::GET && uri.starts_with(DEPLOYMENT));
        assert!(!touched);
    }
}

#[tokio::test]
async fn an_unreadable_deployment_is_not_applied() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    bench.calls();
    bench.server.lock().unwrap().fail = true;
    let error = bench.pass(&[by_five()], visible(50), true).await.unwrap_err();
    assert_eq!(error.reason(), "ApplyFailed");
    assert!(bench.calls().iter().all(|(method, ..)| *method == Method::GET));
}

#[tokio::test]
async fn the_own_service_account_goes_when_another_is_named() {
    let mut bench = Bench::new();
    bench.pass(&[by_five()], visible(0), true).await.unwrap();
    let named = ("/spec/worker/serviceAccountName", json!("mine"));
    for _ in 0..2 {
        bench.pass(&[by_five(), named.clone()], visible(0), true).await.unwrap();
        assert!(bench.meta(ACCOUNT).is_some(), "workers that use it are still to be replaced");
    }
    bench.settle();
    bench.pass(&[by_five(), named.clone()], visible(0), true).await.unwrap();
    assert!(bench.meta(ACCOUNT).is_none());
    let deletes: Vec<Call> = bench.calls().into_iter().filter(|(method, ..)| *method == Method::DELETE).collect();
    assert_eq!(deletes.len(), 1);
    assert_eq!(deletes[0].2["preconditions"]["uid"], ACCOUNT);

    bench.put(ACCOUNT, json!({ "metadata": { "name": "sdxl", "uid": "theirs" } }));
    bench.pass(&[by_five(), named], visible(0), true).await.unwrap();
    assert!(bench.meta(ACCOUNT).is_some(), "somebody else's stays");
}
