//! Nodes and pods: who has a place, what a start costs, and whom a ReplicaSet takes first.

use std::collections::VecDeque;

use super::args::ClusterArgs;

/// Jobs whose service times a worker's mean is of, as in the worker.
const RECENT: usize = 200;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It has no node yet.
    Pending,
    /// It has a node: the image is pulled, the model loaded.
    Starting,
    /// It receives.
    Ready,
    /// It was told to stop: it finishes what it holds, and receives no more.
    Stopping,
    /// It is no more.
    Gone,
}

/// A worker. Times are in seconds.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    /// Its index among all pods there ever were.
    pub(super) id: usize,
    pub(super) phase: Phase,
    /// When it was asked for.
    pub(super) requested: f64,
    /// When it got its node, from when on it holds a GPU.
    pub(super) placed: Option<f64>,
    /// When its container starts.
    pub(super) running: f64,
    /// When it became ready, or will.
    pub(super) ready: f64,
    pub(super) gone: Option<f64>,
    pub(super) node: usize,
    /// The jobs that it holds, and when each will be done.
    pub(super) held: Vec<(usize, f64)>,
    /// Jobs done since it started.
    pub(super) completed: u64,
    /// Service times of its last jobs.
    recent: VecDeque<f64>,
    /// When it last received a message for the first time, and when that was sent.
    pub(super) received: Option<(f64, f64)>,
    /// Since when its receives come back empty.
    pub(super) idle_since: f64,
}

impl Pod {
    pub(super) fn new(id: usize, now: f64) -> Self {
        Self {
            id,
            phase: Phase::Pending,
            requested: now,
            placed: None,
            running: f64::INFINITY,
            ready: f64::INFINITY,
            gone: None,
            node: usize::MAX,
            held: Vec::new(),
            completed: 0,
            recent: VecDeque::new(),
            received: None,
            idle_since: now,
        }
    }

    /// It runs, or will, and was not told to stop.
    pub(super) fn counts(&self) -> bool {
        self.phase < Phase::Stopping
    }

    /// A job is done that held a slot for so long.
    pub(super) fn complete(&mut self, service: f64) {
        self.completed += 1;
        self.recent.push_back(service);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// Mean and 95th percentile of the service times of its last jobs.
    pub(super) fn service(&self) -> Option<(f64, f64)> {
        if self.recent.is_empty() {
            return None;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some((mean, sorted[(sorted.len() * 95).div_ceil(100) - 1]))
    }
}

/// Whom to take where there are to be fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// As a ReplicaSet does it that knows nothing of jobs: without a node before with one, not ready before ready, and the
    /// newest of those. (kubernetes: pkg/controller/controller_utils.go, ActivePodsWithRanks. Its rank by pods on the same
    /// node and its logarithmic buckets of age, which spread victims at random, are left out.)
    ReplicaSet,
    /// Those that run no job, as millrace does it: not ready before idle, the newest first; a busy one never.
    IdleOnly,
}

/// Up to `count` pods to take.
pub(super) fn victims(pods: &[Pod], count: usize, removal: Removal) -> Vec<usize> {
    let mut order: Vec<&Pod> = pods.iter().filter(|pod| pod.counts()).collect();
    if removal == Removal::IdleOnly {
        order.retain(|pod| pod.held.is_empty());
    }
    order.sort_by(|a, b| a.phase.cmp(&b.phase).then(b.requested.total_cmp(&a.requested)).then(b.id.cmp(&a.id)));
    order.into_iter().take(count).map(|pod| pod.id).collect()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Absent,
    Ordered,
    Up,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    presence: Presence,
    pods: u32,
    image: bool,
    /// Counts the pods that it ever took, so that an old wish to remove it does nothing.
    epoch: u64,
}

/// A place for a pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) node: usize,
    /// Time until its container starts.
    pub(super) pull: f64,
}

/// The nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    per_node: u32,
    pull: f64,
    /// Nodes come and go.
    elastic: bool,
}

impl Nodes {
    /// Up to `most` nodes: all there, or none of them yet.
    pub(super) fn new(cluster: &ClusterArgs, most: u32) -> Self {
        let elastic = cluster.node_seconds > 0.0;
        let presence = if elastic { Presence::Absent } else { Presence::Up };
        let node = Node { presence, ..Node::default() };
        Self {
            all: vec![node; most as usize],
            per_node: cluster.pods_per_node.max(1),
            pull: cluster.image_pull_seconds,
            elastic,
        }
    }

    /// A place on a node with room, rather one that has the image.
    pub(super) fn place(&mut self) -> Option<Place> {
        let roomy =
            self.all.iter().enumerate().filter(|(_, node)| node.presence == Presence::Up && node.pods < self.per_node);
        let node = roomy.max_by_key(|(index, node)| (node.image, node.pods, std::cmp::Reverse(*index)))?.0;
        let chosen = &mut self.all[node];
        chosen.pods += 1;
        chosen.epoch += 1;
        let pull = if std::mem::replace(&mut chosen.image, true) { 0.0 } else { self.pull };
        Some(Place { node, pull })
    }

