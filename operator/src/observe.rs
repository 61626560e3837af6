//! Everything that a pass reads, read once at its beginning: children, pods, the queue's last reading and the workers'
//! own reports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use millrace_api::{QueueConsumer, ScalingMode, is_fifo};

use crate::clock;
use crate::memory::Memory;
use crate::pod;
use crate::queue::{Outlook, QueueAddress, Queues, Read, Reading, Trigger, interval};
use crate::scale::History;
use crate::validate::Validated;
use crate::workers::{Report, Watched, Worker, WorkerClient};
use crate::world::{World, child};

/// Workers are asked no more often than this.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(5);
/// A pass that comes a little early counts as on time.
const SLACK: Duration = Duration::from_millis(500);

/// Everything that a pass reads.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) deployment: Option<Arc<Deployment>>,
    /// Pods of this consumer that ended for good and are still listed.
    pub(crate) ended: Vec<Arc<Pod>>,
    /// Pods of this consumer that have not ended and are not being deleted.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Pods of this consumer that are being deleted: they still hold what they asked for.
    pub(crate) terminating: Vec<Arc<Pod>>,
    /// Names of those of `pods` whose node goes.
    pub(crate) leaving: BTreeSet<String>,
    pub(crate) config_map: Option<ObjectMeta>,
    pub(crate) service_account: Option<ObjectMeta>,
    pub(crate) budget: Option<ObjectMeta>,
    pub(crate) reading: Reading,
    /// Other QueueConsumers of the same queue.
    pub(crate) shared_with: Vec<String>,
    /// What workers said; empty while there are none.
    pub(crate) workers: Vec<Worker>,
    pub(crate) history: History,
    /// `status.desiredReplicas` of the last pass.
    pub(crate) last_desired: i32,
}

impl Observed {
    /// Workers that are asked for now. Before there is a Deployment: what it begins with, never fewer than were wanted.
    pub(crate) fn replicas(&self, spec: &Validated) -> i32 {
        let scaling = &spec.spec().scaling;
        match &self.deployment {
            Some(deployment) => deployment_replicas(deployment),
            // What it would be is not what it is.
            None if scaling.mode == ScalingMode::DryRun => scaling.min_replicas,
            None => self.last_desired.clamp(scaling.min_replicas, scaling.max_replicas.max(scaling.min_replicas)),
        }
    }

    /// Workers that take up room: asked for or there, and those that are ending.
    pub(crate) fn held(&self, replicas: i32) -> (i32, i32) {
        (replicas.max(count(&self.pods)), count(&self.terminating))
    }

    /// Whether pods of an older template are still there, or Kubernetes has not seen the newest one yet.
    pub(crate) fn rolling(&self) -> bool {
        let Some(deployment) = &self.deployment else { return false };
        let status = deployment.status.clone().unwrap_or_default();
        status.observed_generation < deployment.metadata.generation || self.replacing()
    }

    /// Whether pods of an older template are still there. A new count alone is no reason for that.
    pub(crate) fn replacing(&self) -> bool {
        let status = self.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
        status.is_some_and(|s| s.updated_replicas.unwrap_or_default() < s.replicas.unwrap_or_default())
    }
}

/// `spec.replicas`, which Kubernetes takes as 1 where it is missing.
pub(crate) fn deployment_replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Where things are read.
pub(crate) struct Sources<'a, R> {
    pub(crate) world: &'a World,
    pub(crate) queues: &'a Queues<R>,
    pub(crate) workers: &'a WorkerClient,
    pub(crate) watched: &'a Watched,
    pub(crate) trigger: &'a Trigger,
}

