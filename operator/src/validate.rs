//! What the CRD's schema and rules cannot check. Every problem is found at once, each with its field.

pub(crate) mod server;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Affinity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use millrace_api::{CallbackHosts, CallbackSpec, Device, KeyTemplate, QueueConsumer, QueueConsumerSpec, Task};
use serde_json::Value;

use crate::build::{ANNOTATION_PREFIX, names};
use crate::queue::QueueAddress;
use crate::scale::Rule;
use crate::scale::schedule::Schedule;

/// A field whose value cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Its path: `spec.queue.region`.
    pub(crate) field: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A QueueConsumer that can be built and scaled.
#[derive(Debug, Clone)]
pub(crate) struct Validated {
    consumer: Arc<QueueConsumer>,
    /// What children name as their controller.
    pub(crate) owner: OwnerReference,
    /// How many workers the queue needs.
    pub(crate) rule: Rule,
    /// `spec.scaling.schedules`, read.
    pub(crate) schedules: Vec<Schedule>,
    /// `spec.worker.affinity`, read.
    pub(crate) affinity: Option<Affinity>,
    /// What `spec.model.server.container` says in a pod's words, read.
    pub(crate) server: Option<server::Words>,
}

impl Validated {
    pub(crate) fn name(&self) -> String {
        self.consumer.name_any()
    }

    pub(crate) fn namespace(&self) -> String {
        self.consumer.namespace().unwrap_or_default()
    }

    pub(crate) fn consumer(&self) -> &QueueConsumer {
        &self.consumer
    }

    pub(crate) fn spec(&self) -> &QueueConsumerSpec {
        &self.consumer.spec
    }

    /// Whether the model runs on the CPU, whatever else the pod asks for.
    pub(crate) fn on_cpu(&self) -> bool {
        if self.spec().model.task == Task::Http {
            return true;
        }
        match self.spec().model.device {
            Device::Cpu => true,
            Device::Cuda => false,
            Device::Auto => self.spec().worker.gpu.count == 0,
        }
    }
}

/// Environment variables that the operator sets itself, or that must agree with what it mounts.
const OWN_VARIABLES: [&str; 5] =
    ["POD_NAME", "POD_NAMESPACE", "MILLRACE_GPU_COUNT", "MILLRACE_CACHE_DIR", CallbackSpec::VARIABLE];

/// Checks everything.
pub(crate) fn validate(consumer: &Arc<QueueConsumer>) -> Result<Validated, Vec<Problem>> {
    let spec = &consumer.spec;
    let mut problems = Vec::new();
    match QueueAddress::of(&spec.queue) {
        Ok(address) => reply_queues(spec, &address, &mut problems),
        Err(problem) => problems.push(problem),
    }
    callbacks(spec, &mut problems);
    if let Err(error) = spec.output.key_template.parse::<KeyTemplate>() {
        problems.push(Problem::new("spec.output.keyTemplate", error));
    }
    if spec.model.device == Device::Cuda && spec.worker.gpu.count == 0 {
        problems.push(Problem::new("spec.model.device", "Cuda needs a GPU: set spec.worker.gpu.count to 1 or more"));
    }
    if let Some(task) = spec.model.task.declaration() {
        let wrong = task.check_parameters(&spec.model.parameters);
        problems.extend(wrong.iter().map(|error| Problem::new(format!("spec.{}", error.field), &error.message)));
    }
    let affinity = affinity(spec).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let server = server::read(spec, &mut problems);
    environment(spec, &mut problems);
    pod_metadata(spec, &mut problems);
    worker(spec, &mut problems);
    let rule = Rule::of(&spec.scaling.target).unwrap_or_else(|problem| {
        problems.push(problem);
        Rule::MessagesPerReplica(1)
    });
    let schedules = Schedule::all(&spec.scaling.schedules, &mut problems);
    let owner = consumer.controller_owner_ref(&()).unwrap_or_else(|| {
        problems.push(Problem::new("metadata.uid", "is missing: this object does not come from an API server"));
        OwnerReference::default()
    });
    if problems.is_empty() {
        Ok(Validated { consumer: Arc::clone(consumer), owner, rule, schedules, affinity, server })
    } else {
        Err(problems)
    }
}

fn affinity(spec: &QueueConsumerSpec) -> Result<Option<Affinity>, Problem> {
    let words = &spec.worker.affinity;
    if words.is_empty() {
        return Ok(None);
    }
    if let Some(key) = words.keys().find(|k| !["nodeAffinity", "podAffinity", "podAntiAffinity"].contains(&k.as_str()))
    {
        let message = "is unknown; an affinity has nodeAffinity, podAffinity and podAntiAffinity";
        return Err(Problem::new(format!("spec.worker.affinity.{key}"), message));
    }
    let read = serde_json::from_value(Value::Object(words.clone()));
    read.map(Some).map_err(|error| {
        Problem::new("spec.worker.affinity", format_args!("is not an affinity as pods have it: {error}"))
    })
}

