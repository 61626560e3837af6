//! Prometheus metrics of the worker. Labels are bounded; namespace, consumer and task are the same on every series.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

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
    /// It asked for nothing (s3:TestEvent).
    Nothing,
}

/// How a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// SQS said that the handle is no longer good.
    Told,
    /// It ran out by the local clock.
    Expired,
}

impl Loss {
    fn label(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Expired => "expired",
        }
    }
}

/// A phase of a job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From sent to received.
    Queued,
    /// From received to where batches gather: reading it, looking for its record, waiting for its turn.
    Waited,
    /// Waiting for its batch to begin.
    Batch,
    /// In the model.
    Inference,
    /// Putting the outputs.
    Upload,
    /// Putting the record, and telling who asked for it.
    Commit,
    /// From the record to SQS's word that the message is gone.
    Ack,
    /// From sent to the record.
    Total,
}

/// A phase of the worker's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// The HTTP server, clients and credentials.
    Configure,
    /// Until queue and bucket both answer, beside the phases of the model.
    Reach,
    /// Downloading the model, or finding it in the cache, with the wait for another worker that downloads it.
    Fetch,
    /// Reading the weights onto the device.
    Load,
    /// The first real forward.
    WarmUp,
    /// All of it, with the failed attempts and the pauses between them.
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

/// A way to tell of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A message on a reply queue.
    Reply,
    /// A call of a callback URL.
    Callback,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// Taken.
    Sent,
    /// Not taken, and tried once more.
    Retried,
    /// Not taken, for good or for too long.
    Refused,
}

impl Outcome {
    /// The word in metrics and spans.
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::AlreadyDone => "already_done",
            Self::Returned => "returned",
            Self::LeaseLost => "lease_lost",
            Self::Nothing => "nothing",
        }
    }
}

impl Phase {
    /// The word in metrics and spans.
    pub fn label(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waited => "waited",
            Self::Batch => "batch",
            Self::Inference => "inference",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Ack => "ack",
            Self::Total => "total",
        }
    }
}

impl Startup {
    const ALL: [Self; 6] = [Self::Configure, Self::Reach, Self::Fetch, Self::Load, Self::WarmUp, Self::Total];

    fn label(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Reach => "reach",
            Self::Fetch => "fetch",
            Self::Load => "load",
            Self::WarmUp => "warm_up",
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

impl Channel {
    /// The word in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Callback => "callback",
        }
    }
}

impl Announced {
    fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Retried => "retried",
            Self::Refused => "refused",
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

/// Label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    reason: &'static str,
}

/// Labels of a request to AWS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRequest {
    operation: &'static str,
    outcome: &'static str,
}

/// Labels of an announcement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByAnnouncement {
    channel: &'static str,
    outcome: &'static str,
}

/// All metrics of one worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: Family<ByOutcome, Counter>,
    phases: Family<ByPhase, Histogram>,
    startup: Family<ByPhase, Gauge<f64, AtomicU64>>,
    requests: Family<ByRequest, Counter>,
    device: Family<ByDevice, Counter<f64, AtomicU64>>,
    announcements: Family<ByAnnouncement, Counter>,
    wasted: Family<ByOutcome, Counter<f64, AtomicU64>>,
    lost: Family<ByReason, Counter>,
    /// Messages that came for the second time or more.
    pub redeliveries: Counter,
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
            startup: Family::default(),
            requests: Family::default(),
            device: Family::default(),
            announcements: Family::default(),
            wasted: Family::default(),
            lost: Family::default(),
            redeliveries: Counter::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            held: Gauge::default(),
        };
        registry.register("worker_jobs", "Received messages by how they ended", metrics.jobs.clone());
        registry.register_with_unit("job_phase", "Time of a job's phases", Unit::Seconds, metrics.phases.clone());
        registry.register_with_unit(
            "worker_startup",
            "Time that the phases of this worker's start took",
            Unit::Seconds,
            metrics.startup.clone(),
        );
        registry.register("worker_aws_requests", "Requests to SQS and S3", metrics.requests.clone());
        registry.register_with_unit(
            "gpu",
            "Time by what the model's device did",
            Unit::Seconds,
            metrics.device.clone(),
        );
        registry.register_with_unit(
            "wasted_inference",
            "Time of the model's device for work that was not committed, by how its message ended",
            Unit::Seconds,
            metrics.wasted.clone(),
        );
        registry.register("lease_losses", "Leases that were lost while work went on", metrics.lost.clone());
        registry.register(
            "redeliveries",
            "Messages received for the second time or more",
            metrics.redeliveries.clone(),
        );
        registry.register("announcements", "Announcements by what became of them", metrics.announcements.clone());
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

    /// A phase of the start took this long; of one that failed and was tried again, the last attempt counts.
    pub fn startup(&self, phase: Startup, took: Duration) {
        self.startup.get_or_create(&ByPhase { phase: phase.label() }).set(took.as_secs_f64());
    }

    /// The start's phases, for the log: `fetch 4.1 s, load 2.0 s`.
    pub fn startup_in_words(&self) -> String {
        let phase = |phase: Startup| {
            let seconds = self.startup.get(&ByPhase { phase: phase.label() })?.get();
            Some(format!("{} {seconds:.1} s", phase.label()))
        };
        Startup::ALL.into_iter().filter_map(phase).collect::<Vec<_>>().join(", ")
    }

    /// The device did this for so long.
    pub fn device(&self, state: Device, seconds: f64) {
        self.device.get_or_create(&ByDevice { state: state.label() }).inc_by(seconds);
    }

    /// So much time of the device came to nothing.
    pub fn wasted(&self, outcome: Outcome, time: Duration) {
        if !time.is_zero() {
            self.wasted.get_or_create(&ByOutcome { outcome: outcome.label() }).inc_by(time.as_secs_f64());
        }
    }

    /// A lease was lost.
    pub fn lease_lost(&self, loss: Loss) {
        self.lost.get_or_create(&ByReason { reason: loss.label() }).inc();
    }

    /// Somebody was told of a job, or not.
    pub fn announced(&self, channel: Channel, outcome: Announced) {
        let labels = ByAnnouncement { channel: channel.label(), outcome: outcome.label() };
        self.announcements.get_or_create(&labels).inc();
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
