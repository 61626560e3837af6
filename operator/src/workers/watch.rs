//! A task for each worker that runs: it hears at once when the worker's activity changes, and wakes a pass where that
//! matters to one.
//!
//! Passes come every 5 to 30 s. A worker that has just begun a job is to be protected sooner than that, and one that is
//! drained is to go sooner.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use millrace_api::{Activity, QueueConsumer, WorkerState};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::WorkerClient;
use super::client::address;
use crate::queue::Trigger;

/// Tasks at the same time. Workers beyond that are asked by passes alone.
const LIMIT: usize = 2000;
/// A worker that goes back and forth is heard no more often than this.
pub(crate) const PACE: Duration = Duration::from_secs(1);
/// A worker that answers at once without news does not know how to wait, and is asked again after this.
const UNWILLING: Duration = Duration::from_secs(5);
/// Longest wait for a worker that does not answer.
const LONGEST: Duration = Duration::from_secs(30);

type Key = ObjectRef<QueueConsumer>;

/// Which changes of a worker wake a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wakes {
    /// It begins to work: it is not protected yet.
    pub(crate) busy: bool,
    /// It has nothing to do any more: somebody waits for that.
    pub(crate) quiet: bool,
}

impl Default for Wakes {
    fn default() -> Self {
        Self { busy: true, quiet: false }
    }
}

impl Wakes {
    fn by(self, activity: Activity) -> bool {
        match activity {
            Activity::Busy => self.busy,
            Activity::Idle | Activity::Drained => self.quiet,
            Activity::Starting | Activity::Draining => false,
        }
    }
}

/// All workers that are listened to.
#[derive(Default)]
pub(crate) struct Watched {
    tasks: Mutex<HashMap<Key, HashMap<String, Task>>>,
}

struct Task {
    ip: IpAddr,
    heard: Arc<Mutex<Heard>>,
    handle: AbortHandle,
}