fn reply_queues(spec: &QueueConsumerSpec, address: &QueueAddress, problems: &mut Vec<Problem>) {
    let own = spec.output.reply.iter().map(|reply| ("spec.output.reply.queueUrl".to_owned(), &reply.queue_url));
    let allowed = spec.queue.allow.reply_queues.iter().enumerate();
    let allowed = allowed.map(|(index, url)| (format!("spec.queue.allow.replyQueues[{index}]"), url));
    for (field, url) in own.chain(allowed) {
        if *url == spec.queue.url {
            problems.push(Problem::new(field, "is spec.queue.url itself, so each result would be a new job"));
        } else if let Some(why) = address.cannot_reach(&spec.queue, url) {
            problems.push(Problem::new(field, why));
        }
    }
}

fn callbacks(spec: &QueueConsumerSpec, problems: &mut Vec<Problem>) {
    let hosts = &spec.queue.allow.callback_hosts;
    if let Err(wrong) = CallbackHosts::parse(hosts) {
        let place = |(index, error)| Problem::new(format!("spec.queue.allow.callbackHosts[{index}]"), error);
        problems.extend(wrong.into_iter().map(place));
    }
    if spec.output.callback.is_some() && hosts.is_empty() {
        let message =
            "signs nothing, as no host may be called: list hosts in spec.queue.allow.callbackHosts, or remove it";
        problems.push(Problem::new("spec.output.callback", message));
    }
}

fn environment(spec: &QueueConsumerSpec, problems: &mut Vec<Problem>) {
    let token =
        spec.model.source.as_ref().and_then(|s| s.hugging_face.as_ref()).is_some_and(|h| h.token_secret_ref.is_some());
    let mut seen = BTreeSet::new();
    for (index, variable) in spec.worker.env.iter().enumerate() {
        let name = variable.name.as_str();
        let field = format!("spec.worker.env[{index}].name");
        if OWN_VARIABLES.contains(&name) {
            problems.push(Problem::new(field, format_args!("{name} is set by millrace itself: choose another name")));
        } else if token && name == "HF_TOKEN" {
            let message = "HF_TOKEN is set from spec.model.source.huggingFace.tokenSecretRef: remove one of the two";
            problems.push(Problem::new(field, message));
        } else if !seen.insert(name) {
            problems.push(Problem::new(field, format_args!("{name} is there twice: remove one of them")));
        }
    }
}

fn pod_metadata(spec: &QueueConsumerSpec, problems: &mut Vec<Problem>) {
    for label in spec.worker.pod_labels.keys().filter(|l| names::OWN_LABELS.contains(&l.as_str())) {
        let field = format!("spec.worker.podLabels[{label}]");
        problems.push(Problem::new(field, "is set by millrace itself, which finds its pods by it: remove it"));
    }
    for annotation in spec.worker.pod_annotations.keys().filter(|a| a.starts_with(ANNOTATION_PREFIX)) {
        let field = format!("spec.worker.podAnnotations[{annotation}]");
        problems.push(Problem::new(
            field,
            format_args!("annotations under {ANNOTATION_PREFIX} are millrace's own: remove it"),
        ));
    }
}

