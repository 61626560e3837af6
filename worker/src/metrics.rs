//! Prometheus metrics of the worker. Labels are bounded; namespace, consumer and task are the same on every series.

use std::sync::atomic::AtomicU64;

use millrace_api::WorkerConfig;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How a received message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Computed, committed and deleted.
    Completed,
    /// A FAILED record was written.
    Failed,
    /// Its deadline had passed.
    Expired,
    /// A final record was there already; deleted without inference.
    AlreadyDone,
    /// Given back to be tried again.
    Returned,
    /// Somebody else has it.
    LeaseLost,
}

/// A phase of a job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From sent to received.
    Queued,
    /// From received to the model.
    Waited,
    /// In the model.
    Inference,
    /// Putting the outputs.
    Upload,
    /// From sent to the record.
    Total,
}

/// What the model's device is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A batch runs.
    Busy,
    /// Loaded, nothing to do.
    Idle,
    /// Being loaded.
    Starting,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::AlreadyDone => "already_done",
            Self::Returned => "returned",
            Self::LeaseLost => "lease_lost",
        }
    }
}

impl Phase {
    fn label(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waited => "waited",
            Self::Inference => "inference",
            Self::Upload => "upload",
            Self::Total => "total",
        }
    }
}

impl Device {
    fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Starting => "starting",
        }
    }
}

/// Label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    outcome: &'static str,
}

/// Label `phase`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByPhase {
    phase: &'static str,
}

/// Label `state`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByDevice {
    state: &'static str,
}

/// Labels of a request to AWS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRequest {
    operation: &'static str,
    outcome: &'static str,
}

/// All metrics of one worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: Family<ByOutcome, Counter>,
    phases: Family<ByPhase, Histogram>,
    requests: Family<ByRequest, Counter>,
    device: Family<ByDevice, Counter<f64, AtomicU64>>,
    /// Requests of a batch.
    pub batch_size: Histogram,
    /// Jobs that are held.
    pub held: Gauge,
}

impl Metrics {
    /// Metrics of the worker with this config.
    pub fn new(config: &WorkerConfig) -> Self {
        let labels = [
            ("namespace".into(), config.consumer.namespace.clone().into()),
            ("consumer".into(), config.consumer.name.clone().into()),
            ("task".into(), config.model.task.name().into()),
        ];
        let mut registry = Registry::with_prefix_and_labels("millrace", labels.into_iter());
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 20));
        let metrics = Self {
            registry: Registry::default(),
            jobs: Family::default(),
            phases: Family::new_with_constructor(seconds),
            requests: Family::default(),
            device: Family::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            held: Gauge::default(),
        };
        registry.register("worker_jobs", "Received messages by how they ended", metrics.jobs.clone());
        registry.register_with_unit("job_phase", "Time of a job's phases", Unit::Seconds, metrics.phases.clone());
        registry.register("worker_aws_requests", "Requests to SQS and S3", metrics.requests.clone());
        registry.register_with_unit(
            "gpu",
            "Time by what the model's device did",
            Unit::Seconds,
            metrics.device.clone(),
        );
        registry.register("worker_batch_size", "Requests of a batch", metrics.batch_size.clone());
        registry.register("worker_held_jobs", "Jobs that are held", metrics.held.clone());
        Self { registry, ..metrics }
    }

    /// A received message ended.
    pub fn ended(&self, outcome: Outcome) {
        self.jobs.get_or_create(&ByOutcome { outcome: outcome.label() }).inc();
    }

    /// A phase of a job took this long.
    pub fn phase(&self, phase: Phase, seconds: f64) {
        self.phases.get_or_create(&ByPhase { phase: phase.label() }).observe(seconds);
    }

    /// The device did this for so long.
    pub fn device(&self, state: Device, seconds: f64) {
        self.device.get_or_create(&ByDevice { state: state.label() }).inc_by(seconds);
    }

    /// A request to AWS was answered.
    pub fn request(&self, operation: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "error" };
        self.requests.get_or_create(&ByRequest { operation, outcome }).inc();
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
