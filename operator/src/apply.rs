//! Makes the cluster as it should be: server-side apply with one field manager, and removal of what is no longer wanted.
//!
//! An object of a child's name that this QueueConsumer does not own is never touched. What was applied and has not
//! changed since is left alone, so that a pass without news costs no request and builds nothing. `status.appliedHash`
//! carries that over a restart. It stands for each object as it was built, and for the uid and the generation (or
//! resourceVersion) that the API server gave it in answer: who changes an object changes these, also where nothing else
//! tells of it, such as a field that was taken out. The hash is written after the objects, so that one that is missing or
//! old costs an apply and never leaves one out. Every apply of the Deployment carries
//! `spec.replicas`, since one without would reset it to 1: the plan's count, or the live value where the count is held.
//! The live Deployment is read right before; where that fails nothing is applied.
//!
//! An API server whose feature gate ImageVolume is off takes a template with an image volume and leaves out the volume
//! and its mounts. So a Deployment with one that was not applied yet is tried in a dry run before anything is written:
//! workers that run stay as they are.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use millrace_api::{LastScale, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::build::{Resources, parts};
use crate::error::{CallError, within};
use crate::memory::Memory;
use crate::observe::{Observed, deployment_replicas};
use crate::retire::Plan;
use crate::scale::Decision;
use crate::validate::Validated;

/// The one field manager of everything that the operator writes.
pub(crate) const FIELD_MANAGER: &str = "millrace-operator";

/// An object could not be made as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Somebody else's object has the name.
    #[error(
        "{kind} {name} exists already and does not belong to this QueueConsumer, so it is left as it is: delete or rename it, or give the QueueConsumer another name"
    )]
    NameTaken { kind: &'static str, name: String },
    /// The API server refuses the object.
    #[error("Kubernetes refuses {kind} {name}: {message}")]
    Refused { kind: &'static str, name: String, message: String },
    /// The API server leaves image volumes out.
    #[error(
        "the cluster does not support image volumes, so nothing was changed: enable the feature gate ImageVolume (Kubernetes 1.31 or newer), or use another model.source"
    )]
    NoImageVolumes,
    /// The API server could not be asked.
    #[error("{kind} {name} could not be applied: {source}")]
    Unavailable { kind: &'static str, name: String, source: CallError },
}

impl ApplyError {
    /// Why, in one CamelCase word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => reason::NAME_TAKEN,
            Self::NoImageVolumes => reason::IMAGE_VOLUMES_UNSUPPORTED,
            Self::Refused { .. } | Self::Unavailable { .. } => reason::APPLY_FAILED,
        }
    }

    fn of(kind: &'static str, name: &str, error: CallError) -> Self {
        if error.is_refusal() {
            Self::Refused { kind, name: name.into(), message: error.to_string() }
        } else {
            Self::Unavailable { kind, name: name.into(), source: error }
        }
    }
}

/// As they are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The Deployment was made by this pass.
    pub(crate) created: bool,
    /// What makes new pods, in words: `image a → b`.
    pub(crate) rollout: Vec<String>,
    /// The count was not the one that the decision was made from; decide again soon.
    pub(crate) moved: bool,
    /// The count that the Deployment was left with.
    pub(crate) replicas: i32,
    /// All objects as they were applied, where none is missing or still to be removed.
    pub(crate) hash: Option<String>,
}

/// An object as it was applied: enough to see that nothing changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fingerprint {
    /// Of what was built; the count is not part of it, but moves the Deployment's generation.
    hash: String,
    uid: Option<String>,
    revision: Option<String>,
}

impl Fingerprint {
    fn of(hash: &str, live: &ObjectMeta) -> Self {
        // The generation does not move with the status; objects that have none have no status either.
        let revision = live.generation.map(|g| g.to_string()).or_else(|| live.resource_version.clone());
        Self { hash: hash.into(), uid: live.uid.clone(), revision }
    }
}

