//! The model as a program, for benchmarks whose peers are not in Rust.

use std::io::Write as _;

use anyhow::Context as _;
use clap::Parser;
use millrace_aws_model::{Model, Settings};

/// SQS and S3 on loopback, for tests and benchmarks only. Ends with SIGINT.
#[derive(Debug, Parser)]
struct Args {
    /// Where it listens; 0 for any free port, which it prints
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A queue that is there from the start
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// A bucket that is there from the start
    #[arg(long = "bucket", value_name = "NAME")]
    buckets: Vec<String>,
}

// one thread: the other core is for whoever is measured
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let model = Model::with(Settings { port: args.port, ..Settings::default() }).await;
    let model = model.with_context(|| format!("cannot listen on port {} of 127.0.0.1", args.port))?;
    for queue in &args.queues {
        model.create_queue(queue, &[])?;
    }
    for bucket in &args.buckets {
        model.create_bucket(bucket)?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", model.endpoint())?;
    out.flush()?;
    tokio::signal::ctrl_c().await.context("cannot wait for SIGINT")
}