    /// A place for a pod that was there before the simulation began.
    pub(super) fn place_early(&mut self) -> Option<Place> {
        if let Some(place) = self.place() {
            return Some(place);
        }
        let node = self.order()?;
        self.arrive(node);
        self.place()
    }

    /// A pod leaves. Returns the node's epoch if the node may be removed unless it is used again.
    pub(super) fn leave(&mut self, node: usize) -> Option<u64> {
        let node = self.all.get_mut(node)?;
        node.pods = node.pods.saturating_sub(1);
        (self.elastic && node.pods == 0).then_some(node.epoch)
    }

    /// A node to order, if there may be one more.
    pub(super) fn order(&self) -> Option<usize> {
        self.all.iter().position(|node| node.presence == Presence::Absent)
    }

    /// A node was ordered: it is not ordered twice.
    pub(super) fn ordered(&mut self, node: usize) {
        self.all[node].presence = Presence::Ordered;
    }

    /// A node is there.
    pub(super) fn arrive(&mut self, node: usize) {
        self.all[node].presence = Presence::Up;
    }

    /// An empty node goes, if it was not used since.
    pub(super) fn remove(&mut self, node: usize, epoch: u64) {
        let gone = &mut self.all[node];
        if gone.pods == 0 && gone.epoch == epoch {
            *gone = Node { epoch, ..Node::default() };
        }
    }

    pub(super) fn elastic(&self) -> bool {
        self.elastic
    }

    /// Pods that one node takes.
    pub(super) fn per_node(&self) -> usize {
        self.per_node as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::fixtures::setup;
    use super::*;

    fn pod(id: usize, phase: Phase, held: usize) -> Pod {
        let mut pod = Pod::new(id, id as f64);
        pod.phase = phase;
        pod.held = vec![(0, 0.0); held];
        pod
    }

    #[test]
    fn who_is_taken_first() {
        let pods = [
            pod(0, Phase::Ready, 0),
            pod(1, Phase::Ready, 1),
            pod(2, Phase::Starting, 0),
            pod(3, Phase::Pending, 0),
            pod(4, Phase::Ready, 1),
            pod(5, Phase::Stopping, 0),
        ];
        assert_eq!(victims(&pods, 9, Removal::ReplicaSet), [3, 2, 4, 1, 0]);
        assert_eq!(victims(&pods, 9, Removal::IdleOnly), [3, 2, 0]);
        assert_eq!(victims(&pods, 1, Removal::IdleOnly), [3]);
    }

    #[test]
    fn a_node_pulls_the_image_once() {
        let cluster = ClusterArgs { image_pull_seconds: 40.0, pods_per_node: 2, ..setup().cluster };
        let mut nodes = Nodes::new(&cluster, 2);
        let pulls: Vec<_> = (0..5).map(|_| nodes.place().map(|place| (place.node, place.pull as i32))).collect();
        assert_eq!(pulls, [Some((0, 40)), Some((0, 0)), Some((1, 40)), Some((1, 0)), None]);
        assert_eq!(nodes.leave(1), None, "nodes stay");
        assert_eq!(nodes.place(), Some(Place { node: 1, pull: 0.0 }));
    }

    #[test]
    fn a_node_that_is_ordered_comes_once_and_goes_when_it_stays_empty() {
        let cluster = ClusterArgs { image_pull_seconds: 40.0, node_seconds: 60.0, ..setup().cluster };
        let mut nodes = Nodes::new(&cluster, 1);
        assert_eq!((nodes.place(), nodes.order()), (None, Some(0)));
        nodes.ordered(0);
        assert_eq!(nodes.order(), None);
        nodes.arrive(0);
        assert_eq!(nodes.place(), Some(Place { node: 0, pull: 40.0 }));
        let epoch = nodes.leave(0).unwrap();
        assert_eq!(nodes.place(), Some(Place { node: 0, pull: 0.0 }));
        nodes.remove(0, epoch);
        let epoch = nodes.leave(0).unwrap();
        nodes.remove(0, epoch);
        assert_eq!((nodes.place(), nodes.order()), (None, Some(0)), "it went, and the image with it");
    }

    #[test]
    fn a_worker_tells_the_mean_of_its_last_jobs() {
        let mut pod = pod(0, Phase::Ready, 0);
        assert_eq!(pod.service(), None);
        for second in 0..300 {
            pod.complete(f64::from(second));
        }
        let (mean, p95) = pod.service().unwrap();
        assert!((mean - 199.5).abs() < 1e-9 && (p95 - 289.0).abs() < 1e-9, "{mean} {p95}");
    }
}
