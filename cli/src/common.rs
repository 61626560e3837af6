//! What all commands have in common on the command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};

use crate::show::Format;

/// Options that choose a consumer of a cluster.
const IN_CLUSTER: [&str; 3] = ["consumer", "namespace", "context"];

/// Whose queue it is about, and how answers look.
#[derive(Debug, Args)]
pub struct Common {
    /// The QueueConsumer; not needed where its namespace has only one
    #[arg(short, long, global = true, env = "MILLRACE_CONSUMER", value_name = "NAME")]
    pub consumer: Option<String>,
    /// Its namespace; the kubeconfig's own by default
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// A context of the kubeconfig; its current one by default
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// A worker.yaml in place of a cluster; it goes before MILLRACE_CONSUMER
    #[arg(long, global = true, env = "MILLRACE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Endpoint of SQS and S3, where the consumer's own cannot be reached from here
    #[arg(long, global = true, env = "MILLRACE_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,
    /// How answers are written
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

impl Common {
    /// What is typed goes before what the environment says: each of the two ways to name a consumer has a variable. Both
    /// typed are an error.
    pub fn settle(&mut self, matches: &ArgMatches, command: &mut Command) -> Result<(), clap::Error> {
        let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let Some(name) = IN_CLUSTER.into_iter().find(|name| typed(name)) else { return Ok(()) };
        if typed("config") {
            let message =
                format!("the argument '--{name}' cannot be used with '--config': a worker.yaml is one consumer");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        self.config = None;
        Ok(())
    }
}
