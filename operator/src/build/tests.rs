//! Golden objects, and what does and does not reach the pod template.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde::Serialize;
use serde_json::{Value, json};

use super::fixtures::{defaults, validated};
use super::*;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Golden {
    service_account: Option<ServiceAccount>,
    config_map: ConfigMap,
    deployment: Deployment,
    pod_disruption_budget: PodDisruptionBudget,
}

fn built(changes: &[(&str, Value)]) -> Resources {
    build(&validated(changes), &defaults()).unwrap()
}

fn golden(changes: &[(&str, Value)]) -> Golden {
    let Resources { service_account, config_map, deployment, pod_disruption_budget } = built(changes);
    Golden { service_account, config_map, deployment, pod_disruption_budget }
}

/// With the public half of a key.
fn keyed(key: Option<&str>) -> Resources {
    build(&validated(&[]), &Defaults { drain_key: key.map(Into::into), ..defaults() }).unwrap()
}

#[test]
fn the_operator_s_key_reaches_workers_and_rolls_none() {
    let yaml = |built: &Resources| built.config_map.data.as_ref().unwrap()["worker.yaml"].clone();
    let (without, with, other) = (keyed(None), keyed(Some("a2V5")), keyed(Some("bmV3")));
    assert!(!yaml(&without).contains("drain"));
    assert!(yaml(&with).ends_with("drain:\n  publicKey: a2V5\n"), "{}", yaml(&with));
    assert!(yaml(&other) != yaml(&with));
    assert_eq!(without.deployment, with.deployment);
    assert_eq!(other.deployment, with.deployment);
}

fn template(changes: &[(&str, Value)]) -> PodTemplateSpec {
    built(changes).deployment.spec.unwrap().template
}

/// A consumer that says everything that can be said.
fn everything() -> Vec<(&'static str, Value)> {
    vec![
        ("/spec/queue/region", json!("us-east-1")),
        ("/spec/queue/endpoint", json!("http://localstack:4566")),
        ("/spec/queue/visibilityTimeoutSeconds", json!(60)),
        ("/spec/queue/bodyFormat", json!("Json")),
        ("/spec/queue/mapping", json!({ "jobId": "attribute:job_id", "input": "/payload/prompt_spec" })),
        (
            "/spec/queue/allow",
            json!({
                "inputBuckets": ["uploads"],
                "outputBuckets": ["team-a"],
                "replyQueues": ["http://localstack:4566/000000000000/replies"],
                "callbackHosts": ["hooks.example.com", "*.example.org"],
            }),
        ),
        (
            "/spec/model",
            json!({
                "task": "TextToImage",
                "source": { "persistentVolumeClaim": { "claimName": "models", "path": "sdxl", "variant": "fp16" } },
                "device": "Cuda",
                "precision": "F16",
                "parameters": { "steps": 4, "guidance_scale": 0.5, "scheduler": "on" },
                "batch": { "maxSize": 4, "maxWaitMilliseconds": 20 },
                "cache": { "emptyDir": { "sizeLimit": "40Gi", "medium": "Memory" } },
            }),
        ),
        ("/spec/output/keyTemplate", json!("{message_id}.{extension}")),
        ("/spec/output/conditionalWrites", json!("BestEffort")),
        (
            "/spec/output/reply",
            json!({ "queueUrl": "http://localstack:4566/000000000000/status", "format": "StatusAttributes" }),
        ),
        ("/spec/output/callback", json!({ "secretRef": { "name": "hooks", "key": "secret" } })),
        (
            "/spec/worker",
            json!({
                "gpu": { "count": 2, "resourceName": "amd.com/gpu" },
                "resources": { "requests": { "cpu": 2, "memory": "16Gi" }, "limits": { "memory": "16Gi" } },
                "image": "registry.example/worker:7",
                "imagePullPolicy": "IfNotPresent",
                "imagePullSecrets": [{ "name": "pull" }],
                "serviceAccountAnnotations": { "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/worker" },
                "nodeSelector": { "gpu": "a10g" },
                "tolerations": [{ "key": "spot", "operator": "Exists" }],
                "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                    { "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }] } ] } } },
                "env": [{ "name": "AWS_REGION", "value": "us-east-1" }],
                "envFrom": [{ "secretRef": { "name": "aws" } }],
                "podLabels": { "team": "pictures" },
                "podAnnotations": { "example.com/cost": "7" },
                "priorityClassName": "batch",
                "runtimeClassName": "nvidia",
                "updateStrategy": { "maxSurge": 1, "maxUnavailable": "50%" },
                "terminationGracePeriodSeconds": 120,
            }),
        ),
    ]
}

