//! What a decision is made from, as plain numbers.

use crate::observe::Observed;
use crate::queue::{Depth, QueueError};
use crate::validate::Validated;
use crate::workers::{Report, Worker};

/// Service time of a job before any worker reported one. A low guess starts few workers, whose first reports correct
/// it; a high one would start GPUs for nothing.
const SERVICE_SECONDS_PRIOR: f64 = 1.0;

/// What a decision is made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inputs {
    /// Workers that the Deployment asks for now.
    pub(crate) from: i32,
    /// The queue's counts.
    pub(crate) depth: Result<Depth, QueueError>,
    /// Pods of an older template are still there, or Kubernetes has not seen the newest template yet.
    pub(crate) rolling: bool,
    /// Workers that hold jobs, or that run and could not be asked.
    pub(crate) busy: i32,
    /// Of these, those that could not be asked.
    pub(crate) silent: i32,
    /// Jobs that reporting workers hold.
    pub(crate) held: i64,
    /// Jobs that one worker holds at a time.
    pub(crate) concurrency: f64,
    /// Wall time that a job holds a slot, where workers reported it now.
    pub(crate) reported_service_seconds: Option<f64>,
}

impl Inputs {
    pub(super) fn of(spec: &Validated, seen: &Observed) -> Self {
        let reports = || seen.workers.iter().filter_map(|worker| worker.state());
        let capacities: Vec<f64> = reports().map(|s| f64::from(s.capacity)).filter(|c| *c >= 1.0).collect();
        let batch = f64::from(spec.spec().model.batch.max_size.max(1));
        // Weighted by jobs done, so that a worker's first job does not count as much as another's thousandth.
        let (mut seconds, mut jobs) = (0.0, 0.0);
        for state in reports() {
            let done = (state.completed + state.failed) as f64;
            if let Some(service) = state.service_seconds.filter(|s| s.mean.is_finite() && s.mean > 0.0) {
                seconds += service.mean * done.max(1.0);
                jobs += done.max(1.0);
            }
        }
        let count =
            |of: fn(&Worker) -> bool| i32::try_from(seen.workers.iter().filter(|w| of(w)).count()).unwrap_or(i32::MAX);
        Self {
            from: seen.replicas(spec),
            depth: seen.reading.depth.clone(),
            rolling: seen.rolling(),
            busy: count(Worker::is_busy),
            silent: count(|worker| worker.report == Report::Silent),
            held: reports().map(|s| i64::from(s.busy)).sum(),
            concurrency: if capacities.is_empty() {
                batch
            } else {
                capacities.iter().sum::<f64>() / capacities.len() as f64
            },
            reported_service_seconds: (jobs > 0.0).then(|| seconds / jobs),
        }
    }

    /// The service time to reckon with.
    pub(super) fn service_seconds(&self, earlier: Option<f64>) -> f64 {
        self.reported_service_seconds.or(earlier).unwrap_or(SERVICE_SECONDS_PRIOR)
    }
}
