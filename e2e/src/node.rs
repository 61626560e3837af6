//! Nodes that are about to go.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::Lab;

/// Where a pod runs.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

impl Lab {
    /// Taints a node so that no more pods come to it.
    pub async fn taint(&self, node: &str, key: &str) -> Result<()> {
        self.patch_node(node, json!({ "taints": [{ "key": key, "effect": "NoSchedule" }] })).await
    }

    /// Takes from a node whatever keeps pods off it.
    pub async fn free(&self, node: &str) -> Result<()> {
        self.patch_node(node, json!({ "taints": null, "unschedulable": null })).await
    }

    async fn patch_node(&self, node: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.all::<Node>().patch(node, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}
