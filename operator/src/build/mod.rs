//! The objects that a QueueConsumer wants: pure functions of its spec. The worker count is not part of them.

mod config_map;
mod deployment;
pub(crate) mod names;
pub(crate) mod parts;
mod pdb;
mod server;
mod service_account;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use names::ANNOTATION_PREFIX;

use crate::validate::Validated;

/// What the operator was started with and every worker gets.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    /// Image of workers whose model runs on the CPU.
    pub(crate) image: String,
    /// Image of workers whose model runs on a GPU.
    pub(crate) cuda_image: String,
    /// The operator's version, as a label of objects.
    pub(crate) version: String,
    /// The public key that workers verify requests to drain with; none where nobody can be asked.
    pub(crate) drain_key: Option<String>,
}

/// The objects of one QueueConsumer, as they should be.
#[derive(Debug, Clone)]
pub(crate) struct Resources {
    /// None where the spec names one that exists already.
    pub(crate) service_account: Option<ServiceAccount>,
    pub(crate) config_map: ConfigMap,
    /// Without replicas: those are the decision's.
    pub(crate) deployment: Deployment,
    pub(crate) pod_disruption_budget: PodDisruptionBudget,
}

/// worker.yaml could not be written.
#[derive(Debug, thiserror::Error)]
#[error("worker.yaml could not be written: {0}")]
pub(crate) struct BuildError(#[from] serde_saphyr::ser::Error);

/// Builds everything that a consumer wants.
pub(crate) fn build(consumer: &Validated, defaults: &Defaults) -> Result<Resources, BuildError> {
    let (config_map, hash) = config_map::build(consumer, defaults)?;
    Ok(Resources {
        service_account: service_account::build(consumer, defaults),
        config_map,
        deployment: deployment::build(consumer, defaults, &hash),
        pod_disruption_budget: pdb::build(consumer, defaults),
    })
}

/// Metadata of every object: named after the consumer and owned by it.
fn metadata(consumer: &Validated, defaults: &Defaults) -> ObjectMeta {
    ObjectMeta {
        name: Some(consumer.name()),
        namespace: Some(consumer.namespace()),
        labels: Some(names::labels(&consumer.name(), &defaults.version)),
        owner_references: Some(vec![consumer.owner.clone()]),
        ..ObjectMeta::default()
    }
}
