//! The annotations that the operator keeps on worker pods: who is to go first, and who must not be disturbed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::apply::FIELD_MANAGER;

/// The ReplicaSet's: the pod with the lower number is deleted first.
pub(super) const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of a pod that is to go. Pods without one have 0.
pub(super) const GOES_FIRST: i32 = -1000;
/// Karpenter consolidates no node away under such a pod.
const KARPENTER: &str = "karpenter.sh/do-not-disrupt";
/// Cluster Autoscaler removes no node under such a pod.
const AUTOSCALER: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// What a pod bears.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// It is to go before others.
    pub(crate) goes: bool,
    /// Its node is not to be taken away under it.
    pub(crate) protected: bool,
}

impl Marks {
    /// As a pod was last seen.
    pub(super) fn of(pod: &Pod) -> Self {
        let has = |key: &str, value: &str| pod.annotations().get(key).is_some_and(|v| v == value);
        Self { goes: has(COST, &GOES_FIRST.to_string()), protected: has(KARPENTER, "true") && has(AUTOSCALER, "false") }
    }

    /// All annotations that the operator wants on the pod: by server-side apply, those that it leaves out go.
    pub(super) fn annotations(self) -> BTreeMap<&'static str, String> {
        let mut annotations = BTreeMap::new();
        if self.goes {
            annotations.insert(COST, GOES_FIRST.to_string());
        }
        if self.protected {
            annotations.insert(KARPENTER, "true".to_owned());
            annotations.insert(AUTOSCALER, "false".to_owned());
        }
        annotations
    }
}

/// Leaves a pod the annotations that are read: its cost, whoever wrote it, and the operator's own protection. A
/// protection that the user's pod template brings is the user's, and stays as it is.
pub(crate) fn trim_annotations(pod: &mut Pod) {
    let owned = |key: &str| {
        pod.metadata.managed_fields.iter().flatten().any(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && fields.is_some_and(|f| f["f:metadata"]["f:annotations"].get(format!("f:{key}")).is_some())
        })
    };
    let (karpenter, autoscaler) = (owned(KARPENTER), owned(AUTOSCALER));
    pod.annotations_mut()
        .retain(|key, _| key == COST || (karpenter && key == KARPENTER) || (autoscaler && key == AUTOSCALER));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn trimmed(annotations: &Value, owned: &[&str]) -> Pod {
        let fields: serde_json::Map<String, Value> = owned.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
        let mut pod = serde_json::from_value(json!({ "metadata": {
            "annotations": annotations,
            "managedFields": [
                { "manager": "kube-controller-manager", "fieldsV1": { "f:metadata": { "f:annotations": { "f:x": {} } } } },
                { "manager": FIELD_MANAGER, "fieldsV1": { "f:metadata": { "f:annotations": fields } } },
            ],
        } }))
        .unwrap();
        trim_annotations(&mut pod);
        pod
    }

    #[test]
    fn what_is_written_is_seen_again() {
        for (goes, protected) in [(false, false), (true, false), (false, true), (true, true)] {
            let marks = Marks { goes, protected };
            let pod = trimmed(&json!(marks.annotations()), &[KARPENTER, AUTOSCALER]);
            assert_eq!(Marks::of(&pod), marks);
        }
    }

    #[test]
    fn a_user_s_protection_is_not_the_operator_s() {
        let pod = trimmed(&json!({ KARPENTER: "true", AUTOSCALER: "false", COST: "-1000", "x": "y" }), &[]);
        assert_eq!(Marks::of(&pod), Marks { goes: true, protected: false });
        assert_eq!(pod.annotations().len(), 1, "nothing else is kept");
    }
}