#[test]
fn minimal() {
    insta::assert_yaml_snapshot!(golden(&[]));
}

#[test]
fn full() {
    insta::assert_yaml_snapshot!(golden(&everything()));
}

/// A worker of the team's own.
#[test]
fn custom() {
    insta::assert_yaml_snapshot!(golden(&[
        ("/spec/model", json!({ "task": "Custom", "source": { "s3": { "uri": "s3://models/tables/" } } })),
        ("/spec/worker", json!({ "image": "registry.example/fibonacci:1", "gpu": { "count": 0 } })),
    ]));
}

/// A model server that says everything that can be said.
fn served() -> Vec<(&'static str, Value)> {
    let server = json!({
        "port": 9000,
        "preset": "OpenAiChat",
        "healthPath": "/ready",
        "concurrency": 8,
        "timeoutSeconds": 60,
        "headers": [{ "name": "Authorization", "value": "Bearer $(API_KEY)" }],
        "request": { "textField": "question" },
        "response": { "value": "/choices/0/message/content" },
        "container": {
            "image": "registry.example/vllm:1",
            "imagePullPolicy": "Always",
            "command": ["vllm", "serve"],
            "args": ["/weights"],
            "env": [{ "name": "HF_HOME", "value": "/var/cache/millrace" }, { "name": "HOME", "value": "/home/vllm" }],
            "envFrom": [{ "secretRef": { "name": "hf" } }],
            "resources": { "requests": { "memory": "16Gi" }, "limits": { "memory": "16Gi" } },
            "securityContext": { "runAsUser": 1000, "readOnlyRootFilesystem": false },
            "volumes": [{ "name": "weights", "persistentVolumeClaim": { "claimName": "weights" } }],
            "volumeMounts": [{ "name": "weights", "mountPath": "/weights", "readOnly": true }],
            "livenessProbe": { "httpGet": { "path": "/ready", "port": "server" }, "periodSeconds": 30 },
            "sharedMemory": { "sizeLimit": "8Gi" },
        },
    });
    vec![
        ("/spec/model", json!({ "task": "Http", "parameters": { "model": "m" }, "server": server })),
        ("/spec/worker/resources", json!({ "requests": { "cpu": "100m" } })),
    ]
}

#[test]
fn a_model_server_is_a_sidecar() {
    insta::assert_yaml_snapshot!(golden(&served()));
}

#[test]
fn a_model_server_of_few_words_is_restricted_and_has_the_gpu() {
    let server = json!({ "path": "/run", "container": { "image": "server:1" } });
    let pod = template(&[("/spec/model", json!({ "task": "Http", "server": server }))]).spec.unwrap();
    let (sidecar, worker) = (pod.init_containers.unwrap().remove(0), &pod.containers[0]);
    assert_eq!((sidecar.name.as_str(), sidecar.restart_policy.as_deref()), ("server", Some("Always")));
    let gpus = |resources: &Option<k8s_openapi::api::core::v1::ResourceRequirements>| {
        resources.as_ref().and_then(|all| all.limits.as_ref()?.get("nvidia.com/gpu").map(|n| n.0.clone()))
    };
    assert_eq!((gpus(&sidecar.resources), gpus(&worker.resources)), (Some("1".into()), None));
    let restricted = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    });
    assert_eq!(serde_json::to_value(sidecar.security_context).unwrap(), restricted);
    assert_eq!(worker.image.as_deref(), Some("worker:1"), "the worker computes nothing");
    let given = worker.env.iter().flatten().find(|variable| variable.name == "MILLRACE_GPU_COUNT").unwrap();
    assert_eq!(given.value.as_deref(), Some("0"));
}

