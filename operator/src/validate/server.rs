//! What the schema cannot check of `spec.model.server`, and its container's words read as a pod has them.

use k8s_openapi::api::core::v1::{Capabilities, Probe, SecurityContext, Volume};
use millrace_api::{QueueConsumerSpec, ServerContainer};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Problem;
use crate::build::names;

/// What `spec.model.server.container` says in a pod's own words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words {
    /// Over the default.
    pub(crate) security_context: SecurityContext,
    /// The spec's own volumes.
    pub(crate) volumes: Vec<Volume>,
    /// Where it has one.
    pub(crate) liveness_probe: Option<Probe>,
}

/// Checks the server, where there is one.
pub(super) fn read(spec: &QueueConsumerSpec, problems: &mut Vec<Problem>) -> Option<Words> {
    let server = spec.model.server.as_ref()?;
    if server.port == i32::from(names::PORT) {
        let message = format_args!(
            "{} is the worker's own, and a pod's containers share their ports: choose another one",
            names::PORT
        );
        problems.push(Problem::new("spec.model.server.port", message));
    }
    let own = server.container.as_ref()?;
    gpus(spec, own, problems);
    mounts(own, problems);
    let words = Words {
        security_context: parse("securityContext", over_default(&own.security_context), problems).unwrap_or_default(),
        volumes: volumes(own, problems),
        liveness_probe: Some(own.liveness_probe.clone())
            .filter(|probe| !probe.is_empty())
            .and_then(|probe| parse("livenessProbe", probe, problems)),
    };
    Some(words)
}

fn field(name: &str) -> String {
    format!("spec.model.server.container.{name}")
}

fn parse<T: DeserializeOwned>(name: &str, words: Map<String, Value>, problems: &mut Vec<Problem>) -> Option<T> {
    let read = serde_json::from_value(Value::Object(words));
    read.map_err(|error| problems.push(Problem::new(field(name), format_args!("is not one as pods have it: {error}"))))
        .ok()
}

/// Restricted, as Pod Security means it, where the spec says nothing else.
fn over_default(words: &Map<String, Value>) -> Map<String, Value> {
    let default = SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    };
    let Ok(Value::Object(mut all)) = serde_json::to_value(default) else { return words.clone() };
    all.extend(words.clone());
    all
}

fn gpus(spec: &QueueConsumerSpec, own: &ServerContainer, problems: &mut Vec<Problem>) {
    let gpu = &spec.worker.gpu;
    for (part, amounts) in [("requests", &own.resources.requests), ("limits", &own.resources.limits)] {
        if gpu.count > 0 && amounts.contains_key(&gpu.resource_name) {
            let message = "GPUs are asked for by spec.worker.gpu.count, and the server gets them all: remove it here";
            problems.push(Problem::new(field(&format!("resources.{part}[{}]", gpu.resource_name)), message));
        }
    }
}

fn volumes(own: &ServerContainer, problems: &mut Vec<Problem>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for (index, words) in own.volumes.iter().enumerate() {
        let Some(volume) = parse::<Volume>(&format!("volumes[{index}]"), words.clone(), problems) else { continue };
        let name = field(&format!("volumes[{index}].name"));
        if volume.name.is_empty() {
            problems.push(Problem::new(name, "is missing: volumeMounts name a volume by it"));
        } else if names::VOLUMES.contains(&volume.name.as_str()) {
            problems.push(Problem::new(
                name,
                format_args!("{} is a volume of millrace's own: choose another name", volume.name),
            ));
        } else if volumes.iter().any(|other| other.name == volume.name) {
            problems.push(Problem::new(name, format_args!("{} is there twice: remove one of them", volume.name)));
        }
        volumes.push(volume);
    }
    volumes
}

fn mounts(own: &ServerContainer, problems: &mut Vec<Problem>) {
    let known = |name: &str| {
        name == names::CACHE_VOLUME
            || own.volumes.iter().any(|volume| volume.get("name").and_then(Value::as_str) == Some(name))
    };
    for (index, mount) in own.volume_mounts.iter().enumerate() {
        if !known(&mount.name) {
            let message =
                format_args!("{} is no volume: name one of container.volumes, or {}", mount.name, names::CACHE_VOLUME);
            problems.push(Problem::new(field(&format!("volumeMounts[{index}].name")), message));
        }
        if names::SERVER_MOUNTS.contains(&mount.mount_path.trim_end_matches('/')) {
            let message = format_args!(
                "{} is mounted already: see container.sharedMemory and model.cache, or choose another path",
                mount.mount_path
            );
            problems.push(Problem::new(field(&format!("volumeMounts[{index}].mountPath")), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate;
    use super::*;
    use crate::build::fixtures::with;

    /// A consumer whose server's container has this besides its image.
    fn fields(container: &Value) -> Vec<String> {
        let mut own = json!({ "image": "server:1" });
        own.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let model = json!({ "task": "Http", "server": { "path": "/", "container": own } });
        problems(&[("/spec/model", model)])
    }

    fn problems(changes: &[(&str, Value)]) -> Vec<String> {
        validate(&with(changes)).err().unwrap_or_default().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn each_problem_names_its_field() {
        let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": "w" } });
        let mount = |name: &str, path: &str| json!([{ "name": name, "mountPath": path }]);
        let table = [
            (json!({ "securityContext": { "runAsUser": "root" } }), "securityContext"),
            (json!({ "livenessProbe": { "httpGet": 3 } }), "livenessProbe"),
            (json!({ "volumes": [{ "name": "w", "emptyDir": 3 }] }), "volumes[0]"),
            (json!({ "volumes": [{ "emptyDir": {} }] }), "volumes[0].name"),
            (json!({ "volumes": [claim("tmp")] }), "volumes[0].name"),
            (json!({ "volumes": [claim("w"), claim("w")] }), "volumes[1].name"),
            (json!({ "volumeMounts": mount("w", "/w") }), "volumeMounts[0].name"),
            (json!({ "volumeMounts": mount("cache", "/dev/shm/") }), "volumeMounts[0].mountPath"),
            (json!({ "resources": { "limits": { "nvidia.com/gpu": 1 } } }), "resources.limits[nvidia.com/gpu]"),
        ];
        for (container, wanted) in table {
            assert_eq!(fields(&container), [field(wanted)], "{container}");
        }
        let model = json!({ "task": "Http", "server": { "path": "/", "port": 8080, "container": { "image": "s" } } });
        assert_eq!(problems(&[("/spec/model", model)]), ["spec.model.server.port"]);
    }

    #[test]
    fn what_is_right_is_taken() {
        let claim = json!({ "name": "weights", "persistentVolumeClaim": { "claimName": "w" } });
        let own = json!({
            "securityContext": { "runAsUser": 0, "runAsNonRoot": false },
            "volumes": [claim],
            "volumeMounts": [{ "name": "weights", "mountPath": "/weights" }, { "name": "cache", "mountPath": "/root/.cache" }],
            "livenessProbe": { "httpGet": { "path": "/health", "port": "server" } },
        });
        assert!(fields(&own).is_empty(), "{:?}", fields(&own));
    }
}