/// Every object is in `Memory::applied`, as built from one generation of the spec, and none is still to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    generation: i64,
    hash: String,
}

/// A namespaced object that a QueueConsumer may own.
pub(crate) trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
    /// Its kind, for messages.
    const KIND: &'static str;
}

impl Child for Deployment {
    const KIND: &'static str = "Deployment";
}
impl Child for ConfigMap {
    const KIND: &'static str = "ConfigMap";
}
impl Child for ServiceAccount {
    const KIND: &'static str = "ServiceAccount";
}
impl Child for PodDisruptionBudget {
    const KIND: &'static str = "PodDisruptionBudget";
}

/// What a pass leaves as it is, found without building anything: all was applied from this very spec, nothing has
/// changed since, and the count is the plan's.
pub(crate) fn standing(consumer: &Validated, plan: &Plan, seen: &Observed, memory: &Memory) -> Option<Applied> {
    let whole = memory.whole.as_ref().filter(|w| Some(w.generation) == consumer.consumer().metadata.generation)?;
    let deployment = seen.deployment.as_deref()?;
    let watched = [
        (ServiceAccount::KIND, seen.service_account.as_ref()),
        (ConfigMap::KIND, seen.config_map.as_ref()),
        (Deployment::KIND, Some(deployment.meta())),
        (PodDisruptionBudget::KIND, seen.budget.as_ref()),
    ];
    let same = watched.into_iter().all(|(kind, live)| match (memory.applied.get(kind), live) {
        (Some(applied), Some(live)) => *applied == Fingerprint::of(&applied.hash, live),
        (Some(_), None) => false,
        (None, live) => !live.is_some_and(|live| owns(&consumer.owner, live)),
    });
    let replicas = deployment_replicas(deployment);
    let hash = Some(whole.hash.clone());
    (same && replicas == plan.replicas).then(|| Applied { replicas, hash, ..Applied::default() })
}

/// Applies what was built, with the count of the plan that a decision led to. A change of the count stays in `memory.unreported`, also where
/// something fails after it.
pub(crate) async fn apply(
    client: &Client,
    consumer: &Validated,
    built: Resources,
    decision: &Decision,
    plan: &Plan,
    seen: &Observed,
    memory: &mut Memory,
) -> Result<Applied, ApplyError> {
    memory.whole = None;
    if memory.applied.is_empty()
        && let Some(told) = consumer.consumer().status.as_ref().and_then(|status| status.applied_hash.as_deref())
    {
        memory.applied = remembered(&built, seen, told).unwrap_or_default();
    }
    let Resources { service_account, config_map, mut deployment, pod_disruption_budget } = built;
    let deployment_hash = hash(&deployment);
    let mut hand = Hand { client, namespace: consumer.namespace(), owner: &consumer.owner, memory };
    let known = hand.memory.applied.get(Deployment::KIND).is_some_and(|applied| applied.hash == deployment_hash);
    if has_image_volume(&deployment) && !known {
        hand.try_image_volume(&deployment).await?;
    }
    if let Some(account) = &service_account {
        hand.ensure(account, seen.service_account.as_ref()).await?;
    }
    hand.ensure(&config_map, seen.config_map.as_ref()).await?;
    let applied = hand.deploy(&mut deployment, &deployment_hash, decision, plan, seen.deployment.as_deref()).await?;
    hand.ensure(&pod_disruption_budget, seen.budget.as_ref()).await?;
    // Not before the last worker that uses it is replaced; the Deployment's progress wakes the pass that does it.
    let watched = seen.deployment.as_deref().map(Resource::meta);
    let settled = !seen.rolling() && hand.is_as_applied::<Deployment>(&deployment_hash, watched);
    if service_account.is_none() && settled {
        hand.remove::<ServiceAccount>(&consumer.name(), seen.service_account.as_ref()).await?;
    }
    let generation = consumer.consumer().metadata.generation.filter(|_| service_account.is_some() || settled);
    memory.whole = generation.map(|generation| Whole { generation, hash: hash(&memory.applied) });
    let hash = memory.whole.as_ref().map(|whole| whole.hash.clone());
    Ok(Applied { replicas: deployment_replicas(&deployment), hash, ..applied })
}