#[test]
fn scaling_alone_leaves_every_object_as_it_is() {
    let bytes = |changes: &[(&str, Value)]| serde_json::to_string(&golden(changes)).unwrap();
    let scaling = json!({ "minReplicas": 2, "maxReplicas": 50, "target": { "messagesPerReplica": 3 },
        "scaleToZeroAfterSeconds": 60, "scaleDownStabilizationSeconds": 5 });
    assert_eq!(bytes(&[]), bytes(&[("/spec/scaling", scaling)]));
}

#[test]
fn a_new_version_of_the_operator_rolls_no_worker() {
    let newer = Defaults { version: "2".into(), ..defaults() };
    let built = build(&validated(&[]), &newer).unwrap();
    assert_eq!(built.deployment.spec.unwrap().template, template(&[]));
}

#[test]
fn what_workers_do_reaches_the_pod_template() {
    let before = template(&[]);
    for change in [
        ("/spec/model/parameters", json!({ "milliseconds": 5 })),
        ("/spec/model/batch", json!({ "maxSize": 8 })),
        ("/spec/queue/visibilityTimeoutSeconds", json!(60)),
        ("/spec/output/bucket", json!("other")),
        ("/spec/worker/image", json!("other:1")),
        ("/spec/worker/resources", json!({ "limits": { "memory": "1Gi" } })),
        ("/spec/worker/gpu", json!({ "count": 2 })),
        ("/spec/worker/env", json!([{ "name": "A", "value": "b" }])),
        ("/spec/worker/terminationGracePeriodSeconds", json!(60)),
    ] {
        assert_ne!(template(std::slice::from_ref(&change)), before, "{change:?}");
    }
}

#[test]
fn the_image_follows_the_device() {
    let image = |changes: &[(&str, Value)]| template(changes).spec.unwrap().containers[0].image.clone().unwrap();
    let no_gpu = ("/spec/worker/gpu", json!({ "count": 0 }));
    assert_eq!(image(&[]), "worker:1-cuda", "a GPU is asked for by default");
    assert_eq!(image(std::slice::from_ref(&no_gpu)), "worker:1");
    assert_eq!(image(&[("/spec/model/device", json!("Cpu"))]), "worker:1", "although a GPU is asked for");
    assert_eq!(image(&[("/spec/worker/image", json!("mine:1"))]), "mine:1");
}

#[test]
fn without_gpus_none_is_asked_for_or_tolerated() {
    let pod = template(&[("/spec/worker/gpu", json!({ "count": 0 }))]).spec.unwrap();
    assert_eq!(pod.tolerations, None);
    assert_eq!(pod.containers[0].resources.clone().unwrap_or_default().limits, None);
}

/// What the volume of this name is made of.
fn volume(pod: &PodTemplateSpec, name: &str) -> Value {
    let mut volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.name == name).unwrap();
    serde_json::to_value(volume).unwrap()
}

#[test]
fn the_cache_is_on_what_the_spec_says() {
    let of = |cache: Value| volume(&template(&[("/spec/model/cache", cache)]), "cache");
    assert_eq!(of(json!({})), json!({ "name": "cache", "emptyDir": {} }));
    let memory = json!({ "medium": "Memory", "sizeLimit": "10Gi" });
    assert_eq!(of(json!({ "emptyDir": memory })), json!({ "name": "cache", "emptyDir": memory }));
    let claim = json!({ "name": "cache", "persistentVolumeClaim": { "claimName": "models" } });
    assert_eq!(of(json!({ "persistentVolumeClaim": { "claimName": "models" } })), claim);
}