/// What a worker said last, and which news matter.
#[derive(Default)]
struct Heard {
    last: Option<(Instant, WorkerState)>,
    wakes: Wakes,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Watched {
    /// From now on these pods of a consumer are listened to, and no others.
    pub(crate) fn follow(&self, key: &Key, pods: &[Arc<Pod>], client: &WorkerClient, trigger: &Trigger) {
        let running: HashMap<String, IpAddr> = pods.iter().filter_map(|pod| Some((id(pod), address(pod)?))).collect();
        let mut tasks = self.tasks();
        let mut room = LIMIT.saturating_sub(tasks.values().map(HashMap::len).sum());
        let own = tasks.entry(key.clone()).or_default();
        own.retain(|id, task| running.get(id) == Some(&task.ip) && !task.handle.is_finished());
        for (id, ip) in running {
            if room > 0 && !own.contains_key(&id) {
                room -= 1;
                let heard = Arc::<Mutex<Heard>>::default();
                let listening = listen(client.clone(), ip, Arc::clone(&heard), key.clone(), trigger.clone());
                own.insert(id, Task { ip, heard, handle: tokio::spawn(listening).abort_handle() });
            }
        }
        if own.is_empty() {
            tasks.remove(key);
        }
    }

    /// What a pod's worker said after `then`.
    pub(crate) fn since(&self, key: &Key, pod: &Pod, then: Instant) -> Option<WorkerState> {
        let tasks = self.tasks();
        let heard = &tasks.get(key)?.get(&id(pod))?.heard;
        lock(heard).last.as_ref().filter(|(at, _)| *at > then).map(|(_, state)| state.clone())
    }

    /// A pod's worker has just said this in answer to something else.
    pub(crate) fn told(&self, key: &Key, pod: &Pod, state: WorkerState) {
        if let Some(task) = self.tasks().get(key).and_then(|tasks| tasks.get(&id(pod))) {
            lock(&task.heard).last = Some((Instant::now(), state));
        }
    }

    /// Which changes of a pod's worker are to wake a pass.
    pub(crate) fn wakes(&self, key: &Key, pod: &Pod, wakes: Wakes) {
        if let Some(task) = self.tasks().get(key).and_then(|tasks| tasks.get(&id(pod))) {
            lock(&task.heard).wakes = wakes;
        }
    }

    /// A consumer is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.tasks().remove(key);
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<Key, HashMap<String, Task>>> {
        lock(&self.tasks)
    }
}

/// Which pod: another one may come under the same name.
fn id(pod: &Pod) -> String {
    pod.uid().unwrap_or_else(|| pod.name_any())
}

/// Listens to one worker until it is aborted.
async fn listen(client: WorkerClient, ip: IpAddr, heard: Arc<Mutex<Heard>>, key: Key, trigger: Trigger) {
    let (mut known, mut failures) = (None, 0_u32);
    loop {
        let asked = tokio::time::Instant::now();
        let Some(state) = client.change(ip, known).await else {
            failures = failures.saturating_add(1);
            sleep(PACE.saturating_mul(1 << failures.min(5)).min(LONGEST)).await;
            continue;
        };
        failures = 0;
        let activity = state.activity;
        let news = known.replace(activity) != Some(activity);
        let wake = {
            let mut heard = lock(&heard);
            heard.last = Some((Instant::now(), state));
            news && heard.wakes.by(activity)
        };
        if wake {
            // Nobody listens only when the operator stops.
            let _ = trigger.send(key.clone());
        }
        let next = if !news && asked.elapsed() < PACE { UNWILLING } else { PACE };
        sleep(next.saturating_sub(asked.elapsed())).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::RawQuery;
    use axum::routing::get;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    fn pod(uid: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": "a", "uid": uid },
            "status": { "podIP": "127.0.0.1", "containerStatuses": [
                { "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }
            ] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// A worker that is idle when first asked, busy a moment later, and stays so.
    async fn worker(questions: Arc<AtomicUsize>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = move |RawQuery(query): RawQuery| async move {
            questions.fetch_add(1, Ordering::Relaxed);
            let activity = match query.as_deref() {
                None => Activity::Idle,
                Some("unless=Idle&wait=20") => Activity::Busy,
                Some(_) => std::future::pending().await,
            };
            serde_json::to_string(&WorkerState { activity, ..WorkerState::default() }).unwrap()
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/state", get(state))).await });
        port
    }

    #[tokio::test]
    async fn a_worker_that_begins_a_job_wakes_its_consumer_and_one_that_is_gone_is_left_alone() {
        let questions = Arc::default();
        let client = WorkerClient::on_port(worker(Arc::clone(&questions)).await);
        let (trigger, mut triggered) = mpsc::unbounded_channel();
        let (watched, key) = (Watched::default(), ObjectRef::new("sdxl").within("demo"));
        let start = Instant::now();
        for _ in 0..3 {
            watched.follow(&key, &[pod("1")], &client, &trigger);
        }
        let woken = timeout(Duration::from_secs(10), triggered.recv()).await.unwrap();
        assert_eq!(woken, Some(key.clone()));
        let state = watched.since(&key, &pod("1"), start).unwrap();
        assert_eq!(state.activity, Activity::Busy, "being idle woke nobody");
        assert!(watched.since(&key, &pod("1"), Instant::now()).is_none());
        assert!(watched.since(&key, &pod("2"), start).is_none(), "another pod of the same name");
        assert!(questions.load(Ordering::Relaxed) <= 3, "one task only");
        watched.follow(&key, &[], &client, &trigger);
        assert!(watched.tasks().is_empty());
    }

    #[test]
    fn only_what_somebody_waits_for_wakes() {
        let protected = Wakes { busy: false, quiet: true };
        assert!(!protected.by(Activity::Busy) && protected.by(Activity::Drained) && protected.by(Activity::Idle));
        let idle = Wakes::default();
        assert!(idle.by(Activity::Busy) && !idle.by(Activity::Idle) && !idle.by(Activity::Starting));
    }
}
