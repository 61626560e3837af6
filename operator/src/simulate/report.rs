//! What a simulation comes to, as a table for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::args::PolicyName;
use super::outcome::Outcome;
use super::setup::Setup;
use super::timeline::{Point, rounded, timeline};

/// Waits from sending to the start of the attempt that finished the job, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Waits {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// What a simulation comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// Who decided.
    pub(super) policy: &'static str,
    /// A longer wait is too long.
    pub(super) target_seconds: f64,
    pub(super) jobs: usize,
    pub(super) wait_seconds: Waits,
    /// The part of all jobs that waited longer than the target, or never started.
    pub(super) over_target_share: f64,
    /// From a pod's place on a node to its end, times its GPUs.
    pub(super) gpu_seconds: f64,
    /// The work alone: service times / slots, times GPUs. No policy can need less.
    pub(super) least_gpu_seconds: f64,
    /// How often the count left 0.
    pub(super) cold_starts: usize,
    pub(super) peak_replicas: i32,
    pub(super) scale_ups: usize,
    pub(super) scale_downs: usize,
    /// Jobs that were begun again as their worker was killed.
    pub(super) redelivered: usize,
    /// Workers that held jobs when they were told to stop.
    pub(super) busy_killed: u64,
    /// Jobs that were not done within a day after the trace's end.
    pub(super) unserved: usize,
    pub(super) seed: u64,
    pub(super) timeline: Vec<Point>,
}

impl Report {
    /// The 95th percentile of waits, in seconds.
    pub(super) fn p95(&self) -> f64 {
        self.wait_seconds.p95
    }

    pub(super) fn of(policy: PolicyName, setup: &Setup, outcome: &Outcome, points: usize) -> Self {
        let done = outcome.jobs.iter().filter(|job| job.finished.is_some());
        let mut waits: Vec<f64> = done.filter_map(|job| job.started.map(|start| start - job.sent)).collect();
        waits.sort_by(f64::total_cmp);
        let unserved = outcome.jobs.len() - waits.len();
        // A wait that ends at the very target, but for rounding, is in time.
        let over = waits.iter().filter(|wait| **wait > setup.target + 1e-6).count() + unserved;
        let work: f64 = outcome.jobs.iter().map(|job| job.service).sum();
        let gpus = f64::from(setup.gpus);
        let counts: Vec<i32> = outcome.changes.iter().map(|change| change.replicas).collect();
        let moves = |of: fn(i32, i32) -> bool| counts.windows(2).filter(|pair| of(pair[0], pair[1])).count();
        Self {
            policy: policy.word(),
            target_seconds: setup.target,
            jobs: outcome.jobs.len(),
            wait_seconds: Waits {
                p50: percentile(&waits, 50),
                p95: percentile(&waits, 95),
                p99: percentile(&waits, 99),
                max: percentile(&waits, 100),
            },
            over_target_share: (over as f64 / outcome.jobs.len().max(1) as f64 * 1e6).round() / 1e6,
            gpu_seconds: rounded(outcome.pod_seconds() * gpus),
            least_gpu_seconds: rounded(work / setup.slots.max(1) as f64 * gpus),
            cold_starts: moves(|before, after| before == 0 && after > 0),
            peak_replicas: counts.iter().copied().max().unwrap_or_default(),
            scale_ups: moves(|before, after| before < after),
            scale_downs: moves(|before, after| before > after),
            redelivered: outcome.lost.len(),
            busy_killed: outcome.busy_killed,
            unserved,
            seed: setup.seed,
            timeline: timeline(outcome, points),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Waits { p50, p95, p99, max } = self.wait_seconds;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<28} {value}");
        };
        line("policy", self.policy.into());
        line("jobs", self.jobs.to_string());
        line("wait p50, p95, p99, max", format!("{p50:.1} s, {p95:.1} s, {p99:.1} s, {max:.1} s"));
        let share = 100.0 * self.over_target_share;
        line("waited longer than target", format!("{share:.2} % (target {:.0} s)", self.target_seconds));
        line("GPU time", format!("{:.3} h", self.gpu_seconds / 3600.0));
        line("  of it work", format!("{:.3} h", self.least_gpu_seconds / 3600.0));
        line("most workers", self.peak_replicas.to_string());
        line("starts from none", self.cold_starts.to_string());
        line("changes up, down", format!("{}, {}", self.scale_ups, self.scale_downs));
        line("workers stopped while busy", self.busy_killed.to_string());
        line("jobs begun again", self.redelivered.to_string());
        if self.unserved > 0 {
            line("jobs never done", self.unserved.to_string());
        }
        text
    }
}

/// The nearest rank; 0 of nothing.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    rounded(sorted.get(rank - 1).copied().unwrap_or_default())
}

#[cfg(test)]
#[path = "tests/report.rs"]
pub(super) mod tests;
