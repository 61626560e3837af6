//! The CRD's own promises: size, shape, defaults, and a refused and an accepted manifest for every CEL rule.

use serde_json::{Value, json};

use super::*;

/// The smallest valid QueueConsumer.
fn minimal() -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "QueueConsumer",
        "metadata": { "name": "sdxl", "namespace": "demo" },
        "spec": {
            "queue": { "url": "https://sqs.us-east-1.amazonaws.com/123456789012/prompts" },
            "model": { "task": "Echo" },
            "output": { "bucket": "images" },
        },
    })
}

/// Values by their place; null removes one.
type Changes = Vec<(&'static str, Value)>;

/// `minimal` with some values changed; null removes it.
fn with(changes: &[(&str, Value)]) -> QueueConsumer {
    let mut object = minimal();
    for (pointer, value) in changes {
        let mut at = &mut object;
        let names: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
        for name in &names[..names.len() - 1] {
            let map = at.as_object_mut().unwrap();
            at = map.entry(*name).or_insert_with(|| json!({}));
        }
        let (map, last) = (at.as_object_mut().unwrap(), names[names.len() - 1]);
        if value.is_null() {
            map.remove(last)
        } else {
            map.insert(last.into(), value.clone())
        };
    }
    serde_json::from_value(object).unwrap()
}

fn errors(consumer: &QueueConsumer) -> String {
    consumer.validate_cel().err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn every_cel_rule_accepts_one_and_refuses_another() {
    let s3 = json!({ "s3": { "uri": "s3://models/tiny/" } });
    let claim = |path: &str| json!({ "persistentVolumeClaim": { "claimName": "models", "path": path } });
    let image = |path: &str| json!({ "image": { "reference": "registry.example/sdxl:1", "path": path } });
    let two = json!({ "s3": { "uri": "s3://models/tiny/" }, "huggingFace": { "repository": "a/b" } });
    let served = |server: Value| vec![("/spec/model", json!({ "task": "Http", "server": server }))];
    let server = || json!({ "path": "/run", "container": { "image": "server:1" } });
    let sends = |request: Value| served(json!({ "path": "/", "request": request, "container": { "image": "s" } }));
    let picture = || ("/spec/model/task", json!("TextToImage"));
    let custom = || ("/spec/model/task", json!("Custom"));
    let image_of_ones_own = || ("/spec/worker/image", json!("registry.example/fibonacci:1"));
    let table: Vec<(Changes, Changes, &str)> = vec![
        (vec![], vec![("/metadata/name", json!("a.b"))], "at most 63 characters without dots"),
        (
            vec![("/spec/queue/retry", json!({ "initialSeconds": 5, "maxSeconds": 5 }))],
            vec![("/spec/queue/retry", json!({ "initialSeconds": 6, "maxSeconds": 5 }))],
            "retry.initialSeconds must not be more",
        ),
        (vec![picture(), ("/spec/model/source", s3.clone())], vec![picture()], "model.source is required"),
        (vec![], vec![("/spec/model/source", s3.clone())], "model.source must not be set"),
        (
            vec![custom(), image_of_ones_own(), ("/spec/model/source", s3.clone())],
            vec![custom()],
            "worker.image is required for task Custom",
        ),
        (
            served(server()),
            vec![("/spec/model", json!({ "task": "Http", "server": server(), "source": s3.clone() }))],
            "the server loads its model itself",
        ),
        (
            served(server()),
            vec![("/spec/model", json!({ "task": "Http" }))],
            "model.server must be set exactly where model.task is Http",
        ),
        (vec![], vec![("/spec/model/server", server())], "model.server must be set exactly where model.task is Http"),
        (
            served(json!({ "preset": "OpenAiChat", "container": { "image": "vllm:1" } })),
            served(json!({ "container": { "image": "server:1" } })),
            "model.server.path is required where no preset sets it",
        ),
        (served(server()), served(json!({ "path": "/run" })), "model.server.container is required"),
        (
            vec![("/spec/model", json!({ "task": "Http", "server": server(), "batch": { "maxSize": 1 } }))],
            vec![("/spec/model", json!({ "task": "Http", "server": server(), "batch": { "maxSize": 8 } }))],
            "model.batch.maxSize must not be set",
        ),
        (
            sends(json!({ "pointer": "/image" })),
            sends(json!({ "body": "File", "pointer": "/image" })),
            "request.pointer must not be set where request.body is File",
        ),
        (
            vec![picture(), ("/spec/model/source", s3)],
            vec![picture(), ("/spec/model/source", two)],
            "exactly one of huggingFace, s3, persistentVolumeClaim, image",
        ),
        (
            vec![picture(), ("/spec/model/source", json!({ "huggingFace": { "repository": "a/b" } }))],
            vec![picture(), ("/spec/model/source", json!({}))],
            "exactly one of huggingFace, s3, persistentVolumeClaim, image",
        ),
        (
            vec![picture(), ("/spec/model/source", claim("a/b"))],
            vec![picture(), ("/spec/model/source", claim("a/../b"))],
            "path must be relative to the volume",
        ),
        (
            vec![picture(), ("/spec/model/source", json!({ "image": { "reference": "sdxl@sha256:00" } }))],
            vec![
                picture(),
                ("/spec/model/source", json!({ "image": { "reference": "sdxl:1" }, "s3": { "uri": "s3://m" } })),
            ],
            "exactly one of huggingFace, s3, persistentVolumeClaim, image",
        ),
        (
            vec![picture(), ("/spec/model/source", image("a/b"))],
            vec![picture(), ("/spec/model/source", image("/a"))],
            "path must be relative to the image's root",
        ),
        (
            vec![("/spec/model/cache", json!({ "emptyDir": {}, "persistentVolumeClaim": { "claimName": "models" } }))],
            vec![(
                "/spec/model/cache",
                json!({ "emptyDir": { "medium": "Memory" }, "persistentVolumeClaim": { "claimName": "models" } }),
            )],
            "emptyDir must not be set beside persistentVolumeClaim",
        ),
        (
            vec![("/spec/output/prefix", json!("out/"))],
            vec![("/spec/output/prefix", json!("/out/"))],
            "prefix must not begin with '/'",
        ),
        (
            vec![("/spec/output/keyTemplate", json!("{message_id}.{extension}"))],
            vec![("/spec/output/keyTemplate", json!("image.{extension}"))],
            "keyTemplate must contain {job_id} or {message_id}",
        ),
        (vec![], vec![("/spec/output/keyTemplate", json!("/{job_id}"))], "keyTemplate must not begin with '/'"),
        (
            vec![],
            vec![("/spec/output/keyTemplate", json!("{job_id}.record.json"))],
            "keyTemplate must not end in .record.json",
        ),
        (
            vec![("/spec/worker/updateStrategy", json!({ "maxSurge": 1, "maxUnavailable": 0 }))],
            vec![("/spec/worker/updateStrategy", json!({ "maxSurge": 0, "maxUnavailable": "0%" }))],
            "must not both be 0",
        ),
        (
            vec![("/spec/scaling/minReplicas", json!(10))],
            vec![("/spec/scaling/minReplicas", json!(11))],
            "scaling.minReplicas must not be more",
        ),
        (
            vec![("/spec/scaling/target", json!({ "messagesPerReplica": 5 }))],
            vec![("/spec/scaling/target", json!({ "messagesPerReplica": 5, "queueDelaySeconds": 60 }))],
            "exactly one of queueDelaySeconds, messagesPerReplica",
        ),
        (
            vec![("/spec/scaling/target", json!({ "queueDelaySeconds": 5 }))],
            vec![("/spec/scaling/target", json!({}))],
            "exactly one of queueDelaySeconds, messagesPerReplica",
        ),
    ];
    for (accepted, refused, message) in table {
        assert_eq!(errors(&with(&accepted)), "", "{accepted:?}");
        let found = errors(&with(&refused));
        assert!(found.contains(message), "{refused:?}: {found:?} does not say {message:?}");
    }
}

#[test]
fn the_queue_of_a_consumer_never_changes() {
    let old = with(&[]);
    let other = with(&[("/spec/queue/url", json!("https://sqs.us-east-1.amazonaws.com/123456789012/other"))]);
    assert!(old.validate_cel_update(&old).is_ok());
    let error = other.validate_cel_update(&old).unwrap_err().to_string();
    assert!(error.contains("queue.url is immutable"), "{error}");
}

#[test]
fn rules_of_the_crd_compile() {
    let schema = serde_json::to_value(crd().spec.versions[0].schema.clone().unwrap().open_api_v3_schema).unwrap();
    let compiled = kube::core::cel::compile_schema(&schema);
    assert!(!compiled.has_errors(), "{:?}", compiled.compilation_errors());
}

#[test]
fn defaults_in_the_schema_are_the_ones_in_the_code() {
    let schema = serde_json::to_value(crd().spec.versions[0].schema.clone().unwrap().open_api_v3_schema).unwrap();
    let spec = serde_json::to_value(with(&[]).spec).unwrap();
    let default = |path: &str| schema.pointer(&format!("/properties/spec/properties/{path}/default")).cloned();
    assert_eq!(default("worker").as_ref(), spec.get("worker"));
    assert_eq!(default("scaling").as_ref(), spec.get("scaling"));
    assert_eq!(default("queue/properties/visibilityTimeoutSeconds"), Some(json!(120)));
    assert_eq!(default("worker/properties/updateStrategy"), Some(json!({ "maxSurge": 0, "maxUnavailable": "25%" })));
}

#[test]
fn the_crd_fits_client_side_apply_and_is_structural() {
    let yaml = crd_yaml().unwrap();
    assert!(yaml.len() < 200_000, "{} bytes", yaml.len());
    for word in ["anyOf", "allOf", "oneOf", "$ref"] {
        assert!(!yaml.contains(word), "{word} in the CRD");
    }
    assert!(!yaml.contains("format: uint"), "a format that the API server does not know");
}

#[test]
fn the_file_in_crds_is_the_one_in_the_code() {
    // cargo runs tests in their package's folder; a path from compile time may be another checkout's
    let file = std::fs::read_to_string("../crds/queueconsumers.yaml").unwrap_or_default();
    assert!(file == crd_yaml().unwrap(), "crds/queueconsumers.yaml drifted: run `make crds`");
}

/// Every field that `given` has is in `known`, too.
fn lost(given: &Value, known: &Value, path: &str) -> Vec<String> {
    let at = |name: &str, known: Option<&Value>, given: &Value| {
        let path = format!("{path}.{name}");
        known.map_or_else(|| vec![path.clone()], |known| lost(given, known, &path))
    };
    match given {
        Value::Object(fields) => fields.iter().flat_map(|(name, value)| at(name, known.get(name), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().flat_map(|(i, value)| at(&i.to_string(), known.get(i), value)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn samples_say_nothing_that_the_crd_does_not_know_or_refuses() {
    let folders = ["../deploy/samples", "../examples/http-server"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let mut consumers = 0;
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
        for document in std::fs::read_to_string(&path).unwrap().split("\n---\n") {
            let given: Value = serde_saphyr::from_str(document).unwrap();
            if given["kind"] != "QueueConsumer" {
                continue;
            }
            let consumer: QueueConsumer = serde_json::from_value(given.clone()).unwrap();
            let known = serde_json::to_value(&consumer).unwrap();
            assert_eq!(lost(&given, &known, ""), [""; 0], "{}", path.display());
            assert_eq!(errors(&consumer), "", "{}", path.display());
            consumers += 1;
        }
    }
    assert!(consumers >= 5, "{consumers} samples");
}
