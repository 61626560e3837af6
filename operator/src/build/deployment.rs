//! The Deployment of workers. Nothing of `spec.scaling` and nothing of the operator but the default image reaches the
//! pod template, so that neither scaling nor an upgrade restarts a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ImageVolumeSource, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext,
    Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_api::{
    CacheSpec, CallbackSpec, GpuSpec, ModelSource, Resources as Amounts, SecretKeyRef, ServerContainer, ServerSpec,
};

use super::names::{CACHE_FOLDER, CACHE_VOLUME, CONFIG_FILE, CONFIG_HASH, CONTAINER, PORT};
use super::{Defaults, metadata, names, parts, server, service_account};
use crate::validate::Validated;

/// The user and group of the worker image.
const USER: i64 = 65532;
/// A rollout that makes no progress for so long is reported by Kubernetes. Large models load for many minutes.
const PROGRESS_DEADLINE_SECONDS: i32 = 3600;

pub(super) fn build(consumer: &Validated, defaults: &Defaults, config_hash: &str) -> Deployment {
    let worker = &consumer.spec().worker;
    let template =
        PodTemplateSpec { metadata: Some(pod_metadata(consumer, config_hash)), spec: Some(pod(consumer, defaults)) };
    let annotations = Some(parts::annotation(consumer, &template));
    Deployment {
        metadata: ObjectMeta { annotations, ..metadata(consumer, defaults) },
        spec: Some(DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some(names::selector(&consumer.name())),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(worker.update_strategy.max_surge.clone()),
                    max_unavailable: Some(worker.update_strategy.max_unavailable.clone()),
                }),
            }),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            revision_history_limit: Some(3),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod_metadata(consumer: &Validated, config_hash: &str) -> ObjectMeta {
    let worker = &consumer.spec().worker;
    let mut labels = worker.pod_labels.clone();
    labels.extend(names::pod_labels(&consumer.name()));
    let mut annotations = worker.pod_annotations.clone();
    annotations.insert(CONFIG_HASH.into(), config_hash.into());
    ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

fn pod(consumer: &Validated, defaults: &Defaults) -> PodSpec {
    let worker = &consumer.spec().worker;
    PodSpec {
        service_account_name: Some(service_account::name(consumer)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // The kernel drops signals that the first process of a namespace does not handle yet: a worker told to stop as
        // it starts would never hear of it, and work on until its grace period is over. So the pause process is first.
        share_process_namespace: Some(true),
        termination_grace_period_seconds: Some(worker.termination_grace_period_seconds),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // A model volume may be large: its files' owners are set once, not at each start.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: sidecar(consumer).map(|(spec, own)| vec![server::container(consumer, spec, own)]),
        containers: vec![container(consumer, defaults)],
        volumes: Some(volumes(consumer)),
        tolerations: some(tolerations(consumer)),
        node_selector: Some(worker.node_selector.clone()).filter(|s| !s.is_empty()),
        affinity: consumer.affinity.clone(),
        priority_class_name: worker.priority_class_name.clone(),
        runtime_class_name: worker.runtime_class_name.clone(),
        image_pull_secrets: some(worker.image_pull_secrets.clone()),
        ..PodSpec::default()
    }
}

/// The model server beside the worker, where there is one.
fn sidecar(consumer: &Validated) -> Option<(&ServerSpec, &ServerContainer)> {
    let spec = consumer.spec().model.server.as_ref()?;
    Some((spec, spec.container.as_ref()?))
}

/// GPUs of the worker's own container: a model server has them all.
fn gpu(consumer: &Validated) -> GpuSpec {
    let gpu = consumer.spec().worker.gpu.clone();
    if sidecar(consumer).is_some() { GpuSpec { count: 0, ..gpu } } else { gpu }
}

fn container(consumer: &Validated, defaults: &Defaults) -> Container {
    let worker = &consumer.spec().worker;
    let default_image = if consumer.on_cpu() { &defaults.image } else { &defaults.cuda_image };
    Container {
        name: CONTAINER.into(),
        image: Some(worker.image.clone().unwrap_or_else(|| default_image.clone())),
        image_pull_policy: worker.image_pull_policy.map(|p| p.name().into()),
        args: Some(["run", "--config", &format!("{CONFIG_FOLDER}/{CONFIG_FILE}")].map(str::to_owned).into()),
        env: Some(environment(consumer)),
        env_from: some(worker.env_from.clone()),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.into()),
            container_port: PORT.into(),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(amounts(&worker.resources, &gpu(consumer))),
        // Loading a model takes its time: liveness is progress, and the server answers while it loads.
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts(consumer)),
        ..Container::default()
    }
}

