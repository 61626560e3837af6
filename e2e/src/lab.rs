//! One scenario's place: a namespace, a bucket and queues of its own, and the clients to look at them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, Secret};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::wait::within;
use crate::{Consumer, Manifest, report, soaking};

/// LocalStack as pods reach it; tests reach it at `MILLRACE_E2E_ENDPOINT`.
pub const IN_CLUSTER: &str = "http://localstack.localstack:4566";
/// The region of all queues and buckets.
pub const REGION: &str = "us-east-1";
/// The Secret with LocalStack's credentials, in each scenario's namespace.
pub(crate) const CREDENTIALS: &str = "aws-credentials";

/// GPUs that the consumers of each scenario may ask for together. All scenarios but those of tests/serial run at the
/// same time, and the two nodes for workers offer 16 each.
pub const GPUS: [(&str, i32); 38] = [
    ("happy-path", 3),
    ("invalid-specs", 1),
    ("bad-messages", 2),
    ("rollout", 2),
    ("queue-missing", 1),
    ("delete-consumer", 2),
    ("worker-problems", 2),
    ("worker-starting", 0),
    ("worker-killed", 2),
    ("worker-terminated", 0),
    ("sqs-outage", 2),
    ("s3-outage", 1),
    ("slow-s3", 1),
    ("throttling", 0),
    ("duplicate-delivery", 2),
    ("lease-lost", 2),
    ("poison-message", 2),
    ("crash-poison", 2),
    ("fifo-order", 1),
    ("fifo-one-group", 0),
    ("scale-down-busy", 0),
    ("sparse-queue", 0),
    ("gpu-budget", 0),
    ("always-failing-model", 3),
    ("throttled-sqs", 0),
    ("dry-run", 0),
    ("image-volume", 0),
    ("embeddings", 0),
    ("text-generation", 0),
    ("fibonacci", 0),
    ("task-fanout", 0),
    ("http-sidecar", 0),
    ("dlq-redrive", 0),
    ("submit-wait", 0),
    ("operator-restart", 4),
    ("drain-node", 2),
    ("spot-interruption", 2),
    ("operator-ha", 0),
];

/// No scenario takes longer, even where each of its waits ends just in time; a soak may take four times that.
const LONGEST: Duration = Duration::from_mins(15);
/// How long a pod's server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// One scenario's place.
#[derive(Debug)]
pub struct Lab {
    /// Its namespace, its bucket, and what its queues' names begin with.
    pub name: String,
    /// SQS from outside the cluster.
    pub sqs: aws_sdk_sqs::Client,
    /// S3 from outside the cluster.
    pub s3: aws_sdk_s3::Client,
    /// LocalStack from outside the cluster.
    pub(crate) endpoint: String,
    pub(crate) kube: KubeClient,
    gpus: i32,
    asked: Mutex<BTreeMap<String, i32>>,
}

/// kube's client, which has no Debug of its own.
#[derive(Clone)]
pub(crate) struct KubeClient(Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeClient")
    }
}

