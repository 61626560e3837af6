//! The operator that the charts installed.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};

use crate::Lab;

const NAMESPACE: &str = "millrace-system";
const SELECTOR: &str = "app.kubernetes.io/name=millrace-operator";

/// The operator, seen from a scenario.
#[derive(Debug)]
pub struct Operator<'a>(&'a Lab);

impl Lab {
    /// The operator.
    pub fn operator(&self) -> Operator<'_> {
        Operator(self)
    }
}

impl Operator<'_> {
    /// Its pod.
    pub async fn pod(&self) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.0.client(), NAMESPACE);
        let found = pods.list(&ListParams::default().labels(SELECTOR)).await?;
        let alive = found.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
        alive.context("the operator has no pod: run e2e/kind/install")
    }

    /// How often its container was started anew.
    pub async fn restarts(&self) -> Result<i32> {
        let pod = self.pod().await?;
        let container = pod.status.and_then(|s| s.container_statuses?.into_iter().next());
        Ok(container.context("the operator has no container")?.restart_count)
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let pod = self.pod().await?.name_any();
        let text = self.0.ask_pod(NAMESPACE, &pod, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{name} is not in /metrics"))?.parse()?)
    }

    /// The last lines of its log that speak of this scenario.
    pub(crate) async fn log(&self) -> Result<String> {
        let pod = self.pod().await?.name_any();
        let pods: Api<Pod> = Api::namespaced(self.0.client(), NAMESPACE);
        let text = pods.logs(&pod, &LogParams { tail_lines: Some(2000), ..LogParams::default() }).await?;
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&self.0.name)).collect();
        Ok(lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}
