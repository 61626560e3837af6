//! QueueConsumers, and what is observed of one, for tests.

use std::sync::Arc;
use std::time::Instant;

use millrace_api::QueueConsumer;
use serde_json::{Value, json};

use super::Defaults;
use crate::observe::Observed;
use crate::queue::{Depth, Reading};
use crate::validate::{Validated, validate};

/// The smallest valid QueueConsumer.
pub(crate) fn minimal() -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "QueueConsumer",
        "metadata": { "name": "sdxl", "namespace": "demo", "uid": "uid-1", "generation": 3 },
        "spec": {
            "queue": { "url": "https://sqs.us-east-1.amazonaws.com/123456789012/prompts" },
            "model": { "task": "Echo" },
            "output": { "bucket": "images" },
        },
    })
}

/// `minimal` with values changed, by JSON pointer; null removes one.
pub(crate) fn with(changes: &[(&str, Value)]) -> Arc<QueueConsumer> {
    let mut object = minimal();
    for (pointer, value) in changes {
        let names: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
        let mut at = &mut object;
        for name in &names[..names.len() - 1] {
            at = at.as_object_mut().unwrap().entry(*name).or_insert_with(|| json!({}));
        }
        let (map, last) = (at.as_object_mut().unwrap(), names[names.len() - 1]);
        if value.is_null() {
            map.remove(last)
        } else {
            map.insert(last.into(), value.clone())
        };
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

/// The same, validated.
pub(crate) fn validated(changes: &[(&str, Value)]) -> Validated {
    validate(&with(changes)).unwrap()
}

/// What the operator was started with.
pub(crate) fn defaults() -> Defaults {
    Defaults { image: "worker:1".into(), cuda_image: "worker:1-cuda".into(), version: "1".into(), drain_key: None }
}

/// No objects yet, and 20 messages that wait.
pub(crate) fn observed() -> Observed {
    Observed {
        deployment: None,
        pods: Vec::new(),
        terminating: Vec::new(),
        leaving: std::collections::BTreeSet::new(),
        config_map: None,
        service_account: None,
        budget: None,
        reading: Reading { at: Instant::now(), depth: Ok(Depth { visible: 20, ..Depth::default() }) },
        shared_with: Vec::new(),
        workers: Vec::new(),
        history: crate::scale::History::default(),
        last_desired: 0,
    }
}
