//! The watched part of the cluster, in one namespace or all: QueueConsumers and what carries
//! `app.kubernetes.io/managed-by=millrace`. Objects are trimmed to what is read before they are kept.

use std::fmt::Debug;
use std::future::ready;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodSpec, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{PredicateConfig, WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use millrace_api::QueueConsumer;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::build::names::{LABEL_MANAGED_BY, MANAGED_BY};
use crate::retire;
use crate::roster::Roster;

/// Objects that the API server is asked for at a time: a page is in memory as it came, with all that is trimmed away.
const PAGE: u32 = 100;

/// Where to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everywhere.
    Cluster,
    /// In one namespace.
    Namespace(String),
}

impl Scope {
    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, client: &Client) -> Api<K> {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
        }
    }
}

/// Objects as they were last seen.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) consumers: Store<QueueConsumer>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) pods: Roster,
    pub(crate) config_maps: Store<PartialObjectMeta<ConfigMap>>,
    pub(crate) service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(crate) budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    /// None in one namespace: there is no right to see them.
    nodes: Option<Store<Node>>,
    listing: Arc<Listing>,
}

/// How many kinds were not listed yet. A store's own `wait_until_ready` wakes only the last of those that wait for it.
struct Listing(watch::Sender<usize>);

impl Listing {
    /// Something to call with each event of a watch, after its store has taken it.
    fn of<K>(self: &Arc<Self>) -> impl FnMut(&watcher::Event<K>) + Send + 'static {
        let mut listing = Some(Arc::clone(self));
        self.0.send_modify(|missing| *missing += 1);
        move |event| {
            if matches!(event, watcher::Event::InitDone)
                && let Some(listing) = listing.take()
            {
                listing.0.send_modify(|missing| *missing -= 1);
            }
        }
    }
}

/// A kind that is watched by label.
trait Labelled:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Labelled for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Objects of one kind as they change. Errors are logged, and the watch goes on.
pub(crate) type Changes<K> = futures::stream::BoxStream<'static, Result<K, watcher::Error>>;

/// What changes, to be driven by the controller.
pub(crate) struct Watches {
    pub(crate) consumers: Changes<QueueConsumer>,
    pub(crate) deployments: Changes<Deployment>,
    pub(crate) pods: Changes<Pod>,
    pub(crate) config_maps: Changes<PartialObjectMeta<ConfigMap>>,
    pub(crate) service_accounts: Changes<PartialObjectMeta<ServiceAccount>>,
    pub(crate) budgets: Changes<PartialObjectMeta<PodDisruptionBudget>>,
    pub(crate) nodes: Changes<Node>,
}

impl World {
    /// Begins to watch. `gone` is called when QueueConsumers may have been deleted.
    pub(crate) fn watch(
        client: &Client,
        scope: &Scope,
        gone: impl Fn(&Store<QueueConsumer>) + Send + 'static,
    ) -> (Self, Watches) {
        let listing = Arc::new(Listing(watch::Sender::new(0)));
        let (consumers, writer) = reflector::store();
        let store = consumers.clone();
        let mut listed = listing.of();
        let seen = watcher(scope.api::<QueueConsumer>(client), watcher::Config::default().page_size(PAGE))
            .default_backoff()
            .modify(trim_consumer)
            .reflect(writer)
            .inspect_ok(move |event| {
                listed(event);
                if matches!(event, watcher::Event::Delete(_) | watcher::Event::InitDone) {
                    gone(&store);
                }
            })
            // A change of the status alone is the operator's own.
            .applied_objects()
            .predicate_filter(predicates::generation, PredicateConfig::default());
        let consumer_changes = logged("QueueConsumers", seen);
        let (deployments, deployment_changes) = children(client, scope, &listing, "Deployments", trim_deployment);
        let pods = Roster::default();
        let pod_changes = changes(client, scope, &listing, "Pods", trim_pod, pods.writer());
        let (config_maps, config_map_changes) = children(client, scope, &listing, "ConfigMaps", trim_meta);
        let (service_accounts, service_account_changes) =
            children(client, scope, &listing, "ServiceAccounts", trim_meta);
        let (budgets, budget_changes) = children(client, scope, &listing, "PodDisruptionBudgets", trim_meta);
        let (nodes, node_changes) = nodes(client, scope);
        let watches = Watches {
            consumers: consumer_changes,
            deployments: deployment_changes,
            pods: pod_changes,
            config_maps: config_map_changes,
            service_accounts: service_account_changes,
            budgets: budget_changes,
            nodes: node_changes,
        };
        (Self { consumers, deployments, pods, config_maps, service_accounts, budgets, nodes, listing }, watches)
    }

    /// Whether a pod's node goes. A node that is not known stays.
    pub(crate) fn is_leaving(&self, pod: &Pod) -> bool {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = name.and_then(|name| self.nodes.as_ref()?.get(&ObjectRef::new(name)));
        node.is_some_and(|node| retire::is_left(&node, pod))
    }

