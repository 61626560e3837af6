//! Names, labels and annotations of what is built.

use std::collections::BTreeMap;

/// The value of `app.kubernetes.io/managed-by`; the operator watches only what carries it.
pub(crate) const MANAGED_BY: &str = "millrace";
/// The value of `app.kubernetes.io/name`.
const APP: &str = "millrace-worker";
/// The worker container.
pub(crate) const CONTAINER: &str = "worker";
/// The container of a model server beside it.
pub(crate) const SERVER: &str = "server";
/// Where the model cache is mounted, in the worker and in a server beside it.
pub(crate) const CACHE_FOLDER: &str = "/var/cache/millrace";
/// The volume of it.
pub(crate) const CACHE_VOLUME: &str = "cache";
/// Memory that a model server's processes share.
pub(super) const SHARED_MEMORY: &str = "shared-memory";
/// What a model server may write to, besides the cache.
pub(super) const SERVER_TMP: &str = "server-tmp";
/// Volumes of every pod, or of some: a spec's own have other names.
pub(crate) const VOLUMES: [&str; 6] = ["config", CACHE_VOLUME, "tmp", "models", SHARED_MEMORY, SERVER_TMP];
/// What is mounted in a model server whatever its spec says.
pub(crate) const SERVER_MOUNTS: [&str; 3] = ["/dev/shm", "/tmp", CACHE_FOLDER];
/// Where a worker serves /state and its probes.
pub(crate) const PORT: u16 = 8080;
/// The key of worker.yaml in the ConfigMap, and its file name.
pub(crate) const CONFIG_FILE: &str = "worker.yaml";
/// What a pod keeps of its grace period for returning jobs and closing connections.
pub(crate) const SHUTDOWN_MARGIN_SECONDS: i64 = 15;
/// What millrace's own annotations begin with.
pub(crate) const ANNOTATION_PREFIX: &str = "millrace.dev/";
/// On the pod template: a new worker.yaml makes new pods.
pub(crate) const CONFIG_HASH: &str = "millrace.dev/config-hash";
/// On the Deployment: what its pod template is made from, so that a rollout can be told in words.
pub(super) const TEMPLATE_PARTS: &str = "millrace.dev/template";

pub(crate) const LABEL_NAME: &str = "app.kubernetes.io/name";
pub(crate) const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub(crate) const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
const LABEL_VERSION: &str = "app.kubernetes.io/version";

/// Labels that a spec may not set.
pub(crate) const OWN_LABELS: [&str; 6] =
    [LABEL_NAME, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_PART_OF, LABEL_COMPONENT, LABEL_VERSION];

/// What the Deployment and the PodDisruptionBudget find pods by. Never changes: a Deployment's selector cannot.
pub(super) fn selector(consumer: &str) -> BTreeMap<String, String> {
    [(LABEL_NAME, APP), (LABEL_INSTANCE, consumer)].into_iter().map(owned).collect()
}

/// Labels of pods. Without the version, which would roll every worker at each upgrade of the operator.
pub(super) fn pod_labels(consumer: &str) -> BTreeMap<String, String> {
    let more = [(LABEL_MANAGED_BY, MANAGED_BY), (LABEL_PART_OF, "millrace"), (LABEL_COMPONENT, "worker")];
    selector(consumer).into_iter().chain(more.into_iter().map(owned)).collect()
}

/// Labels of objects.
pub(super) fn labels(consumer: &str, version: &str) -> BTreeMap<String, String> {
    let mut labels = pod_labels(consumer);
    labels.insert(LABEL_VERSION.into(), version.into());
    labels
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.into(), value.into())
}