/// Reads everything.
pub(crate) async fn observe<R: Read>(
    consumer: &QueueConsumer,
    sources: &Sources<'_, R>,
    memory: &mut Memory,
) -> Observed {
    let world = sources.world;
    let deployment = child(&world.deployments, consumer);
    let Pods { terminating, ended, here: pods } = pods(world, consumer);
    let key = ObjectRef::from(consumer);
    sources.watched.follow(&key, &pods, sources.workers, sources.trigger);
    let workers = ask(&pods, sources, &key, memory).await;
    let (reading, shared_with) = if let Ok(address) = QueueAddress::of(&consumer.spec.queue) {
        let replicas = deployment.as_deref().map_or(0, deployment_replicas);
        let scaling = &consumer.spec.scaling;
        let outlook = Outlook {
            target: scaling.target.queue_delay_seconds,
            working: !pods.is_empty() || replicas > 0,
            // On a FIFO queue it says only that no message group is free. Where the counts of before say otherwise, they
            // are old.
            receives_nothing: !is_fifo(&consumer.spec.queue.url)
                && memory.depth.is_some_and(|depth| depth.is_idle())
                && workers.iter().any(Worker::receives_nothing),
            at_most: replicas >= scaling.max_replicas,
            calm: memory.history.is_calm(clock::seconds(Instant::now())),
        };
        let reading = sources.queues.read(&key, &address, interval(&outlook), sources.trigger);
        (reading, sources.queues.sharing(&key, &address))
    } else {
        sources.queues.forget(&key);
        (Reading::none(Instant::now()), Vec::new())
    };
    let status = memory.status.as_ref().or(consumer.status.as_ref());
    Observed {
        deployment,
        leaving: pods.iter().filter(|pod| world.is_leaving(pod)).map(|pod| pod.name_any()).collect(),
        pods,
        ended,
        terminating,
        config_map: child(&world.config_maps, consumer).map(|object| object.metadata.clone()),
        service_account: child(&world.service_accounts, consumer).map(|object| object.metadata.clone()),
        budget: child(&world.budgets, consumer).map(|object| object.metadata.clone()),
        reading,
        shared_with,
        workers,
        history: memory.history.clone(),
        last_desired: status.map_or(0, |status| status.desired_replicas),
    }
}

/// Workers of a consumer that take up room, before anything else is known about it.
pub(crate) fn held(world: &World, consumer: &QueueConsumer) -> (i32, i32) {
    let replicas = child(&world.deployments, consumer).as_deref().map_or(0, deployment_replicas);
    let Pods { terminating, here, .. } = pods(world, consumer);
    (replicas.max(count(&here)), count(&terminating))
}

fn count(pods: &[Arc<Pod>]) -> i32 {
    i32::try_from(pods.len()).unwrap_or(i32::MAX)
}

/// A consumer's pods.
struct Pods {
    /// Being deleted.
    terminating: Vec<Arc<Pod>>,
    /// Ended for good.
    ended: Vec<Arc<Pod>>,
    /// All others.
    here: Vec<Arc<Pod>>,
}

fn pods(world: &World, consumer: &QueueConsumer) -> Pods {
    let pods = world.pods.of(&ObjectRef::from(consumer));
    let (terminating, pods): (Vec<_>, Vec<_>) =
        pods.into_iter().partition(|pod| pod.metadata.deletion_timestamp.is_some());
    let (ended, here) = pods.into_iter().partition(|pod| pod::has_ended(pod));
    Pods { terminating, ended, here }
}

/// Asks the workers, unless that was done a moment ago and there are no others now. What they said since then by
/// themselves counts.
async fn ask<R: Read>(
    pods: &[Arc<Pod>],
    sources: &Sources<'_, R>,
    key: &ObjectRef<QueueConsumer>,
    memory: &mut Memory,
) -> Vec<Worker> {
    let same =
        |workers: &[Worker]| workers.iter().map(|w| &w.pod).eq(pods.iter().filter_map(|p| p.metadata.name.as_ref()));
    let (asked, mut workers) = match memory.workers.take() {
        Some((asked, workers)) if same(&workers) && asked.elapsed() + SLACK < ASK_EVERY => (asked, workers),
        _ if pods.is_empty() => (Instant::now(), Vec::new()),
        _ => (Instant::now(), sources.workers.ask(pods).await),
    };
    for (worker, pod) in workers.iter_mut().zip(pods) {
        if let Some(state) = sources.watched.since(key, pod, asked) {
            worker.report = Report::State(Box::new(state));
        }
    }
    memory.workers = Some((asked, workers.clone()));
    workers
}