/// The Secret and key that an environment variable comes from.
fn secret_of(pod: &PodTemplateSpec, variable: &str) -> Option<(String, String)> {
    let container = &pod.spec.as_ref()?.containers[0];
    let variable = container.env.iter().flatten().find(|v| v.name == variable)?;
    let secret = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
    Some((secret.name.clone(), secret.key.clone()))
}

#[test]
fn secrets_come_from_where_the_spec_says() {
    let source = json!({ "huggingFace": { "repository": "a/b", "tokenSecretRef": { "name": "hf", "key": "token" } } });
    let pod = template(&[("/spec/model", json!({ "task": "TextToImage", "source": source }))]);
    assert_eq!(secret_of(&pod, "HF_TOKEN"), Some(("hf".into(), "token".into())));
    assert_eq!(secret_of(&pod, "MILLRACE_CALLBACK_SECRET"), None);
    let pod = template(&[
        ("/spec/queue/allow", json!({ "callbackHosts": ["hooks.example.com"] })),
        ("/spec/output/callback", json!({ "secretRef": { "name": "hooks", "key": "secret" } })),
    ]);
    assert_eq!(secret_of(&pod, "MILLRACE_CALLBACK_SECRET"), Some(("hooks".into(), "secret".into())));
}

#[test]
fn a_model_in_an_image_is_a_volume_where_the_worker_looks() {
    let of =
        |image: Value| template(&[("/spec/model", json!({ "task": "TextToImage", "source": { "image": image } }))]);
    let one = of(json!({ "reference": "registry/sdxl:1", "path": "sdxl" }));
    let pod = one.spec.clone().unwrap();
    let volume = |pod: &PodSpec| pod.volumes.clone().unwrap().pop().unwrap();
    let expected = json!({ "name": "models", "image": { "reference": "registry/sdxl:1" } });
    assert_eq!(serde_json::to_value(volume(&pod)).unwrap(), expected);
    let mount = serde_json::to_value(pod.containers[0].volume_mounts.as_ref().unwrap().last()).unwrap();
    assert_eq!(mount, json!({ "name": "models", "mountPath": "/models", "readOnly": true }));

    let never = of(json!({ "reference": "registry/sdxl:1", "pullPolicy": "Never" })).spec.unwrap();
    assert_eq!(volume(&never).image.unwrap().pull_policy.as_deref(), Some("Never"));
    assert_ne!(of(json!({ "reference": "registry/sdxl:2", "path": "sdxl" })), one, "another image is a rollout");
}

#[test]
fn a_named_service_account_is_used_and_none_is_made() {
    let built = built(&[("/spec/worker/serviceAccountName", json!("mine"))]);
    assert!(built.service_account.is_none());
    let pod = built.deployment.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.service_account_name.as_deref(), Some("mine"));
}

#[test]
fn worker_yaml_is_read_as_it_was_meant() {
    let map = built(&everything()).config_map;
    let yaml = &map.data.unwrap()["worker.yaml"];
    let config: millrace_api::WorkerConfig = serde_saphyr::from_str(yaml).unwrap();
    let spec = validated(&everything());
    assert_eq!(config.queue, spec.spec().queue);
    assert_eq!(config.model, spec.spec().model);
    assert_eq!(config.output, spec.spec().output);
    assert_eq!(config.shutdown.grace_period_seconds, 105);
}

#[test]
fn worker_yaml_knows_how_to_ask_a_server_and_not_how_it_runs() {
    let yaml = &built(&served()).config_map.data.unwrap()["worker.yaml"];
    let config: millrace_api::WorkerConfig = serde_saphyr::from_str(yaml).unwrap();
    let mut model = validated(&served()).spec().model.clone();
    model.server.as_mut().unwrap().container = None;
    assert_eq!(config.model, model);
    assert!(!yaml.contains("container"), "{yaml}");
}