const PORT_NAME: &str = "http";

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(PORT_NAME.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// A container's resources with its GPUs.
pub(super) fn amounts(amounts: &Amounts, gpu: &GpuSpec) -> ResourceRequirements {
    let with_gpus = |mut amounts: BTreeMap<String, Quantity>| {
        if gpu.count > 0 {
            amounts.insert(gpu.resource_name.clone(), Quantity(gpu.count.to_string()));
        }
        (!amounts.is_empty()).then_some(amounts)
    };
    ResourceRequirements {
        requests: with_gpus(Amounts::quantities(&amounts.requests)),
        limits: with_gpus(Amounts::quantities(&amounts.limits)),
        claims: None,
    }
}

fn tolerations(consumer: &Validated) -> Vec<Toleration> {
    let worker = &consumer.spec().worker;
    let gpu = Toleration {
        key: Some(worker.gpu.resource_name.clone()),
        operator: Some("Exists".into()),
        effect: Some("NoSchedule".into()),
        ..Toleration::default()
    };
    (worker.gpu.count > 0).then_some(gpu).into_iter().chain(worker.tolerations.clone()).collect()
}

fn environment(consumer: &Validated) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let worker = &consumer.spec().worker;
    let mut variables = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        EnvVar { name: "MILLRACE_GPU_COUNT".into(), value: Some(gpu(consumer).count.to_string()), ..EnvVar::default() },
    ];
    let hugging_face = source(consumer).and_then(|source| source.hugging_face.as_ref());
    if let Some(token) = hugging_face.and_then(|source| source.token_secret_ref.as_ref()) {
        variables.push(from_secret("HF_TOKEN", token));
    }
    if let Some(callback) = &consumer.spec().output.callback {
        variables.push(from_secret(CallbackSpec::VARIABLE, &callback.secret_ref));
    }
    variables.extend(worker.env.clone());
    variables
}

fn from_secret(name: &str, secret: &SecretKeyRef) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.name.clone(),
                key: secret.key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

const CONFIG_FOLDER: &str = "/etc/millrace";
const MODELS_FOLDER: &str = "/models";
const MODELS_VOLUME: &str = "models";

fn volumes(consumer: &Validated) -> Vec<Volume> {
    let volume = |name: &str| Volume { name: name.into(), ..Volume::default() };
    let mut volumes = vec![
        Volume {
            config_map: Some(ConfigMapVolumeSource { name: consumer.name(), ..ConfigMapVolumeSource::default() }),
            ..volume("config")
        },
        cache(&consumer.spec().model.cache, volume(CACHE_VOLUME)),
        Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..volume("tmp") },
    ];
    volumes.extend(models(consumer));
    volumes.extend(sidecar(consumer).into_iter().flat_map(|(_, own)| server::volumes(consumer, own)));
    volumes
}

/// The volume that the model lies on, where it is not downloaded.
fn models(consumer: &Validated) -> Option<Volume> {
    let ModelSource { persistent_volume_claim: claim, image, .. } = source(consumer)?;
    let claim = claim
        .as_ref()
        .map(|claim| PersistentVolumeClaimVolumeSource { claim_name: claim.claim_name.clone(), read_only: Some(true) });
    let image = image.as_ref().map(|image| ImageVolumeSource {
        reference: Some(image.reference.clone()),
        pull_policy: image.pull_policy.map(|policy| policy.name().into()),
    });
    let there = claim.is_some() || image.is_some();
    there.then(|| Volume { name: MODELS_VOLUME.into(), persistent_volume_claim: claim, image, ..Volume::default() })
}

/// Where downloads are kept; `volume` has its name.
fn cache(spec: &CacheSpec, volume: Volume) -> Volume {
    if let Some(claim) = &spec.persistent_volume_claim {
        let claim_name = claim.claim_name.clone();
        let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
        return Volume { persistent_volume_claim: Some(source), ..volume };
    }
    let source = EmptyDirVolumeSource {
        size_limit: spec.empty_dir.size_limit.clone().map(Quantity),
        medium: spec.empty_dir.medium.map(|medium| medium.name().into()),
    };
    Volume { empty_dir: Some(source), ..volume }
}

fn mounts(consumer: &Validated) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount("config", CONFIG_FOLDER, true),
        mount(CACHE_VOLUME, CACHE_FOLDER, false),
        mount("tmp", "/tmp", false),
    ];
    if models(consumer).is_some() {
        mounts.push(mount(MODELS_VOLUME, MODELS_FOLDER, true));
    }
    mounts
}

fn source(consumer: &Validated) -> Option<&ModelSource> {
    consumer.spec().model.source.as_ref()
}

pub(super) fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