/// What was applied before a restart, where the status tells of the very objects that are there, and of what would be
/// applied now.
fn remembered(built: &Resources, seen: &Observed, told: &str) -> Option<BTreeMap<&'static str, Fingerprint>> {
    let objects = [
        (ServiceAccount::KIND, built.service_account.as_ref().map(hash), seen.service_account.as_ref()),
        (ConfigMap::KIND, Some(hash(&built.config_map)), seen.config_map.as_ref()),
        (Deployment::KIND, Some(hash(&built.deployment)), seen.deployment.as_deref().map(Resource::meta)),
        (PodDisruptionBudget::KIND, Some(hash(&built.pod_disruption_budget)), seen.budget.as_ref()),
    ];
    let wanted = objects.into_iter().filter_map(|(kind, hash, live)| Some((kind, hash?, live)));
    let applied: Option<BTreeMap<_, _>> =
        wanted.map(|(kind, hash, live)| Some((kind, Fingerprint::of(&hash, live?)))).collect();
    applied.filter(|applied| hash(applied) == told)
}

/// Writes for one QueueConsumer.
struct Hand<'a> {
    client: &'a Client,
    namespace: String,
    owner: &'a OwnerReference,
    memory: &'a mut Memory,
}

impl Hand<'_> {
    fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies an object unless it is as it was applied.
    async fn ensure<K: Child>(&mut self, wanted: &K, watched: Option<&ObjectMeta>) -> Result<(), ApplyError> {
        let hash = hash(wanted);
        if !self.is_as_applied::<K>(&hash, watched) {
            let live = self.live::<K>(&wanted.name_any()).await?;
            self.write(wanted, live.as_ref(), &hash).await?;
        }
        Ok(())
    }

    /// Whether the API server keeps the image volume of a Deployment.
    async fn try_image_volume(&self, wanted: &Deployment) -> Result<(), ApplyError> {
        let parameters = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        match within(self.api::<Deployment>().patch(&wanted.name_any(), &parameters, &Patch::Apply(wanted))).await {
            Ok(taken) if !has_image_volume(&taken) => Err(ApplyError::NoImageVolumes),
            // Before 1.31 the field is not known at all.
            Err(error) if error.to_string().contains("image: field not declared in schema") => {
                Err(ApplyError::NoImageVolumes)
            }
            // What else is wrong the write itself meets, and tells.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Applies the Deployment with its count; `hash` is of what was built, without one.
    async fn deploy(
        &mut self,
        wanted: &mut Deployment,
        hash: &str,
        decision: &Decision,
        plan: &Plan,
        watched: Option<&Deployment>,
    ) -> Result<Applied, ApplyError> {
        set_replicas(wanted, plan.replicas);
        let counted = watched.is_some_and(|watched| deployment_replicas(watched) == plan.replicas);
        if counted && self.is_as_applied::<Deployment>(hash, watched.map(Resource::meta)) {
            return Ok(Applied::default());
        }
        let live = self.live::<Deployment>(&wanted.name_any()).await?;
        let Some(live) = live else {
            self.write_deployment(wanted, None, hash).await?;
            self.scaled(decision, plan, 0, plan.replicas);
            return Ok(Applied { created: true, ..Applied::default() });
        };
        let replicas = deployment_replicas(&live);
        // A decision speaks of the count that it was made from. Where that is not the live one, the live one stays.
        let moved = replicas != decision.from;
        if moved || decision.holds() {
            set_replicas(wanted, replicas);
        }
        let after = deployment_replicas(wanted);
        let rollout = parts::differences(live.annotations(), wanted.annotations());
        self.write_deployment(wanted, Some(&live), hash).await?;
        self.scaled(decision, plan, replicas, after);
        Ok(Applied { rollout, moved, ..Applied::default() })
    }

    /// Where several API servers answer and one of them leaves the image volume out, the next pass writes again.
    async fn write_deployment(
        &mut self,
        wanted: &Deployment,
        live: Option<&Deployment>,
        hash: &str,
    ) -> Result<(), ApplyError> {
        let written = self.write(wanted, live, hash).await?;
        if has_image_volume(wanted) && !has_image_volume(&written) {
            self.memory.applied.remove(Deployment::KIND);
        }
        Ok(())
    }

    /// Remembers a change of the count at once: what comes after it may fail.
    fn scaled(&mut self, decision: &Decision, plan: &Plan, from: i32, to: i32) {
        if from != to {
            let reason = decision.word();
            let time = Time(Timestamp::now());
            let message = match &plan.waits {
                Some(waits) => format!("{}; {waits}", decision.message),
                None => decision.message.clone(),
            };
            self.memory.unreported = Some(LastScale { time, from, to, reason, message });
        }
    }

    /// Deletes an object of this consumer that is no longer wanted.
    async fn remove<K: Child>(&mut self, name: &str, watched: Option<&ObjectMeta>) -> Result<(), ApplyError> {
        self.memory.applied.remove(K::KIND);
        let Some(watched) = watched.filter(|meta| self.owns(meta)) else { return Ok(()) };
        let same = Preconditions { uid: watched.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        match within(self.api::<K>().delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(ApplyError::of(K::KIND, name, error)),
        }
    }

    /// The object as it is, which must be this consumer's if it is there.
    async fn live<K: Child>(&self, name: &str) -> Result<Option<K>, ApplyError> {
        let live = within(self.api::<K>().get_opt(name)).await.map_err(|e| ApplyError::of(K::KIND, name, e))?;
        match live {
            Some(live) if !self.owns(live.meta()) => Err(ApplyError::NameTaken { kind: K::KIND, name: name.into() }),
            live => Ok(live),
        }
    }

    /// Server-side apply, onto the very object that was read where there was one.
    async fn write<K: Child>(&mut self, wanted: &K, live: Option<&K>, hash: &str) -> Result<K, ApplyError> {
        let name = wanted.name_any();
        let mut patch = wanted.clone();
        patch.meta_mut().uid = live.and_then(|live| live.meta().uid.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let written = within(self.api::<K>().patch(&name, &parameters, &Patch::Apply(&patch))).await;
        let written = written.map_err(|error| ApplyError::of(K::KIND, &name, error))?;
        self.memory.applied.insert(K::KIND, Fingerprint::of(hash, written.meta()));
        Ok(written)
    }

    fn is_as_applied<K: Child>(&self, hash: &str, watched: Option<&ObjectMeta>) -> bool {
        let applied = self.memory.applied.get(K::KIND);
        watched.is_some_and(|live| applied == Some(&Fingerprint::of(hash, live)))
    }

    fn owns(&self, meta: &ObjectMeta) -> bool {
        owns(self.owner, meta)
    }
}

fn owns(owner: &OwnerReference, meta: &ObjectMeta) -> bool {
    meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == owner.uid)
}

fn has_image_volume(deployment: &Deployment) -> bool {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.is_some_and(|pod| pod.volumes.iter().flatten().any(|volume| volume.image.is_some()))
}

fn set_replicas(deployment: &mut Deployment, replicas: i32) {
    deployment.spec.get_or_insert_default().replicas = Some(replicas);
}

fn hash<K: Serialize>(object: &K) -> String {
    // Kubernetes' own types always serialize; should one not, its hash equals no other's and it is applied each time.
    let bytes = serde_json::to_vec(object).unwrap_or_else(|error| format!("{error}{}", fastrand::u64(..)).into_bytes());
    hex::encode(&Sha256::digest(bytes)[..16])
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
