//! `millrace-bench operator`: what the operator in the cluster costs while it has one idle QueueConsumer: its memory, read
//! from /proc on the machine that the node's containers run on, and its calls of SQS.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::aws::{Aws, KEY, REGION};
use crate::http::{samples, sum};
use crate::process::{find, memory, output};
use crate::report::{Extent, Machine, profile, publish, rounded};

const BINARY: &str = "millrace-operator";
const PODS: &str = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=millrace";
/// Namespace, consumer, queue and bucket of the idle consumer.
const IDLE: &str = "millrace-bench";
/// LocalStack as pods reach it.
const INSIDE: &str = "http://localstack.localstack:4566";
/// Time that a new consumer's first passes are given to be over.
const SETTLE: Duration = Duration::from_secs(30);
const MEMORY_EVERY: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to count calls.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// The operator's namespace.
    #[arg(long, default_value = "millrace-system")]
    namespace: String,
    /// The cluster's LocalStack as this machine reaches it, as `e2e/kind/env` prints.
    #[arg(long, env = "MILLRACE_E2E_ENDPOINT")]
    endpoint: String,
}

/// The replica that works.
struct Leader {
    pod: String,
    pid: u32,
    /// Its page of metrics, through the API server.
    metrics: String,
}

/// Measures, prints, writes the result.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let machine = Machine::look()?;
    let others: Vec<_> = names("queueconsumers", &["--all-namespaces"]).await?;
    anyhow::ensure!(
        others.is_empty(),
        "this measures the operator with one QueueConsumer of its own, and the cluster has {}: delete them first",
        others.join(", ")
    );
    let leader = leader(&args.namespace).await?;
    eprintln!("measuring pod {}, process {}, for {} s", leader.pod, leader.pid, args.seconds);
    prepare(&args.endpoint).await?;
    let measured = measure(&leader, Duration::from_secs(args.seconds)).await;
    // also where that failed
    kubectl(&["delete", "namespace", IDLE, "--wait=true", "--timeout=120s"]).await?;
    let measured = measured?;

    let mib = |kib: u64| kib as f64 / 1024.0;
    println!();
    println!("{:<44} {:>10}", "operator with one idle QueueConsumer", "");
    println!("{:<44} {:>6.1} MiB", "resident memory, most seen", mib(measured.rss));
    println!("{:<44} {:>6.1} MiB", "  of it its own, the rest is the binary's", mib(measured.anonymous));
    println!("{:<44} {:>10.1}", "SQS calls a minute", measured.calls_per_minute);
    println!();
    let mut result = Map::new();
    let ours = json!({
        "resident_mib": rounded(mib(measured.rss)), "anonymous_mib": rounded(mib(measured.anonymous)),
        "sqs_calls_per_minute": rounded(measured.calls_per_minute), "seconds": args.seconds,
        "profile": profile(&std::env::current_exe()?),
    });
    result.insert("ours".into(), ours);
    result.insert("peers".into(), json!({}));
    result.insert("ratios".into(), json!({}));
    result.insert("versions".into(), json!({ "kubernetes": kubernetes().await? }));
    publish("operator", &machine, Extent::Whole, result)
}

struct Measured {
    /// Resident, in KiB: the most of all looks.
    rss: u64,
    /// The part of it that is not of files.
    anonymous: u64,
    calls_per_minute: f64,
}

async fn measure(leader: &Leader, length: Duration) -> anyhow::Result<Measured> {
    let ready = ["wait", "queueconsumer/idle", "--namespace", IDLE, "--for=condition=Ready", "--timeout=90s"];
    kubectl(&ready).await?;
    tokio::time::sleep(SETTLE).await;
    let before = page(leader).await?;
    anyhow::ensure!(sum(&before, "millrace_desired_replicas") == 0.0, "the consumer is not idle: it has workers");
    let (began, mut rss, mut anonymous) = (tokio::time::Instant::now(), 0, 0);
    while began.elapsed() < length {
        tokio::time::sleep(MEMORY_EVERY.min(length.saturating_sub(began.elapsed()))).await;
        rss = rss.max(memory(leader.pid, "VmRSS")?);
        anonymous = anonymous.max(memory(leader.pid, "RssAnon")?);
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let after = page(leader).await?;
    let calls = |page: &str| sum(page, "millrace_sqs_requests_total");
    // a counter that is not there would read as no calls at all
    anyhow::ensure!(calls(&after) > 0.0, "pod {} counts no SQS call: has it read the queue?", leader.pod);
    Ok(Measured { rss, anonymous, calls_per_minute: (calls(&after) - calls(&before)) / minutes })
}

/// A queue, and a consumer of it that has nothing to do and no worker.
async fn prepare(endpoint: &str) -> anyhow::Result<()> {
    let aws = Aws::new(endpoint);
    aws.empty(IDLE).await.with_context(|| format!("LocalStack at {endpoint}"))?;
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": IDLE } },
        { "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "aws", "namespace": IDLE },
          "stringData": { "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY } },
        { "apiVersion": "millrace.dev/v1alpha1", "kind": "QueueConsumer",
          "metadata": { "name": "idle", "namespace": IDLE },
          "spec": {
              "queue": { "url": format!("{INSIDE}/000000000000/{IDLE}"), "region": REGION, "endpoint": INSIDE },
              "model": { "task": "Echo", "device": "Cpu" },
              "output": { "bucket": IDLE, "region": REGION, "endpoint": INSIDE, "forcePathStyle": true },
              "worker": { "gpu": { "count": 0 }, "envFrom": [{ "secretRef": { "name": "aws" } }] },
              "scaling": { "minReplicas": 0, "maxReplicas": 1 },
          } },
    ]});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), objects.to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    kubectl(&["apply", "--filename", &path]).await.map(drop)
}

/// The operator's pod that holds the lease, and its process.
async fn leader(namespace: &str) -> anyhow::Result<Leader> {
    let pods = names("pods", &["--namespace", namespace, "--selector", PODS]).await?;
    anyhow::ensure!(!pods.is_empty(), "no operator runs in namespace {namespace}: run `make bench NAME=operator`");
    for pod in pods {
        let pod = pod.trim_start_matches(namespace).trim_start_matches('/').to_owned();
        let metrics = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics");
        // one that starts or ends has no page
        let Ok(page) = kubectl(&["get", "--raw", &metrics]).await else { continue };
        if samples(&page, "millrace_leader").iter().any(|sample| sample.value > 0.0) {
            let pid = find(BINARY, &format!("POD_NAME={pod}")).with_context(|| {
                format!("cannot see the process of pod {pod} in /proc: run this as root on the machine that the node's containers run on")
            })?;
            return Ok(Leader { pod, pid, metrics });
        }
    }
    anyhow::bail!(
        "no operator in namespace {namespace} leads (millrace_leader is 1 nowhere); is one starting? try again"
    )
}

async fn page(leader: &Leader) -> anyhow::Result<String> {
    kubectl(&["get", "--raw", &leader.metrics]).await
}

/// NAMESPACE/NAME of objects.
async fn names(kind: &str, where_: &[&str]) -> anyhow::Result<Vec<String>> {
    let names = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let text = kubectl(&[&["get", kind, "--output", names], where_].concat()).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn kubernetes() -> anyhow::Result<Value> {
    let version: Value = serde_json::from_str(&kubectl(&["get", "--raw", "/version"]).await?)?;
    Ok(version["gitVersion"].clone())
}

async fn kubectl(arguments: &[&str]) -> anyhow::Result<String> {
    output(Command::new("kubectl").args(arguments)).await
}
