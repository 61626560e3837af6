//! The order in which a ReplicaSet deletes pods when its count is lowered.
//!
//! From kube-controller-manager, `getPodsToDelete` in pkg/controller/replicaset/replica_set.go and
//! `ActivePodsWithRanks.Less` in pkg/controller/controller_utils.go (Kubernetes 1.34; the same since 1.22):
//!
//! 1. not assigned to a node before assigned
//! 2. phase Pending (and any unknown word) before Unknown before Running
//! 3. not ready before ready
//! 4. lower `controller.kubernetes.io/pod-deletion-cost` before higher
//! 5. more pods of the same owner on the same node first; then ready for a shorter time, in logarithmic steps; then more
//!    restarts; then newer, in logarithmic steps; then by uid
//!
//! What stands under 5 moves with the clock and with pods that come and go, so it is not replayed: pods that differ in
//! nothing before it count as tied, and either may go first. Pods that are being deleted, Failed or Succeeded are not
//! among them.

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

use super::marks::COST;

/// Where a pod stands in that order, as far as it is certain: the lower one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) assigned: bool,
    pub(super) phase: Phase,
    pub(super) ready: bool,
    pub(super) cost: i32,
}

/// A pod's phase, as far as it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Pending,
    Unknown,
    Running,
}

impl Place {
    /// Of a pod as it was last seen; none where a ReplicaSet does not count it.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let phase = match status.and_then(|s| s.phase.as_deref()) {
            Some("Failed" | "Succeeded") => return None,
            Some("Running") => Phase::Running,
            Some("Unknown") => Phase::Unknown,
            _ => Phase::Pending,
        };
        Some(Self {
            assigned: pod::is_assigned(pod),
            phase,
            ready: pod::ready_since(pod).is_some(),
            cost: pod.metadata.annotations.as_ref().and_then(|a| a.get(COST)).map_or(0, |cost| parse(cost)),
        })
    }
}

/// As Kubernetes does: what is not a plain number of 32 bits counts as 0.
fn parse(cost: &str) -> i32 {
    let plain = cost == "0" || cost.starts_with(|c: char| c == '-' || matches!(c, '1'..='9'));
    if plain { cost.parse().unwrap_or_default() } else { 0 }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place(node: &str, phase: &str, ready: bool, cost: Option<&str>) -> Option<Place> {
        let annotations: Value = cost.map_or(json!({}), |cost| json!({ COST: cost }));
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": { "annotations": annotations },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Place::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn who_goes_first() {
        let sorted = [
            place("", "Pending", false, Some("9")),
            place("n", "Pending", false, Some("9")),
            place("n", "Unknown", true, Some("9")),
            place("n", "Running", false, Some("9")),
            place("n", "Running", true, Some("-1000")),
            place("n", "Running", true, Some("-1")),
            place("n", "Running", true, None),
            place("n", "Running", true, Some("7")),
        ];
        assert!(sorted.is_sorted_by(|a, b| a < b), "{sorted:?}");
        assert_eq!(place("n", "Running", true, None), place("n", "Running", true, Some("0")));
        for failed in ["Failed", "Succeeded"] {
            assert_eq!(place("n", failed, false, None), None);
        }
    }

    #[test]
    fn a_cost_is_read_as_kubernetes_reads_it() {
        let table =
            [("5", 5), ("-5", -5), ("0", 0), ("+5", 0), ("05", 0), ("", 0), ("x", 0), ("99999999999", 0), ("-", 0)];
        for (text, cost) in table {
            assert_eq!(parse(text), cost, "{text:?}");
        }
    }
}
