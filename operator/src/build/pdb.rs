//! The PodDisruptionBudget: a drain takes one worker at a time, and one that never became ready does not block it.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Defaults, metadata, names};
use crate::validate::Validated;

pub(super) fn build(consumer: &Validated, defaults: &Defaults) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(consumer, defaults),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&consumer.name())),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