/// Runs a scenario in a place of its own. Where it fails, all that is known of the place is printed.
///
/// # Panics
/// Where the scenario fails, or where there is no cluster for it.
pub async fn scenario(name: &str, body: impl AsyncFnOnce(&Lab) -> Result<()>) {
    let lab = Lab::new(name).await.unwrap_or_else(|error| panic!("scenario {name} has no place to run: {error:#}"));
    let longest = if soaking() { LONGEST * 4 } else { LONGEST };
    let ended = AssertUnwindSafe(within(longest, Box::pin(body(&lab)))).catch_unwind().await;
    let failed = !matches!(ended, Ok(Ok(())));
    if failed {
        report::print(&lab).await;
        eprintln!("MILLRACE_E2E_KEEP=1 keeps the namespace of a scenario that fails");
    }
    let keep = failed && std::env::var_os("MILLRACE_E2E_KEEP").is_some();
    if !keep && let Err(error) = lab.clean().await {
        eprintln!("namespace {} could not be cleaned up: {error:#}", lab.name);
    }
    match ended {
        Ok(result) => result.unwrap_or_else(|error| panic!("scenario {name} failed: {error:#}")),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn setting(name: &str) -> Result<String> {
    let hint = "run these tests by `make e2e`, or eval \"$(e2e/kind/env)\" and set MILLRACE_E2E=1";
    std::env::var(name).with_context(|| format!("{name} is not set: they need the cluster of e2e/kind; {hint}"))
}

impl Lab {
    async fn new(scenario: &str) -> Result<Self> {
        ensure!(setting("MILLRACE_E2E")? == "1", "MILLRACE_E2E must be 1");
        setting("KUBECONFIG")?; // never the cluster that somebody happens to work with
        let endpoint = setting("MILLRACE_E2E_ENDPOINT")?;
        let share = GPUS.iter().find(|(name, _)| *name == scenario);
        let (_, gpus) = share.with_context(|| format!("scenario {scenario} has no share in GPUS"))?;

        let key = Credentials::new("test", "test", None, None, "LocalStack");
        let sqs = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&endpoint)
            .credentials_provider(key.clone());
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&endpoint)
            .force_path_style(true)
            .credentials_provider(key);
        let suffix: String = std::iter::repeat_with(fastrand::lowercase).take(5).collect();
        let lab = Self {
            name: format!("e2e-{scenario}-{suffix}"),
            sqs: aws_sdk_sqs::Client::from_conf(sqs.build()),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            endpoint,
            kube: KubeClient(Client::try_default().await.context("KUBECONFIG")?),
            gpus: *gpus,
            asked: Mutex::default(),
        };
        lab.prepare().await?;
        Ok(lab)
    }

    async fn prepare(&self) -> Result<()> {
        let namespace = json!({ "metadata": { "name": self.name, "labels": { "millrace-e2e": "true" } } });
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await.context("namespace")?;
        let secret = json!({
            "metadata": { "name": CREDENTIALS },
            "stringData": { "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test" },
        });
        let secrets: Api<Secret> = self.api();
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await.context("secret")?;
        self.create_bucket(&self.name).await
    }

    async fn clean(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces.delete(&self.name, &DeleteParams::background()).await?;
        let queues = self.sqs.list_queues().queue_name_prefix(&self.name).send().await?;
        for url in queues.queue_urls() {
            self.sqs.delete_queue().queue_url(url).send().await?;
        }
        let buckets = self.s3.list_buckets().send().await?;
        let names = buckets.buckets().iter().filter_map(|b| b.name());
        for bucket in names.filter(|bucket| bucket.starts_with(&self.name)) {
            self.delete_bucket(bucket).await?;
        }
        Ok(())
    }

    pub(crate) fn client(&self) -> Client {
        self.kube.0.clone()
    }

    /// Objects of one kind in the scenario's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Objects of one kind that are in no namespace.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
    {
        Api::all(self.client())
    }

    /// Creates a QueueConsumer, as `kubectl create` would.
    pub async fn apply(&self, manifest: &Manifest) -> Result<Consumer<'_>> {
        let name = manifest.name()?;
        let asked = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.insert(name.clone(), manifest.gpus());
            asked.values().sum::<i32>()
        };
        ensure!(asked <= self.gpus, "the consumers ask for {asked} GPUs, and the scenario's share is {}", self.gpus);
        self.create(manifest, false).await.with_context(|| format!("create QueueConsumer {name}"))?;
        Ok(Consumer::new(self, name))
    }

    /// What the API server says to a manifest, without keeping it.
    pub async fn dry_run(&self, manifest: &Manifest) -> Result<Value, kube::Error> {
        self.create(manifest, true).await
    }

    async fn create(&self, manifest: &Manifest, dry_run: bool) -> Result<Value, kube::Error> {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let path = format!(
            "/apis/millrace.dev/v1alpha1/namespaces/{}/queueconsumers?fieldValidation=Strict{dry_run}",
            self.name
        );
        let body = serde_json::to_vec(manifest.json()).map_err(kube::Error::SerdeError)?;
        let request = http::Request::post(path).header("content-type", "application/json").body(body);
        self.client().request(request.map_err(kube::Error::HttpError)?).await
    }

    /// What a pod's HTTP server answers, asked through the API server.
    pub async fn ask_pod(&self, namespace: &str, pod: &str, path: &str) -> Result<String> {
        Box::pin(self.ask(&format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy{path}"))).await
    }

    /// The same of one of the scenario's own pods, at another port.
    pub async fn ask_port(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        self.ask(&format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.name)).await
    }

    async fn ask(&self, path: &str) -> Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        within(ANSWER, async { Ok(self.client().request_text(request).await?) }).await
    }

    /// `kill -9` for the main process of a pod's container, on the node.
    pub fn kill(&self, pod: &Pod) -> Result<()> {
        on_node(pod, &["kill", "--signal", "SIGKILL"])?;
        eprintln!("killed the container of pod {}", pod.name_any());
        Ok(())
    }

    /// The same for the model server beside the worker.
    pub fn kill_server(&self, pod: &Pod) -> Result<()> {
        let servers = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
        to_container(pod, servers.and_then(|all| all.first()), &["kill", "--signal", "SIGKILL"])?;
        eprintln!("killed the server of pod {}", pod.name_any());
        Ok(())
    }

    /// Stops the clock of a pod's container, on the node: it neither works nor notices.
    pub fn freeze(&self, pod: &Pod) -> Result<()> {
        on_node(pod, &["pause"])?;
        eprintln!("froze the container of pod {}", pod.name_any());
        Ok(())
    }

    /// Lets a container go on that was frozen.
    pub fn thaw(&self, pod: &Pod) -> Result<()> {
        on_node(pod, &["resume"])?;
        eprintln!("thawed the container of pod {}", pod.name_any());
        Ok(())
    }
}

/// Does something to a pod's worker.
fn on_node(pod: &Pod, what: &[&str]) -> Result<()> {
    let workers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    to_container(pod, workers.and_then(|all| all.first()), what)
}

/// Does something to one of a pod's containers.
fn to_container(pod: &Pod, container: Option<&ContainerStatus>, what: &[&str]) -> Result<()> {
    let name = pod.name_any();
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).context("the pod is on no node")?;
    let id = container.and_then(|c| c.container_id.as_ref()?.strip_prefix("containerd://"));
    let id = id.with_context(|| format!("pod {name} has no container"))?;
    let mut command = Command::new("docker");
    command.args(["exec", node, "ctr", "--namespace", "k8s.io", "tasks"]).args(what).arg(id);
    let output = command.output().context("docker exec")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
