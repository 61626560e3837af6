//! Start and stop of the operator.

use std::sync::Arc;

use anyhow::Context as _;
use futures::future::join_all;
use kube::runtime::events::Reporter;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::apply::FIELD_MANAGER;
use crate::args::RunArgs;
use crate::build::Defaults;
use crate::controller::{self, Context};
use crate::events::Recorder;
use crate::http::{self, Readiness};
use crate::lease::Elector;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::queue::{AwsReader, Queues};
use crate::retire::{self, Signer};
use crate::scale::budget::Ledger;
use crate::telemetry;
use crate::workers::{Watched, WorkerClient};
use crate::world::Scope;

/// Runs the operator until SIGTERM or SIGINT, or until it loses its lease.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::start(args.log_format, &args.log_level)?;
    // Two threads: the work is waiting for answers, and each thread has its own share of memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(start(args))
}

async fn start(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let config =
        Config::infer().await.context("no Kubernetes cluster is configured: run in a pod, or set KUBECONFIG")?;
    let client = Client::try_from(config).context("the Kubernetes client could not be made")?;
    let elector = elector(&args, &client)?;
    let metrics = Arc::<Metrics>::default();
    let readiness = Arc::<Readiness>::default();
    let address = args.http_address;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("--http-address {address} cannot be used"))?;
    // Served until the very end, so that probes see a stopping operator as alive.
    let serving = CancellationToken::new();
    let server = tokio::spawn(http::serve(listener, Arc::clone(&metrics), Arc::clone(&readiness), serving.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, "started");
    let result = lead(&args, client, elector, &metrics, &readiness, &stop).await;
    serving.cancel();
    let _ = server.await;
    tracing::info!("stopped");
    result
}

/// Waits for the lease, works, and gives the lease back.
async fn lead(
    args: &RunArgs,
    client: Client,
    elector: Option<Elector>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(mut elector) = elector else {
        metrics.lead(true);
        work(args, client, metrics, readiness, stop).await;
        return Ok(());
    };
    // One that waits is ready to take over.
    readiness.needs(0);
    let Some(acquired) = elector.acquire(stop).await else {
        return Ok(());
    };
    metrics.lead(true);
    // The lease is renewed until the work has ended, which may be a moment after `stop`.
    let working = CancellationToken::new();
    let lost = tokio::select! {
        () = work(args, client, metrics, readiness, stop) => { working.cancel(); Ok(()) }
        lost = elector.hold(acquired, &working) => lost,
    };
    // The work was dropped where the lease was lost: no write follows.
    lost?;
    elector.release().await;
    Ok(())
}

async fn work(
    args: &RunArgs,
    client: Client,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    stop: &CancellationToken,
) {
    let namespaces = args.namespaces();
    let scopes: Vec<Scope> = if namespaces.is_empty() {
        vec![Scope::Cluster]
    } else {
        namespaces.into_iter().map(Scope::Namespace).collect()
    };
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: args.pod_name.clone() };
    let signer = retire::load(&client, args.pod_namespace.as_deref()).await;
    let context = Arc::new(Context {
        defaults: Defaults {
            image: args.worker_image.clone(),
            cuda_image: args.worker_cuda_image.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            drain_key: signer.as_ref().map(Signer::public_key),
        },
        queues: Queues::new(AwsReader::from_env().await, Arc::clone(metrics)),
        workers: WorkerClient::new(signer),
        watched: Watched::default(),
        recorder: Recorder::new(client.clone(), reporter),
        metrics: Arc::clone(metrics),
        memories: Memories::default(),
        ledger: Ledger::new(args.gpu_budgets.clone(), scopes.len()),
        client,
    });
    tracing::info!(?scopes, "watching");
    if !scopes.contains(&Scope::Cluster) {
        tracing::info!(
            "nodes are not watched with --watch-namespaces: that one leaves is learnt when its pods get SIGTERM"
        );
    }
    readiness.needs(scopes.len());
    join_all(
        scopes
            .into_iter()
            .map(|scope| controller::run(Arc::clone(&context), scope, Arc::clone(readiness), stop.clone())),
    )
    .await;
}

fn elector(args: &RunArgs, client: &Client) -> anyhow::Result<Option<Elector>> {
    if !args.leader_election {
        return Ok(None);
    }
    let namespace = args.pod_namespace.as_deref().filter(|n| !n.is_empty()).context(
        "POD_NAMESPACE is not set, so there is no place for the lease: set it, or run with --leader-election=false",
    )?;
    let pod = args.pod_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("millrace-operator");
    Ok(Some(Elector::new(client.clone(), namespace, pod)))
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        told.cancel();
    });
    Ok(stop)
}
