//! The operator that the charts installed.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::{Lab, eventually};

const NAMESPACE: &str = "millrace-system";
const DEPLOYMENT: &str = "millrace-operator";
const LEASE: &str = "millrace-operator";
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
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.0.client(), NAMESPACE)
    }

    /// Its pods that are to stay.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let found = self.api::<Pod>().list(&ListParams::default().labels(SELECTOR)).await?;
        Ok(found.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Changes how many there are, and gives how many there were.
    pub async fn scale(&self, replicas: i32) -> Result<i32> {
        let deployments = self.api::<Deployment>();
        let before = deployments.get_scale(DEPLOYMENT).await?.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        deployments.patch_scale(DEPLOYMENT, &PatchParams::default(), &patch).await?;
        Ok(before)
    }

    /// Waits until there are exactly so many, all of them ready, and one leads.
    pub async fn await_ready(&self, count: usize) -> Result<()> {
        eventually(format!("{count} operators are ready, and one leads"), async || {
            let pods = self.pods().await?;
            let containers = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first());
            let ready = containers.filter(|container| container.ready).count();
            ensure!((pods.len(), ready) == (count, count), "{} pods, {ready} of them ready", pods.len());
            self.leader().await.map(drop)
        })
        .await
    }

    /// Who has the lease: a pod's name and which of its containers, one after another, that is.
    pub async fn holder(&self) -> Result<String> {
        let lease = self.api::<Lease>().get(LEASE).await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
        holder.context("nobody has the lease")
    }

    /// The pod that works, while the others wait.
    pub async fn leader(&self) -> Result<Pod> {
        let holder = self.holder().await?;
        let named = holder.rsplit_once('_').map_or(holder.as_str(), |(pod, _)| pod);
        let leader = self.pods().await?.into_iter().find(|pod| pod.name_any() == named);
        leader.with_context(|| format!("{holder} has the lease, and there is no such pod: run e2e/kind/install"))
    }

    /// Waits until another has the lease.
    pub async fn await_other(&self, than: &str) -> Result<String> {
        eventually("another operator leads", async || {
            let holder = self.holder().await?;
            ensure!(holder != than, "{holder} still has the lease");
            Ok(holder)
        })
        .await
    }

    /// How often its containers were started anew.
    pub async fn restarts(&self) -> Result<i32> {
        let statuses = self.pods().await?.into_iter().filter_map(|pod| pod.status?.container_statuses);
        Ok(statuses.flatten().map(|container| container.restart_count).sum())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let pod = self.leader().await?.name_any();
        let text = self.0.ask_pod(NAMESPACE, &pod, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{name} is not in /metrics"))?.parse()?)
    }

    /// The last lines of its logs that speak of this scenario, pod by pod.
    pub(crate) async fn log(&self) -> Result<String> {
        let mut log = Vec::new();
        for pod in self.pods().await? {
            let tail = LogParams { tail_lines: Some(2000), ..LogParams::default() };
            let text = self.api::<Pod>().logs(&pod.name_any(), &tail).await?;
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(&self.0.name)).collect();
            log.extend(lines[lines.len().saturating_sub(40)..].iter().map(|line| (*line).to_owned()));
        }
        Ok(log.join("\n"))
    }
}
