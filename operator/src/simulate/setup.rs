//! What a simulation is set to, from the QueueConsumer and the options.

use super::args::ClusterArgs;

/// What a simulation is set to. Times are in seconds.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) seed: u64,
    /// Jobs that a worker holds at a time.
    pub(super) slots: usize,
    /// GPUs of a worker; 1 where it has none, so that GPU-seconds are worker-seconds then.
    pub(super) gpus: u32,
    /// Workers at the beginning, all ready.
    pub(super) replicas: i32,
    pub(super) min_replicas: i32,
    pub(super) max_replicas: i32,
    /// A wait that is longer is too long.
    pub(super) target: f64,
    /// The lease: a job whose worker was killed comes back after it.
    pub(super) visibility: f64,
    /// What a pod gets from the signal to stop to its kill.
    pub(super) grace: f64,
    pub(super) cluster: ClusterArgs,
}

impl Setup {
    /// The most workers that can run at a time.
    pub(super) fn most(&self) -> i32 {
        let nodes = i64::from(self.nodes()) * i64::from(self.cluster.pods_per_node);
        self.max_replicas.min(i32::try_from(nodes).unwrap_or(i32::MAX))
    }

    /// The most nodes.
    pub(super) fn nodes(&self) -> u32 {
        let enough = self.max_replicas.max(1).unsigned_abs().div_ceil(self.cluster.pods_per_node.max(1));
        // Pods that end hold their place, so what replaces them needs another one.
        self.cluster.max_nodes.unwrap_or(2 * enough)
    }
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::*;

    /// One slot, up to 10 workers from 0, target 60 s, starts of 10 s; nothing random.
    pub(in super::super) fn setup() -> Setup {
        Setup {
            seed: 1,
            slots: 1,
            gpus: 1,
            replicas: 0,
            min_replicas: 0,
            max_replicas: 10,
            target: 60.0,
            visibility: 120.0,
            grace: 30.0,
            cluster: ClusterArgs {
                scheduling_seconds: 0.0,
                image_pull_seconds: 0.0,
                ready_seconds: 10.0,
                ready_cv: 0.0,
                stop_seconds: 0.0,
                node_seconds: 0.0,
                node_idle_seconds: 60.0,
                max_nodes: None,
                pods_per_node: 1,
                count_lag_seconds: 0.0,
            },
        }
    }
}