    /// Waits until everything was listed once.
    pub(crate) async fn listed(&self) {
        // An error would mean that the sender is gone, which lives as long as this world.
        let _ = self.listing.0.subscribe().wait_for(|missing| *missing == 0).await;
    }
}

/// A child of a consumer carries its name.
pub(crate) fn child<K>(store: &Store<K>, consumer: &QueueConsumer) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(&consumer.name_any()).within(&consumer.namespace().unwrap_or_default()))
}

fn children<K: Labelled>(
    client: &Client,
    scope: &Scope,
    listing: &Arc<Listing>,
    kind: &'static str,
    trim: fn(&mut K),
) -> (Store<K>, Changes<K>) {
    let (store, mut writer) = reflector::store();
    let keep = move |event: &watcher::Event<K>| writer.apply_watcher_event(event);
    (store, changes(client, scope, listing, kind, trim, keep))
}

/// What carries millrace's label, trimmed; `keep` gets each event before anybody hears of it.
fn changes<K: Labelled>(
    client: &Client,
    scope: &Scope,
    listing: &Arc<Listing>,
    kind: &'static str,
    trim: fn(&mut K),
    mut keep: impl FnMut(&watcher::Event<K>) + Send + 'static,
) -> Changes<K> {
    let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}")).page_size(PAGE);
    let mut listed = listing.of();
    let seen = watcher(scope.api::<K>(client), ours)
        .default_backoff()
        .modify(move |object| {
            trim(object);
            object.managed_fields_mut().clear();
        })
        .inspect_ok(move |event| {
            keep(event);
            listed(event);
        })
        .touched_objects()
        .predicate_filter(predicates::resource_version, PredicateConfig::default());
    logged(kind, seen)
}

/// Keeps errors from the controller, which would hold back all its triggers for one that fails.
fn logged<K: Send + 'static>(
    kind: &'static str,
    changes: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> Changes<K> {
    let logged = changes.filter_map(move |change| {
        ready(match change {
            Ok(object) => Some(Ok(object)),
            Err(error) => {
                tracing::warn!(kind, %error, "watching failed; trying again");
                None
            }
        })
    });
    logged.boxed()
}

/// Nodes, where they may be seen. Passes do not wait for them: where the right is missing, no node leaves.
fn nodes(client: &Client, scope: &Scope) -> (Option<Store<Node>>, Changes<Node>) {
    if *scope != Scope::Cluster {
        return (None, futures::stream::pending().boxed());
    }
    let (store, writer) = reflector::store();
    let seen = watcher(Api::<Node>::all(client.clone()), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(retire::trim_node)
        .reflect(writer)
        .touched_objects()
        .predicate_filter(|node: &Node| Some(retire::fate(node)), PredicateConfig::default());
    (Some(store), logged("Nodes", seen))
}

/// What it is called, whose it is and which revision: whether it is as it was applied, the API server tells by that.
fn trim_meta<K: Resource>(object: &mut K) {
    object.annotations_mut().clear();
    object.labels_mut().clear();
}

fn trim_deployment(deployment: &mut Deployment) {
    trim_meta(deployment);
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.spec = Some(DeploymentSpec { replicas, ..DeploymentSpec::default() });
}

fn trim_consumer(consumer: &mut QueueConsumer) {
    consumer.managed_fields_mut().clear();
    // kubectl's copy of the whole object.
    consumer.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

fn trim_pod(pod: &mut Pod) {
    retire::trim_annotations(pod);
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        tolerations: spec.tolerations.map(|all| all.into_iter().filter(retire::matters).collect()),
        // So that trouble with the model's image is told from trouble with the worker's.
        volumes: spec.volumes.map(|all| all.into_iter().filter(|volume| volume.image.is_some()).collect()),
        ..PodSpec::default()
    });
    if let Some(status) = &mut pod.status {
        status.pod_ips = None;
        status.host_ips = None;
        let containers = status.container_statuses.iter_mut().chain(&mut status.init_container_statuses);
        for container in containers.flatten() {
            container.volume_mounts = None;
            container.allocated_resources = None;
            container.resources = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_keeps_the_node_and_the_model_s_image() {
        let pod = json!({ "metadata": { "name": "sdxl-1" }, "spec": {
            "containers": [{ "name": "worker", "image": "worker:1" }],
            "nodeName": "a",
            "volumes": [{ "name": "tmp", "emptyDir": {} }, { "name": "models", "image": { "reference": "sdxl:1" } }],
        } });
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        trim_pod(&mut pod);
        let left = json!({
            "containers": [],
            "nodeName": "a",
            "volumes": [{ "name": "models", "image": { "reference": "sdxl:1" } }],
        });
        assert_eq!(serde_json::to_value(pod.spec).unwrap(), left);
    }
}
