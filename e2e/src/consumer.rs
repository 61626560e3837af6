//! A QueueConsumer that was applied, and what belongs to it.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use millrace_api::{QueueConsumer, QueueConsumerStatus, WorkerState};
use serde_json::{Value, json};

use crate::{Lab, Record, Timeline, eventually};

/// A QueueConsumer of a scenario.
#[derive(Debug)]
pub struct Consumer<'a> {
    lab: &'a Lab,
    name: String,
}

/// An object's name.
pub fn name_of(object: &impl kube::Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

impl<'a> Consumer<'a> {
    pub(crate) fn new(lab: &'a Lab, name: String) -> Self {
        Self { lab, name }
    }

    /// Its place.
    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn api(&self) -> Api<QueueConsumer> {
        self.lab.api()
    }

    /// What it puts its keys under.
    pub fn prefix(&self) -> String {
        format!("{}/{}/", self.lab.name, self.name)
    }

    /// As it is now.
    pub async fn get(&self) -> Result<QueueConsumer> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Changes fields of its spec, and waits until the operator has seen that.
    pub async fn change(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let changed = self.api().patch(&self.name, &PatchParams::default(), &patch).await?;
        let generation = changed.metadata.generation;
        eventually("the operator has seen the change", async || {
            ensure!(self.status().await?.observed_generation >= generation, "an older generation is in the status");
            Ok(())
        })
        .await
    }

    /// Deletes it.
    pub async fn delete(&self) -> Result<()> {
        self.api().delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Its status.
    pub async fn status(&self) -> Result<QueueConsumerStatus> {
        self.get().await?.status.context("no status yet")
    }

    /// One of its conditions.
    pub async fn condition(&self, kind: &str) -> Result<Condition> {
        let conditions = self.status().await?.conditions;
        conditions.into_iter().find(|c| c.type_ == kind).with_context(|| format!("no condition {kind}"))
    }

    /// Waits for a condition of this status, reason and message.
    pub async fn await_condition(&self, kind: &str, status: &str, reason: &str, words: &[&str]) -> Result<Condition> {
        let name = &self.name;
        eventually(format!("{name}: {kind} is {status} because of {reason}"), async || {
            let found = self.condition(kind).await?;
            ensure!(
                found.status == status && found.reason == reason && words.iter().all(|w| found.message.contains(w)),
                "{kind} is {} because of {}: {} (wanted words: {words:?})",
                found.status,
                found.reason,
                found.message
            );
            Ok(found)
        })
        .await
    }

    /// Waits until it has no such condition.
    pub async fn await_no_condition(&self, kind: &str) -> Result<()> {
        eventually(format!("{}: it is not {kind}", self.name), async || {
            let conditions = self.status().await?.conditions;
            ensure!(conditions.iter().all(|c| c.type_ != kind), "{conditions:?}");
            Ok(())
        })
        .await
    }

    /// Its Deployment.
    pub async fn deployment(&self) -> Result<Deployment> {
        Ok(self.lab.api::<Deployment>().get(&self.name).await?)
    }

    /// Changes its Deployment's count, as `kubectl scale` would.
    pub async fn scale_by_hand(&self, replicas: i32) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        self.lab.api::<Deployment>().patch_scale(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The worker counts that are asked for from now on.
    pub fn timeline(&self) -> Timeline {
        Timeline::of(self.lab.api(), &self.name)
    }

    /// Its pods, terminating ones too, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let mut pods = self.lab.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items;
        pods.sort_by_key(name_of);
        Ok(pods)
    }

    /// Waits until it has exactly so many pods, all of them ready.
    pub async fn await_ready(&self, count: usize) -> Result<Vec<Pod>> {
        eventually(format!("{}: {count} workers are ready", self.name), async || {
            let pods = self.pods().await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!((pods.len(), ready) == (count, count), "{} pods, {ready} of them ready", pods.len());
            Ok(pods)
        })
        .await
    }

    /// A worker's own view.
    pub async fn state(&self, pod: &Pod) -> Result<WorkerState> {
        let text = self.lab.ask_pod(&self.lab.name, &name_of(pod), "/state").await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The workers that hold a message now.
    pub async fn holders(&self, message_id: &str) -> Result<Vec<Pod>> {
        let mut holders = Vec::new();
        for pod in self.pods().await? {
            if self.state(&pod).await?.jobs.iter().any(|job| job.message_id == message_id) {
                holders.push(pod);
            }
        }
        Ok(holders)
    }

    /// Waits until so many workers hold a message.
    pub async fn await_holders(&self, message_id: &str, count: usize) -> Result<Vec<Pod>> {
        eventually(format!("{}: {count} workers hold message {message_id}", self.name), async || {
            let holders = self.holders(message_id).await?;
            ensure!(holders.len() == count, "{} do", holders.len());
            Ok(holders)
        })
        .await
    }

    /// Jobs that its workers completed since they started.
    pub async fn completed(&self) -> Result<u64> {
        let mut completed = 0;
        for pod in self.pods().await? {
            completed += self.state(&pod).await?.completed;
        }
        Ok(completed)
    }

    async fn all_events(&self) -> Result<Vec<Event>> {
        let about = format!("involvedObject.kind=QueueConsumer,involvedObject.name={}", self.name);
        let mut events = self.lab.api::<Event>().list(&ListParams::default().fields(&about)).await?.items;
        events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        Ok(events)
    }

    /// Its Events, oldest first, as `reason: message`.
    pub async fn events(&self) -> Result<Vec<String>> {
        let line =
            |event: Event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        Ok(self.all_events().await?.into_iter().map(line).collect())
    }

    /// How often an Event of this reason was told: those alike are one object that counts.
    pub async fn told(&self, reason: &str) -> Result<i32> {
        let events = self.all_events().await?;
        let alike = events.iter().filter(|event| event.reason.as_deref() == Some(reason));
        Ok(alike.map(|event| event.series.as_ref().and_then(|series| series.count).unwrap_or(1)).sum())
    }

    /// Waits for an Event that begins so and says these words. Events follow the status that they speak of.
    pub async fn await_event(&self, start: &str, words: &str) -> Result<()> {
        eventually(format!("{}: there is an Event {start}", self.name), async || {
            let events = self.events().await?;
            ensure!(events.iter().any(|event| event.starts_with(start) && event.contains(words)), "{events:#?}");
            Ok(())
        })
        .await
    }

    /// Its result records.
    pub async fn records(&self) -> Result<Vec<Record>> {
        self.lab.records(&self.name).await
    }

    /// Waits until exactly these messages have COMPLETED records, one each.
    pub async fn await_completed(&self, messages: &[String]) -> Result<Vec<Record>> {
        let records = eventually(format!("{}: {} jobs are completed", self.name, messages.len()), async || {
            let records = self.records().await?;
            let done = records.iter().filter(|r| r.is_completed()).count();
            ensure!(done >= messages.len(), "{done} of {} are completed", messages.len());
            Ok(records)
        })
        .await?;
        let mut found: Vec<&str> = records.iter().map(|r| r.content.message_id.as_str()).collect();
        let mut wanted: Vec<&str> = messages.iter().map(String::as_str).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        ensure!(found == wanted, "there are records of {found:?}, not exactly of {wanted:?}");
        ensure!(records.iter().all(Record::is_completed), "some are not COMPLETED");
        Ok(records)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
