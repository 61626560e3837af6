//! The command line. Each option of `run` is also an environment variable, which the chart sets.

use std::net::SocketAddr;

use crate::scale::budget::Budgets;
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use crate::simulate::SimulateArgs;

/// Reconciles QueueConsumers into worker Deployments and scales them by their queues.
#[derive(Debug, Parser)]
#[command(name = "millrace-operator", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Make decisions again that a log holds (MILLRACE_LOG_FORMAT=json and
    /// MILLRACE_LOG_LEVEL=info,millrace_operator::decision=debug), and print them.
    Replay {
        /// The log; `-` is standard input.
        #[arg(default_value = "-")]
        log: std::path::PathBuf,
    },
    /// Play a queue's trace through this operator's decisions, or another policy's, and say what comes of it.
    Simulate(Box<SimulateArgs>),
}

/// Options of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// Image of workers whose model runs on the CPU.
    #[arg(long, env = "MILLRACE_WORKER_IMAGE", default_value = concat!("millrace-worker:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,

    /// Image of workers whose model runs on a GPU.
    #[arg(long, env = "MILLRACE_WORKER_CUDA_IMAGE", default_value = concat!("millrace-worker:", env!("CARGO_PKG_VERSION"), "-cuda"))]
    pub worker_cuda_image: String,

    /// Namespaces to watch, separated by commas. Empty: all.
    #[arg(long, env = "MILLRACE_WATCH_NAMESPACES", value_delimiter = ',', num_args = 0..)]
    pub watch_namespaces: Vec<String>,

    /// GPUs that the workers of all QueueConsumers together may hold, by resource name: `nvidia.com/gpu=8,amd.com/gpu=4`.
    /// They are shared by spec.scaling.priority and weight. Empty: no limit.
    #[arg(long, env = "MILLRACE_GPU_BUDGETS", default_value = "")]
    pub gpu_budgets: Budgets,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "MILLRACE_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// How log lines look.
    #[arg(long, env = "MILLRACE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Which log lines: error, warn, info, debug, trace, or a filter such as `info,millrace_operator=debug`.
    #[arg(long, env = "MILLRACE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// Work only while holding the lease `millrace-operator` of the own namespace, so that replicas do not disagree.
    #[arg(long, env = "MILLRACE_LEADER_ELECTION", default_value_t = true, action = ArgAction::Set)]
    pub leader_election: bool,

    /// The operator's own namespace: where the lease and the Secret with its key live.
    #[arg(long, env = "POD_NAMESPACE", hide = true)]
    pub pod_namespace: Option<String>,

    /// The operator's own name: the lease's holder and the reporter of Events.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
}

impl RunArgs {
    /// The namespaces to watch; none means all.
    pub fn namespaces(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.watch_namespaces.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).map(Into::into).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> RunArgs {
        let words = ["millrace-operator", "run"].iter().chain(words);
        match Args::try_parse_from(words).unwrap().command {
            Command::Run(run) => *run,
            _ => panic!("not run"),
        }
    }

    #[test]
    fn an_empty_list_of_namespaces_means_all() {
        assert!(run(&[]).namespaces().is_empty());
        assert!(run(&["--watch-namespaces="]).namespaces().is_empty());
        assert_eq!(run(&["--watch-namespaces=b, a,b"]).namespaces(), ["a", "b"]);
    }

    #[test]
    fn leader_election_is_on_unless_told() {
        assert!(run(&[]).leader_election);
        assert!(!run(&["--leader-election=false"]).leader_election);
    }

    #[test]
    fn worker_images_follow_the_version() {
        let run = run(&[]);
        assert_eq!(run.worker_cuda_image, format!("{}-cuda", run.worker_image));
        assert!(run.worker_image.ends_with(env!("CARGO_PKG_VERSION")));
    }
}
