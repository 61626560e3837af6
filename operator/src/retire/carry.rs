//! Does what a plan says to workers and to their pods. What fails is said, and tried again by the next pass: nothing goes
//! that was not drained and marked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use millrace_api::{Activity, QueueConsumer, WorkerState};
use serde_json::json;
use tokio::time::timeout_at;

use super::candidate::{Kept, age, id};
use super::marks::Marks;
use super::plan::{Plan, Wanted};
use crate::apply::FIELD_MANAGER;
use crate::error::{CallError, within};
use crate::memory::Memory;
use crate::observe::Observed;
use crate::workers::{DrainError, Order, Report, Wakes, Watched, WorkerClient, activity};

/// One worker is told something no more often than this, unless it is something else.
const TELL_EVERY: Duration = Duration::from_millis(4500);
/// What was written and is not seen yet is not written again before this.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// Requests at the same time, to workers and to the API server.
const CONCURRENCY: usize = 16;
/// Time for all answers of workers together.
const ANSWERS: Duration = Duration::from_secs(3);
/// The next look where a worker has just drained.
const SOON: Duration = Duration::from_millis(200);

/// Who does it, for one QueueConsumer.
pub(crate) struct Hands<'a> {
    pub(crate) client: &'a Client,
    pub(crate) workers: &'a WorkerClient,
    pub(crate) watched: &'a Watched,
    pub(crate) key: ObjectRef<QueueConsumer>,
}

/// Does what the plan says. Adds to the plan what could not be done, and when to look again.
pub(crate) async fn carry_out(hands: &Hands<'_>, plan: &mut Plan, seen: &Observed, memory: &mut Memory, now: Instant) {
    let pods: HashMap<String, Arc<Pod>> = seen.pods.iter().map(|pod| (pod.name_any(), Arc::clone(pod))).collect();
    let work: Vec<(&Wanted, Arc<Pod>)> =
        plan.pods.iter().filter_map(|wanted| Some((wanted, Arc::clone(pods.get(&wanted.pod)?)))).collect();
    let mut troubles = Vec::new();
    let drained = tell(hands, &work, seen, memory, &mut troubles, now).await;
    mark(hands.client, &work, memory, &mut troubles, now).await;
    delete(hands.client, &work, memory, &mut troubles, now).await;
    let waited = plan.waits.is_some();
    for (wanted, pod) in &work {
        let wakes = Wakes { busy: !wanted.marks.protected, quiet: waited || wanted.drain };
        hands.watched.wakes(&hands.key, pod, wakes);
    }
    if drained {
        plan.recheck = Some(plan.recheck.map_or(SOON, |recheck| recheck.min(SOON)));
    }
    if let Some(trouble) = troubles.into_iter().next() {
        plan.waits = Some(plan.waits.take().map_or_else(|| trouble.clone(), |waits| format!("{waits}; {trouble}")));
    }
}

/// Tells workers to drain or to take jobs again. True where one has drained by that.
async fn tell(
    hands: &Hands<'_>,
    work: &[(&Wanted, Arc<Pod>)],
    seen: &Observed,
    memory: &mut Memory,
    troubles: &mut Vec<String>,
    now: Instant,
) -> bool {
    let client = hands.workers;
    if !client.signs() {
        return false;
    }
    let state = |name: &str| seen.workers.iter().find(|worker| worker.pod == name).and_then(|worker| worker.state());
    let orders = work.iter().filter_map(|(wanted, pod)| {
        let kept = memory.pods.get(&id(pod))?;
        Some((order(wanted, kept, state(&wanted.pod), now)?, Arc::clone(pod)))
    });
    let mut orders: Vec<(Order, Arc<Pod>)> = orders.collect();
    // Those that did not answer just now may not do so now either: they must not hold up the others.
    orders.sort_by_key(|(_, pod)| state(&pod.name_any()).is_none());
    let until = tokio::time::Instant::now() + ANSWERS;
    let told = stream::iter(orders).map(async |(order, pod)| {
        let answer = timeout_at(until, client.tell(&pod, order)).await;
        (order, answer.unwrap_or(Err(DrainError::Silent)), pod)
    });
    let told: Vec<_> = told.buffer_unordered(CONCURRENCY).collect().await;
    let mut drained = false;
    for (order, answer, pod) in told {
        let name = pod.name_any();
        let kept = memory.pods.entry(id(&pod)).or_default();
        let first = kept.asked.is_none_or(|(before, _)| before != order);
        kept.asked = Some((order, now));
        let before = kept.drained;
        if order == Order::Resume {
            // Also where the answer is lost: it may take jobs again.
            kept.drained = None;
        }
        match answer {
            Ok(after) => {
                if first {
                    tracing::info!(pod = name, ?order, activity = activity(&after).word(), "the worker was told");
                }
                kept.refuses = None;
                if order == Order::Drain {
                    kept.drained = Some(now);
                    drained |= before.is_none() && activity(&after) == Activity::Drained;
                }
                memory.heard(&name, after.clone());
                hands.watched.told(&hands.key, &pod, after);
            }
            Err(DrainError::Unknown) => {
                if kept.unable.replace(now).is_none() {
                    tracing::info!(pod = name, "the worker's image knows no drain: its own reports must do");
                }
            }
            // Between two looks its container has ended.
            Err(DrainError::Impossible) => {}
            Err(error) => {
                if first {
                    tracing::warn!(pod = name, ?order, %error, "the worker was not told");
                }
                if matches!(error, DrainError::Refused { .. }) {
                    kept.refuses.get_or_insert(now);
                }
                if order == Order::Drain {
                    troubles.push(format!("worker {name}: {error}"));
                }
            }
        }
    }
    drained
}

