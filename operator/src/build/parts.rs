//! What a pod template is made from, part by part, as an annotation of the Deployment. The live template cannot be
//! compared with the wanted one, since the API server adds defaults and rewrites quantities; this can.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::names::{CONFIG_HASH, TEMPLATE_PARTS};
use crate::validate::Validated;

type Parts = BTreeMap<String, String>;

/// The annotation for a template.
pub(super) fn annotation(consumer: &Validated, template: &PodTemplateSpec) -> BTreeMap<String, String> {
    let mut rest = template.clone();
    if let Some(annotations) = rest.metadata.as_mut().and_then(|m| m.annotations.as_mut()) {
        annotations.remove(CONFIG_HASH);
    }
    let worker = rest.spec.as_mut().and_then(|s| s.containers.first_mut()).map(std::mem::take).unwrap_or_default();
    let spec = consumer.spec();
    let parts = Parts::from([
        ("queue".to_owned(), digest(&spec.queue)),
        ("model".to_owned(), digest(&spec.model)),
        ("output".to_owned(), digest(&spec.output)),
        ("image".to_owned(), worker.image.unwrap_or_default()),
        ("resources".to_owned(), digest(&worker.resources)),
        ("environment".to_owned(), digest(&(worker.env, worker.env_from))),
        ("pod".to_owned(), digest(&rest)),
    ]);
    let text = serde_json::to_string(&parts).unwrap_or_default();
    BTreeMap::from([(TEMPLATE_PARTS.to_owned(), text)])
}

/// What differs between two Deployments' annotations, in words: `image a → b`.
pub(crate) fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let read = |annotations: &BTreeMap<String, String>| -> Option<Parts> {
        serde_json::from_str(annotations.get(TEMPLATE_PARTS)?).ok()
    };
    let (Some(before), Some(after)) = (read(before), read(after)) else { return Vec::new() };
    let changed = after.iter().filter(|(part, value)| before.get(*part) != Some(value));
    changed
        .map(|(part, value)| match before.get(part) {
            Some(old) if part == "image" => format!("image {old} → {value}"),
            _ => part.clone(),
        })
        .collect()
}

fn digest<T: Serialize>(part: &T) -> String {
    let bytes = serde_json::to_vec(part).unwrap_or_default();
    hex::encode(&Sha256::digest(bytes)[..6])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::build::build;
    use crate::build::fixtures::{defaults, validated};

    fn annotations(changes: &[(&str, Value)]) -> BTreeMap<String, String> {
        build(&validated(changes), &defaults()).unwrap().deployment.metadata.annotations.unwrap()
    }

    #[test]
    fn each_change_has_its_word() {
        let before = annotations(&[]);
        assert!(differences(&before, &annotations(&[])).is_empty());
        for (field, value, word) in [
            ("/spec/queue/visibilityTimeoutSeconds", json!(60), "queue"),
            ("/spec/model/batch", json!({ "maxSize": 8 }), "model"),
            ("/spec/output/bucket", json!("other"), "output"),
            ("/spec/worker/image", json!("mine:2"), "image worker:1-cuda → mine:2"),
            ("/spec/worker/resources", json!({ "limits": { "memory": "1Gi" } }), "resources"),
            ("/spec/worker/env", json!([{ "name": "A", "value": "b" }]), "environment"),
            ("/spec/worker/nodeSelector", json!({ "a": "b" }), "pod"),
        ] {
            assert_eq!(differences(&before, &annotations(&[(field, value)])), [word], "{field}");
        }
    }

    #[test]
    fn without_an_annotation_nothing_can_be_said() {
        assert!(differences(&BTreeMap::new(), &annotations(&[])).is_empty());
    }
}
