//! The ServiceAccount that workers run under, unless the spec names one. Its annotations give it an AWS role.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Defaults, metadata};
use crate::validate::Validated;

pub(super) fn build(consumer: &Validated, defaults: &Defaults) -> Option<ServiceAccount> {
    let worker = &consumer.spec().worker;
    if worker.service_account_name.is_some() {
        return None;
    }
    let annotations = worker.service_account_annotations.clone();
    Some(ServiceAccount {
        metadata: ObjectMeta {
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..metadata(consumer, defaults)
        },
        // Workers do not talk to Kubernetes.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}

/// The name that pods use.
pub(super) fn name(consumer: &Validated) -> String {
    consumer.spec().worker.service_account_name.clone().unwrap_or_else(|| consumer.name())
}