/// What a worker is to be told now, if anything.
fn order(wanted: &Wanted, kept: &Kept, state: Option<&WorkerState>, now: Instant) -> Option<Order> {
    let drains = kept.drained.is_some() || state.is_some_and(|state| state.draining);
    let order = match () {
        () if kept.is_unable(now) => return None,
        () if wanted.drain => Order::Drain,
        () if drains => Order::Resume,
        () => return None,
    };
    let lately = |at: Instant| age(at, now) < TELL_EVERY;
    (!kept.asked.is_some_and(|(before, at)| before == order && lately(at))).then_some(order)
}

/// Writes annotations where pods bear others.
async fn mark(
    client: &Client,
    work: &[(&Wanted, Arc<Pod>)],
    memory: &mut Memory,
    troubles: &mut Vec<String>,
    now: Instant,
) {
    let differs = |wanted: &Wanted, pod: &Pod| {
        let written = memory.pods.get(&id(pod)).and_then(|kept| kept.written);
        let waits = written.is_some_and(|(marks, at)| marks == wanted.marks && age(at, now) < WRITE_EVERY);
        Marks::of(pod) != wanted.marks && !waits && !wanted.delete
    };
    let writes: Vec<(Marks, Arc<Pod>)> =
        work.iter().filter(|(w, pod)| differs(w, pod)).map(|(w, pod)| (w.marks, Arc::clone(pod))).collect();
    let written = stream::iter(writes).map(async |(marks, pod)| (marks, write(client, &pod, marks).await, pod));
    let written: Vec<_> = written.buffer_unordered(CONCURRENCY).collect().await;
    for (marks, result, pod) in written {
        match result {
            Ok(()) => memory.pods.entry(id(&pod)).or_default().written = Some((marks, now)),
            Err(error) => troubles.push(failed("annotated", &pod, &error)),
        }
    }
}

/// Server-side apply of all that the operator wants on a pod, onto that very pod.
async fn write(client: &Client, pod: &Pod, marks: Marks) -> Result<(), CallError> {
    let name = pod.name_any();
    let patch = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "uid": pod.uid(), "annotations": marks.annotations() },
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    gone_is_fine(within(api(client, pod).patch(&name, &parameters, &Patch::Apply(&patch))).await.map(drop))
}

/// Deletes drained pods of nodes that leave, so that others come elsewhere.
async fn delete(
    client: &Client,
    work: &[(&Wanted, Arc<Pod>)],
    memory: &mut Memory,
    troubles: &mut Vec<String>,
    now: Instant,
) {
    for (_, pod) in work.iter().filter(|(wanted, _)| wanted.delete) {
        let kept = memory.pods.entry(id(pod)).or_default();
        if kept.deleted.is_some_and(|at| age(at, now) < WRITE_EVERY) {
            continue;
        }
        let same = Preconditions { uid: pod.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        let name = pod.name_any();
        match gone_is_fine(within(api(client, pod).delete(&name, &parameters)).await.map(drop)) {
            Ok(()) => {
                kept.deleted = Some(now);
                tracing::info!(pod = name, "its node leaves and it holds no job: another pod takes its place");
            }
            Err(error) => troubles.push(failed("deleted", pod, &error)),
        }
    }
}

fn api(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}

/// A pod that is gone, or another one of its name, needs nothing.
fn gone_is_fine(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        result => result,
    }
}

fn failed(what: &str, pod: &Pod, error: &CallError) -> String {
    let trouble = format!("pod {} cannot be {what}: {error}", pod.name_any());
    tracing::warn!("{trouble}");
    trouble
}

impl Memory {
    /// A worker has just said this.
    fn heard(&mut self, pod: &str, state: WorkerState) {
        let workers = self.workers.iter_mut().flat_map(|(_, workers)| workers);
        if let Some(worker) = workers.into_iter().find(|worker| worker.pod == pod) {
            worker.report = Report::State(Box::new(state));
        }
    }
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
