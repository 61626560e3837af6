//! QueueConsumer manifests as a user would write them, for LocalStack and the fake GPUs.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::lab::CREDENTIALS;
use crate::{IN_CLUSTER, Lab, Model, Proxy, Queue, REGION};

/// A QueueConsumer before it is applied.
#[derive(Debug, Clone)]
pub struct Manifest(Value);

impl Manifest {
    /// A consumer of task Echo whose jobs take so long.
    pub fn echo(lab: &Lab, name: &str, queue: &Queue<'_>, milliseconds: u64) -> Self {
        let model = json!({ "task": "Echo", "device": "Cpu", "parameters": { "milliseconds": milliseconds } });
        Self::new(lab, name, &queue.url(), &model)
    }

    /// A consumer of task TextToImage: 64 by 64 pixels in two steps.
    pub fn text_to_image(lab: &Lab, name: &str, queue: &Queue<'_>, model: &Model) -> Self {
        let source = json!({ "s3": { "uri": model.uri(), "region": REGION, "endpoint": IN_CLUSTER } });
        Self::text_to_image_from(lab, name, queue, &source)
    }

    /// One whose model is at this `model.source`.
    pub fn text_to_image_from(lab: &Lab, name: &str, queue: &Queue<'_>, source: &Value) -> Self {
        let model = json!({
            "task": "TextToImage",
            "source": source,
            "device": "Cpu",
            "parameters": { "steps": 2, "guidance_scale": 0, "width": 64, "height": 64 },
        });
        Self::new(lab, name, &queue.url(), &model)
    }

    /// A consumer of task TextEmbedding on a CPU, whose jobs may read the scenario's bucket.
    pub fn text_embedding(lab: &Lab, name: &str, queue: &Queue<'_>, model: &Model) -> Self {
        let source = json!({ "s3": { "uri": model.uri(), "region": REGION, "endpoint": IN_CLUSTER } });
        let batch = json!({ "maxSize": 8, "maxWaitMilliseconds": 20 });
        let model = json!({ "task": "TextEmbedding", "source": source, "device": "Cpu", "batch": batch });
        Self::new(lab, name, &queue.url(), &model)
            .with("/spec/queue/allow", json!({ "inputBuckets": [lab.name] }))
            .with("/spec/worker/gpu/count", json!(0))
    }

    /// A consumer of task TextGeneration on a CPU.
    pub fn text_generation(lab: &Lab, name: &str, queue: &Queue<'_>, model: &Model) -> Self {
        let source = json!({ "s3": { "uri": model.uri(), "region": REGION, "endpoint": IN_CLUSTER } });
        let batch = json!({ "maxSize": 8 });
        let model = json!({ "task": "TextGeneration", "source": source, "device": "Cpu", "batch": batch });
        Self::new(lab, name, &queue.url(), &model).with("/spec/worker/gpu/count", json!(0))
    }

    /// A consumer of a team's own worker, from an image that e2e/kind/load made.
    pub fn custom(lab: &Lab, name: &str, queue: &Queue<'_>, image: &str) -> Self {
        let model = json!({ "task": "Custom", "device": "Cpu" });
        Self::new(lab, name, &queue.url(), &model).with("/spec/worker/image", image.into())
    }

    /// A consumer of task Http with this `model.server`, on a node's CPU.
    pub fn http(lab: &Lab, name: &str, queue: &Queue<'_>, server: &Value) -> Self {
        let model = json!({ "task": "Http", "server": server });
        Self::new(lab, name, &queue.url(), &model).with("/spec/worker/gpu/count", json!(0))
    }

    fn new(lab: &Lab, name: &str, url: &str, model: &Value) -> Self {
        Self(json!({
            "apiVersion": "millrace.dev/v1alpha1",
            "kind": "QueueConsumer",
            "metadata": { "name": name, "namespace": lab.name },
            "spec": {
                "queue": {
                    "url": url,
                    "region": REGION,
                    "endpoint": IN_CLUSTER,
                    "visibilityTimeoutSeconds": 30,
                    "retry": { "initialSeconds": 1, "maxSeconds": 5 },
                },
                "model": model,
                "output": { "bucket": lab.name, "region": REGION, "endpoint": IN_CLUSTER, "forcePathStyle": true },
                "worker": {
                    "gpu": { "count": 1 },
                    "imagePullPolicy": "IfNotPresent",
                    "envFrom": [{ "secretRef": { "name": CREDENTIALS } }],
                    // room for all scenarios at once on a node of two cores
                    "resources": { "requests": { "cpu": "20m", "memory": "64Mi" } },
                    "terminationGracePeriodSeconds": 60,
                },
                "scaling": {
                    "minReplicas": 0,
                    "maxReplicas": 1,
                    "target": { "messagesPerReplica": 10 },
                    "scaleToZeroAfterSeconds": 60,
                    "scaleDownStabilizationSeconds": 10,
                },
            },
        }))
    }

    /// Changes one value; null removes it.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let mut names: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
        let last = names.pop().unwrap_or_default();
        let mut at = &mut self.0;
        for name in names {
            at = object(at).entry(name).or_insert_with(|| json!({}));
        }
        if value.is_null() {
            object(at).remove(last);
        } else {
            object(at).insert(last.to_owned(), value);
        }
        self
    }

    /// SQS and S3 through a proxy.
    #[must_use]
    pub fn through(self, proxy: &Proxy) -> Self {
        let endpoint = proxy.endpoint();
        self.with("/spec/queue/endpoint", endpoint.into()).with("/spec/output/endpoint", endpoint.into())
    }

    /// Changes minReplicas and maxReplicas.
    #[must_use]
    pub fn replicas(self, least: i32, most: i32) -> Self {
        self.with("/spec/scaling/minReplicas", least.into()).with("/spec/scaling/maxReplicas", most.into())
    }

    /// Its workers on as many nodes as there are, where that is possible.
    #[must_use]
    pub fn spread(self) -> Self {
        let term = json!({
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { "app.kubernetes.io/instance": self.0["metadata"]["name"] } },
        });
        let preferred = json!([{ "weight": 100, "podAffinityTerm": term }]);
        let affinity = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } });
        self.with("/spec/worker/affinity", affinity)
    }

    /// The manifest as it would be sent.
    pub fn json(&self) -> &Value {
        &self.0
    }

    pub(crate) fn name(&self) -> Result<String> {
        Ok(self.0["metadata"]["name"].as_str().context("metadata.name")?.to_owned())
    }

    /// GPUs of the node that it may take.
    pub(crate) fn gpus(&self) -> i32 {
        let number = |pointer: &str| self.0.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
        let elsewhere = self.0.pointer("/spec/worker/gpu/resourceName").is_some();
        let gpus = number("/spec/worker/gpu/count") * number("/spec/scaling/maxReplicas");
        if elsewhere { 0 } else { i32::try_from(gpus).unwrap_or(i32::MAX) }
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made one"),
    }
}
