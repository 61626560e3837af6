//! Which nodes leave: those that Karpenter, Cluster Autoscaler or a spot notice has marked, that are cordoned, or that
//! are being deleted. A node that is not ready is none of them: it may come back.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint, Toleration};
use kube::ResourceExt as _;

/// Taints of a node that is about to go: Karpenter's, its older one, and Cluster Autoscaler's.
const LEAVING: [&str; 3] = ["karpenter.sh/disrupted", "karpenter.sh/disruption", "ToBeDeletedByClusterAutoscaler"];
/// What the taints of aws-node-termination-handler begin with: a spot interruption and its siblings.
const LEAVING_PREFIX: &str = "aws-node-termination-handler/";
/// The taint of a cordoned node, which pods that tolerate it are still sent to.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// Leaves a node what is read of it.
pub(crate) fn trim_node(node: &mut Node) {
    node.managed_fields_mut().clear();
    node.annotations_mut().clear();
    node.labels_mut().clear();
    node.status = None;
    node.spec = node.spec.take().map(|spec| NodeSpec {
        taints: spec.taints.map(|taints| taints.into_iter().filter(says_so).collect()),
        unschedulable: spec.unschedulable,
        ..NodeSpec::default()
    });
}

/// Leaves a pod the tolerations that are read: those of the taints above.
pub(crate) fn matters(toleration: &Toleration) -> bool {
    toleration.key.as_deref().is_none_or(|key| key.is_empty() || key == CORDONED || is_leaving(key))
}

/// Changes when a node begins to leave, or stays after all.
pub(crate) fn fate(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.uid().hash(&mut hasher);
    reasons(node).for_each(|taint| taint.key.hash(&mut hasher));
    node.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    hasher.finish()
}

/// Whether a node goes from under a pod. A mark that the pod tolerates is none: a pod in its place might come to the same
/// node, again and again.
pub(crate) fn is_left(node: &Node, pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_some()
        || reasons(node).any(|taint| !tolerations.iter().any(|t| tolerates(t, &taint)))
}

/// The marks of a node that leaves, as taints.
fn reasons(node: &Node) -> impl Iterator<Item = Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let cordoned = spec.unschedulable == Some(true);
    let cordon = Taint { key: CORDONED.into(), effect: "NoSchedule".into(), ..Taint::default() };
    spec.taints.into_iter().flatten().filter(says_so).chain(cordoned.then_some(cordon))
}

fn says_so(taint: &Taint) -> bool {
    is_leaving(&taint.key)
}

fn is_leaving(key: &str) -> bool {
    LEAVING.contains(&key) || key.starts_with(LEAVING_PREFIX)
}

/// As the scheduler judges it.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: &Value) -> Node {
        let status = json!({ "conditions": [{ "type": "Ready", "status": "False" }] });
        let mut node =
            serde_json::from_value(json!({ "metadata": { "name": "n" }, "spec": spec, "status": status })).unwrap();
        trim_node(&mut node);
        node
    }

    fn pod(tolerations: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [], "tolerations": tolerations } }))
            .unwrap()
    }

    fn tainted(key: &str) -> Value {
        json!({ "taints": [{ "key": key, "effect": "NoSchedule" }] })
    }

    #[test]
    fn what_says_that_a_node_leaves() {
        let table = [
            (json!({}), false),
            (json!({ "unschedulable": true }), true),
            (tainted("karpenter.sh/disrupted"), true),
            (tainted("karpenter.sh/disruption"), true),
            (tainted("ToBeDeletedByClusterAutoscaler"), true),
            (tainted("aws-node-termination-handler/spot-itn"), true),
            (tainted("aws-node-termination-handler/asg-lifecycle-termination"), true),
            (tainted("nvidia.com/gpu"), false),
            (tainted("node.kubernetes.io/not-ready"), false),
        ];
        let stays = fate(&node(&json!({})));
        for (spec, expected) in table {
            assert_eq!(is_left(&node(&spec), &pod(&json!([]))), expected, "{spec}");
            assert_eq!(fate(&node(&spec)) != stays, expected, "wakes: {spec}");
        }
        let mut deleted = node(&json!({}));
        deleted.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert!(is_left(&deleted, &pod(&json!([{ "operator": "Exists" }]))));
    }

    #[test]
    fn a_mark_that_a_pod_tolerates_is_none() {
        let cordoned = node(&json!({ "unschedulable": true }));
        for (toleration, left) in [
            (json!({ "operator": "Exists" }), false),
            (json!({ "key": CORDONED, "operator": "Exists" }), false),
            (json!({ "key": CORDONED, "operator": "Exists", "effect": "NoExecute" }), true),
            (json!({ "key": "nvidia.com/gpu", "operator": "Exists" }), true),
        ] {
            assert_eq!(is_left(&cordoned, &pod(&json!([toleration]))), left, "{toleration}");
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert!(left || matters(&toleration));
        }
    }
}