fn worker(spec: &QueueConsumerSpec, problems: &mut Vec<Problem>) {
    let worker = &spec.worker;
    for (part, amounts) in [("requests", &worker.resources.requests), ("limits", &worker.resources.limits)] {
        if worker.gpu.count > 0 && amounts.contains_key(&worker.gpu.resource_name) {
            let field = format!("spec.worker.resources.{part}[{}]", worker.gpu.resource_name);
            problems.push(Problem::new(field, "GPUs are asked for by spec.worker.gpu.count: remove it here"));
        }
    }
    if worker.service_account_name.is_some() && !worker.service_account_annotations.is_empty() {
        let message = "only a ServiceAccount that millrace makes can be annotated: annotate the one that spec.worker.serviceAccountName names yourself, or remove one of the two fields";
        problems.push(Problem::new("spec.worker.serviceAccountAnnotations", message));
    }
    if worker.termination_grace_period_seconds <= names::SHUTDOWN_MARGIN_SECONDS {
        let message = format_args!(
            "must be more than {} s, which a worker needs to hand back its jobs",
            names::SHUTDOWN_MARGIN_SECONDS
        );
        problems.push(Problem::new("spec.worker.terminationGracePeriodSeconds", message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::fixtures::with;

    /// The fields of all problems of a consumer with these changes.
    fn fields(changes: &[(&str, Value)]) -> Vec<String> {
        validate(&with(changes)).err().unwrap_or_default().into_iter().map(|p| p.field).collect()
    }

    #[test]
    fn each_problem_names_its_field() {
        let hf = json!({ "huggingFace": { "repository": "a/b", "tokenSecretRef": { "name": "hf", "key": "token" } } });
        let table: Vec<(Vec<(&str, Value)>, &str)> = vec![
            (vec![("/spec/queue/url", json!("http://localstack:4566/000000000000/q"))], "spec.queue.region"),
            (vec![("/spec/queue/url", json!("http://localstack:4566/"))], "spec.queue.url"),
            (vec![("/spec/output/keyTemplate", json!("{job}"))], "spec.output.keyTemplate"),
            (vec![("/spec/model/parameters", json!({ "milisecond": 5 }))], "spec.model.parameters.milisecond"),
            (vec![("/spec/model/parameters", json!({ "milliseconds": -5 }))], "spec.model.parameters.milliseconds"),
            (
                vec![("/spec/model/device", json!("Cuda")), ("/spec/worker/gpu", json!({ "count": 0 }))],
                "spec.model.device",
            ),
            (vec![("/spec/worker/affinity", json!({ "nodeAffinty": {} }))], "spec.worker.affinity.nodeAffinty"),
            (vec![("/spec/worker/affinity", json!({ "nodeAffinity": 3 }))], "spec.worker.affinity"),
            (
                vec![("/spec/worker/env", json!([{ "name": "MILLRACE_GPU_COUNT", "value": "" }]))],
                "spec.worker.env[0].name",
            ),
            (vec![("/spec/worker/env", json!([{ "name": "POD_NAME" }]))], "spec.worker.env[0].name"),
            (vec![("/spec/worker/env", json!([{ "name": "MILLRACE_CALLBACK_SECRET" }]))], "spec.worker.env[0].name"),
            (
                vec![("/spec/output/reply", json!({ "queueUrl": "https://sqs.eu-west-1.amazonaws.com/1/replies" }))],
                "spec.output.reply.queueUrl",
            ),
            (
                vec![(
                    "/spec/output/reply",
                    json!({ "queueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/prompts" }),
                )],
                "spec.output.reply.queueUrl",
            ),
            (
                vec![("/spec/queue/allow", json!({ "replyQueues": ["https://sqs.us-east-1.amazonaws.com/1/r", "r"] }))],
                "spec.queue.allow.replyQueues[1]",
            ),
            (
                vec![("/spec/queue/allow", json!({ "callbackHosts": ["*.example.com", "https://example.com"] }))],
                "spec.queue.allow.callbackHosts[1]",
            ),
            (
                vec![("/spec/output/callback", json!({ "secretRef": { "name": "hooks", "key": "secret" } }))],
                "spec.output.callback",
            ),
            (vec![("/spec/worker/env", json!([{ "name": "A" }, { "name": "A" }]))], "spec.worker.env[1].name"),
            (
                vec![("/spec/model/source", hf), ("/spec/worker/env", json!([{ "name": "HF_TOKEN" }]))],
                "spec.worker.env[0].name",
            ),
            (
                vec![("/spec/worker/podLabels", json!({ "app.kubernetes.io/name": "x" }))],
                "spec.worker.podLabels[app.kubernetes.io/name]",
            ),
            (
                vec![("/spec/worker/podAnnotations", json!({ "millrace.dev/config-hash": "x" }))],
                "spec.worker.podAnnotations[millrace.dev/config-hash]",
            ),
            (
                vec![("/spec/worker/resources", json!({ "limits": { "nvidia.com/gpu": 2 } }))],
                "spec.worker.resources.limits[nvidia.com/gpu]",
            ),
            (
                vec![
                    ("/spec/worker/serviceAccountName", json!("mine")),
                    ("/spec/worker/serviceAccountAnnotations", json!({ "a": "b" })),
                ],
                "spec.worker.serviceAccountAnnotations",
            ),
            (
                vec![("/spec/worker/terminationGracePeriodSeconds", json!(15))],
                "spec.worker.terminationGracePeriodSeconds",
            ),
            (vec![("/spec/scaling/target", json!({}))], "spec.scaling.target"),
            (vec![("/metadata/uid", Value::Null)], "metadata.uid"),
        ];
        for (changes, field) in table {
            assert_eq!(fields(&changes), [field], "{changes:?}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let found = fields(&[
            ("/spec/queue/url", json!("http://localstack:4566/000000000000/q")),
            ("/spec/output/keyTemplate", json!("{job}")),
            ("/spec/worker/env", json!([{ "name": "POD_NAME" }, { "name": "POD_NAMESPACE" }])),
        ]);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn what_looks_alike_and_is_fine() {
        let changes = [
            ("/spec/worker/env", json!([{ "name": "HF_TOKEN", "value": "x" }, { "name": "AWS_REGION", "value": "y" }])),
            ("/spec/worker/podLabels", json!({ "app.kubernetes.io/part-of-team": "x" })),
            ("/spec/worker/affinity", json!({ "nodeAffinity": {} })),
            ("/spec/worker/gpu", json!({ "count": 0 })),
            ("/spec/worker/resources", json!({ "limits": { "cpu": 2, "memory": "4Gi" } })),
        ];
        assert!(fields(&changes).is_empty(), "{:?}", fields(&changes));
    }
}
