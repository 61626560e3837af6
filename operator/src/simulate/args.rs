//! Options of `simulate`. Times are in seconds.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

/// Options of `simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// What arrives when, as CSV: seconds (or an RFC 3339 time), arrivals, and if you like service_seconds; `-` is the
    /// standard input.
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,

    /// The QueueConsumer, as YAML or JSON.
    #[arg(long, value_name = "FILE")]
    pub spec: PathBuf,

    /// Who decides how many workers there are.
    #[arg(long, value_enum, default_value_t = PolicyName::Millrace)]
    pub policy: PolicyName,

    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Draw backlog, replicas and the oldest wait into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Points of the timeline besides the changes of the count, at even distances; 0 leaves the timeline out.
    #[arg(long, default_value_t = 400)]
    pub timeline_points: usize,

    /// All that is random follows from this number: the same seed gives the same result.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// When the trace's second 0 is, which `scaling.schedules` need. The default suits a trace in Unix time.
    #[arg(long, default_value = "1970-01-01T00:00:00Z", value_name = "RFC 3339")]
    pub start_time: Timestamp,

    /// A row's arrivals are spread over so many seconds, 0: all at once. Default: the shortest distance of two rows.
    #[arg(long, value_parser = not_negative)]
    pub step_seconds: Option<f64>,

    /// Mean time that a job holds a slot, where its row does not tell.
    #[arg(long, value_parser = positive)]
    pub service_seconds: Option<f64>,

    /// How much service times differ: standard deviation / mean of a lognormal distribution.
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub service_cv: f64,

    /// The wait that counts as too long. Default: `scaling.target.queueDelaySeconds`, or 60.
    #[arg(long, value_parser = positive)]
    pub target_seconds: Option<f64>,

    /// Workers that are there and ready at the beginning. Default: `scaling.minReplicas`.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=1000))]
    pub replicas: Option<i32>,

    /// How the cluster behaves.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// What the other policies are set to.
    #[command(flatten)]
    pub peers: PeerArgs,
}

/// How the cluster behaves.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// From the wish for a pod to its place on a node that has room.
    #[arg(long, default_value_t = 0.5, value_parser = not_negative)]
    pub scheduling_seconds: f64,

    /// A node's first pull of the image.
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub image_pull_seconds: f64,

    /// From the container's start to ready: mostly the model's loading.
    #[arg(long, default_value_t = 30.0, value_parser = not_negative)]
    pub ready_seconds: f64,

    /// How much that differs: standard deviation / mean of a lognormal distribution.
    #[arg(long, default_value_t = 0.1, value_parser = not_negative)]
    pub ready_cv: f64,

    /// From the signal to stop to an idle worker's end.
    #[arg(long, default_value_t = 2.0, value_parser = not_negative)]
    pub stop_seconds: f64,

    /// The time that a new node takes; 0: all nodes are there.
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub node_seconds: f64,

    /// With --node-seconds, an empty node goes after this time, and the image with it.
    #[arg(long, default_value_t = 60.0, value_parser = not_negative)]
    pub node_idle_seconds: f64,

    /// Most nodes. Default: enough for `scaling.maxReplicas`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_nodes: Option<u32>,

    /// Workers that fit on one node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pods_per_node: u32,

    /// SQS's counts are up to so many seconds old.
    #[arg(long, default_value_t = 3.0, value_parser = not_negative)]
    pub count_lag_seconds: f64,
}

/// What the other policies are set to.
#[derive(Debug, Clone, Args)]
pub struct PeerArgs {
    /// KEDA's queueLength. Default: `scaling.target.messagesPerReplica`, or KEDA's own 5.
    #[arg(long, value_parser = positive)]
    pub keda_queue_length: Option<f64>,

    /// KEDA's cooldownPeriod.
    #[arg(long, default_value_t = 300.0, value_parser = not_negative)]
    pub keda_cooldown_seconds: f64,

    /// KEDA's first look after the beginning; then every 30 s. Default: drawn.
    #[arg(long, value_parser = not_negative)]
    pub keda_poll_phase: Option<f64>,

    /// The HPA's first look after the beginning; then every 15 s. Default: drawn.
    #[arg(long, value_parser = not_negative)]
    pub keda_sync_phase: Option<f64>,

    /// WPA's targetMessagesPerWorker. Default: `scaling.target.messagesPerReplica`, or 5 as for KEDA.
    #[arg(long, value_parser = positive)]
    pub wpa_target: Option<f64>,

    /// WPA's secondsToProcessOneJob, from which it has its floor. Default: none, as in WPA.
    #[arg(long, value_parser = positive)]
    pub wpa_seconds_per_job: Option<f64>,

    /// Ray Serve's target_ongoing_requests.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub ray_target_ongoing: f64,
}

/// Who decides how many workers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// This operator.
    Millrace,
    /// KEDA and the HPA that it makes.
    Keda,
    /// practo's Worker Pod Autoscaler.
    Wpa,
    /// Ray Serve's policy for asynchronous inference.
    Ray,
    /// One that knows the whole trace beforehand.
    Oracle,
}

impl PolicyName {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Millrace => "millrace",
            Self::Keda => "keda",
            Self::Wpa => "wpa",
            Self::Ray => "ray",
            Self::Oracle => "oracle",
        }
    }
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

fn not_negative(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(number) if (0.0..1e12).contains(&number) => Ok(number),
        _ => Err("give a number that is 0 or more".into()),
    }
}

fn positive(word: &str) -> Result<f64, String> {
    match not_negative(word) {
        Ok(number) if number > 0.0 => Ok(number),
        _ => Err("give a number that is more than 0".into()),
    }
}
