//! What a worker pod says of itself, for all who judge it. Times are seconds since 1970.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::clock;

/// It has a node.
pub(crate) fn is_assigned(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| !node.is_empty())
}

/// When it was made.
pub(crate) fn created(pod: &Pod) -> Option<f64> {
    pod.metadata.creation_timestamp.as_ref().map(|time| clock::of(time.0))
}

/// Since when it is ready; none while it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<f64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(0.0, |time| clock::of(time.0)))
}

/// It ended for good. Kubernetes keeps those that it evicted, and makes others in their place.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Its containers, as the kubelet last told: the worker's, and that of a model server beside it.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    })
}

/// Why a container waits that does not run, in Kubernetes' word.
pub(crate) fn waits_for(container: &ContainerStatus) -> Option<&str> {
    container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// Whether a container that waits so is just being made, and nothing is wrong.
pub(crate) fn is_being_made(waits_for: &str) -> bool {
    matches!(waits_for, "" | "ContainerCreating" | "PodInitializing")
}
