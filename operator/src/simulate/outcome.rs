//! What happened in a simulation, job by job and pod by pod: what reports and pictures are made from.

/// One job. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Job {
    pub(super) sent: f64,
    pub(super) service: f64,
    /// The start of the attempt that finished it, or of the last one.
    pub(super) started: Option<f64>,
    pub(super) finished: Option<f64>,
}

/// An attempt that was killed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lost {
    pub(super) job: usize,
    pub(super) started: f64,
    /// When the message could be received again.
    pub(super) back: f64,
}

/// A pod, from its wish to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    /// From when on it held a GPU; none for one that never had a node.
    pub(super) placed: Option<f64>,
    /// None for one that never became ready.
    pub(super) ready: Option<f64>,
    /// When it was gone, or the simulation over.
    pub(super) gone: f64,
}

/// The wished count and its reason from a moment on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) at: f64,
    pub(super) replicas: i32,
    pub(super) reason: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) begin: f64,
    pub(super) end: f64,
    /// In the order of sending.
    pub(super) jobs: Vec<Job>,
    pub(super) lost: Vec<Lost>,
    pub(super) pods: Vec<Span>,
    /// The first is the state at the beginning.
    pub(super) changes: Vec<Change>,
    /// Workers that held jobs when they were told to stop.
    pub(super) busy_killed: u64,
}

impl Outcome {
    /// Time that pods held a node, in seconds.
    pub(super) fn pod_seconds(&self) -> f64 {
        self.pods.iter().filter_map(|pod| pod.placed.map(|placed| (pod.gone - placed).max(0.0))).sum()
    }
}
