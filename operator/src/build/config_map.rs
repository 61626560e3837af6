//! The ConfigMap with worker.yaml: the spec's queue, model and output in the same words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use millrace_api::{ConsumerRef, DrainConfig, HttpConfig, ShutdownConfig, WorkerConfig};
use sha2::{Digest as _, Sha256};

use super::names::{CONFIG_FILE, PORT, SHUTDOWN_MARGIN_SECONDS};
use super::{BuildError, Defaults, metadata};
use crate::validate::Validated;

/// The ConfigMap, and a hash of worker.yaml. The operator's key is no part of it: workers read the mounted file again
/// where they need the key, so neither an upgrade nor a new key makes new pods.
pub(super) fn build(consumer: &Validated, defaults: &Defaults) -> Result<(ConfigMap, String), BuildError> {
    let mut config = config(consumer);
    let hash = hex::encode(&Sha256::digest(serde_saphyr::to_string(&config)?)[..16]);
    config.drain = defaults.drain_key.clone().map(|public_key| DrainConfig { public_key });
    let yaml = serde_saphyr::to_string(&config)?;
    let map = ConfigMap {
        metadata: metadata(consumer, defaults),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), yaml)])),
        ..ConfigMap::default()
    };
    Ok((map, hash))
}

fn config(consumer: &Validated) -> WorkerConfig {
    let spec = consumer.spec();
    let mut model = spec.model.clone();
    // the pod's business: its variables may hold what is nobody else's
    if let Some(server) = &mut model.server {
        server.container = None;
    }
    let grace = spec.worker.termination_grace_period_seconds - SHUTDOWN_MARGIN_SECONDS;
    WorkerConfig {
        consumer: ConsumerRef { namespace: consumer.namespace(), name: consumer.name() },
        queue: spec.queue.clone(),
        model,
        output: spec.output.clone(),
        http: HttpConfig { port: PORT },
        shutdown: ShutdownConfig { grace_period_seconds: u64::try_from(grace).unwrap_or_default() },
        drain: None,
    }
}
