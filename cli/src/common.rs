//! What all commands have in common on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::show::Format;

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
