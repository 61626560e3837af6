//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::dlq::DlqArgs;
use crate::explain::ExplainArgs;
use crate::manual::{CompletionArgs, ManArgs};
use crate::queue::QueueArgs;
use crate::results::ResultsArgs;
use crate::show::Format;
use crate::status::StatusArgs;
use crate::submit::SubmitArgs;

/// Submits jobs to millrace's consumers, follows them, and looks after their queues.
///
/// Exit codes: 0 all is done; 1 an error; 2 the command line cannot be read; 3 jobs failed or were not sent;
/// 4 something is not there yet, or did not come in time.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Whose queue it is about, and how answers look.
#[derive(Debug, Args)]
pub struct Common {
    /// The QueueConsumer; not needed where its namespace has only one
    #[arg(short, long, global = true, env = "MILLRACE_CONSUMER", value_name = "NAME", conflicts_with = "config")]
    pub consumer: Option<String>,
    /// Its namespace; the kubeconfig's own by default
    #[arg(short, long, global = true, value_name = "NAMESPACE", conflicts_with = "config")]
    pub namespace: Option<String>,
    /// A context of the kubeconfig; its current one by default
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "config")]
    pub context: Option<String>,
    /// A worker.yaml in place of a cluster
    #[arg(long, global = true, env = "MILLRACE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Endpoint of SQS and S3, where the consumer's own cannot be reached from here
    #[arg(long, global = true, env = "MILLRACE_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,
    /// How answers are written
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Submit(SubmitArgs),
    Status(StatusArgs),
    Results(ResultsArgs),
    Queue(QueueArgs),
    Dlq(DlqArgs),
    Explain(ExplainArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
    /// Print docs/cli.md
    #[command(hide = true)]
    Reference,
}
