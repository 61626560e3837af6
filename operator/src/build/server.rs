//! The container of a model server, as a native sidecar: an init container that goes on running, so it is up before the
//! worker and stopped after it has given its last job back.

use k8s_openapi::api::core::v1::{Container, ContainerPort, EmptyDirVolumeSource, EnvVar, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use millrace_api::{ServerContainer, ServerSpec};

use super::deployment::{amounts, some};
use super::names::{CACHE_VOLUME, SERVER, SERVER_MOUNTS, SERVER_TMP, SHARED_MEMORY};
use crate::validate::Validated;

/// The sidecar.
pub(super) fn container(consumer: &Validated, server: &ServerSpec, own: &ServerContainer) -> Container {
    let words = consumer.server.clone().unwrap_or_default();
    Container {
        name: SERVER.into(),
        image: Some(own.image.clone()),
        image_pull_policy: own.image_pull_policy.map(|policy| policy.name().into()),
        restart_policy: Some("Always".into()),
        command: some(own.command.clone()),
        args: some(own.args.clone()),
        env: some(environment(server, own)),
        env_from: some(own.env_from.clone()),
        ports: Some(vec![ContainerPort {
            name: Some(SERVER.into()),
            container_port: server.port,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(amounts(&own.resources, &consumer.spec().worker.gpu)),
        liveness_probe: words.liveness_probe,
        security_context: Some(words.security_context),
        volume_mounts: Some(mounts(own)),
        ..Container::default()
    }
}

fn environment(server: &ServerSpec, own: &ServerContainer) -> Vec<EnvVar> {
    // a root file system that cannot be written has no home
    let ours = [("PORT", server.port.to_string()), ("HOME", "/tmp".to_owned())];
    let ours = ours.into_iter().filter(|(name, _)| own.env.iter().all(|variable| variable.name != *name));
    let variable = |(name, value): (&str, String)| EnvVar { name: name.into(), value: Some(value), value_from: None };
    ours.map(variable).chain(own.env.clone()).collect()
}

fn mounts(own: &ServerContainer) -> Vec<VolumeMount> {
    let ours = [SHARED_MEMORY, SERVER_TMP, CACHE_VOLUME].into_iter().zip(SERVER_MOUNTS);
    let mount = |(name, path): (&str, &str)| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        ..VolumeMount::default()
    };
    ours.map(mount).chain(own.volume_mounts.clone()).collect()
}

/// Volumes of the pod for it.
pub(super) fn volumes(consumer: &Validated, own: &ServerContainer) -> Vec<Volume> {
    let size_limit = own.shared_memory.size_limit.clone().map(Quantity);
    let memory = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit };
    let volume = |name: &str, source| Volume { name: name.into(), empty_dir: Some(source), ..Volume::default() };
    let ours = [volume(SHARED_MEMORY, memory), volume(SERVER_TMP, EmptyDirVolumeSource::default())];
    let words = consumer.server.iter().flat_map(|words| words.volumes.clone());
    ours.into_iter().chain(words).collect()
}
