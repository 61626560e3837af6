//! millrace-bench: one measurement a subcommand, each beside its peers and in one run.
//!
//! `bench/run` installs and builds what a measurement needs, then calls this; docs/benchmarks.md says how to read it.

mod arena;
mod aws;
mod ceiling;
mod http;
mod operator;
mod ours;
mod overhead;
mod peer;
mod process;
mod report;
mod scaling;
mod script;
mod server;
mod stand_in;
mod table;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures millrace beside its peers. `make bench NAME=…` prepares and runs it.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    name: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    /// Messages a second through the worker with engine Echo, beside Python peers and the server's own ceiling.
    Worker(worker::Args),
    /// Memory and SQS calls of the operator in the cluster while it has one idle consumer.
    Operator(operator::Args),
    /// Waits and GPU time of every scaling policy on every trace of bench/traces, simulated.
    Scaling(scaling::Args),
    /// Pictures a second, time to the first one and memory, beside diffusers on the same folder.
    Images(script::Args),
    /// Texts a second, time to the first vector and memory, beside sentence-transformers and ONNX Runtime.
    Embeddings(script::Args),
    /// One burst on KEDA's side and on ours, on the same cluster with the same workers.
    Keda(script::Args),
    /// What the operator costs with 1,000 and 10,000 consumers, on a control plane of its own.
    OperatorScale(script::Args),
    /// What operator-scale has in place of SQS and of workers.
    #[command(hide = true)]
    StandIn(stand_in::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Args::parse().name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Until it is done or a signal comes. To be dropped is what stops servers, workers and peers, and removes their folders.
async fn measure(name: Name) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let measured = async {
        match name {
            Name::Worker(args) => worker::run(args).await,
            Name::Operator(args) => operator::run(args).await,
            Name::Scaling(args) => scaling::run(args).await,
            Name::Images(args) => script::run("images", args).await,
            Name::Embeddings(args) => script::run("embeddings", args).await,
            Name::Keda(args) => script::run("keda", args).await,
            Name::OperatorScale(args) => script::run("operator-scale", args).await,
            Name::StandIn(args) => stand_in::run(args).await,
        }
    };
    tokio::select! {
        result = measured => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing was written"),
        _ = terminate.recv() => anyhow::bail!("terminated; nothing was written"),
    }
}
