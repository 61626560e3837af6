//! What was when: the queue and the workers at even distances of time and whenever the wished count changed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::outcome::Outcome;

/// The world at a moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Point {
    /// As in the trace.
    pub(super) seconds: f64,
    /// The wished count.
    pub(super) replicas: i32,
    /// Workers that receive.
    pub(super) ready: i32,
    /// Messages that wait, exactly.
    pub(super) visible: usize,
    /// Messages that somebody holds, or that come back later, exactly.
    pub(super) in_flight: usize,
    /// How long the oldest message that waits has waited.
    pub(super) oldest_seconds: f64,
    /// Why the count is what it is, in the policy's word.
    pub(super) reason: String,
}

/// What happens to a message or a worker; of one moment the first of these come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Move {
    Waits(usize),
    Starts(usize),
    Finishes,
    Ready,
    NotReady,
}

/// `points` points, and one for each change of the count.
pub(super) fn timeline(outcome: &Outcome, points: usize) -> Vec<Point> {
    if points == 0 {
        return Vec::new();
    }
    let mut moves: Vec<(f64, Move)> = Vec::with_capacity(outcome.jobs.len() * 3);
    for (index, job) in outcome.jobs.iter().enumerate() {
        moves.push((job.sent, Move::Waits(index)));
        moves.extend(job.started.filter(|_| job.finished.is_some()).map(|at| (at, Move::Starts(index))));
        moves.extend(job.finished.map(|at| (at, Move::Finishes)));
    }
    for lost in &outcome.lost {
        moves.push((lost.started, Move::Starts(lost.job)));
        moves.push((lost.back, Move::Finishes));
        moves.push((lost.back, Move::Waits(lost.job)));
    }
    for pod in &outcome.pods {
        if let Some(ready) = pod.ready {
            moves.push((ready, Move::Ready));
            moves.push((pod.gone, Move::NotReady));
        }
    }
    moves.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

    let step = ((outcome.end - outcome.begin) / points as f64).max(1e-3);
    let even = (0..=points).map(|index| (index as f64).mul_add(step, outcome.begin));
    let mut previous = None;
    let changed = outcome.changes.iter().filter(|change| previous.replace(change.replicas) != Some(change.replicas));
    let mut times: Vec<f64> = even.chain(changed.map(|change| change.at)).collect();
    times.sort_by(f64::total_cmp);
    times.dedup_by(|a, b| (*a - *b).abs() < 1e-3);

    let (mut waiting, mut in_flight, mut ready) = (BTreeSet::new(), 0_usize, 0);
    let (mut moves, mut changes) = (moves.into_iter().peekable(), outcome.changes.iter().peekable());
    let mut now = outcome.changes.first();
    let point = |time: f64| {
        while let Some((_, what)) = moves.next_if(|(at, _)| *at <= time) {
            match what {
                Move::Waits(job) => drop(waiting.insert(job)),
                Move::Starts(job) => {
                    waiting.remove(&job);
                    in_flight += 1;
                }
                Move::Finishes => in_flight = in_flight.saturating_sub(1),
                Move::Ready => ready += 1,
                Move::NotReady => ready -= 1,
            }
        }
        while let Some(change) = changes.next_if(|change| change.at <= time) {
            now = Some(change);
        }
        let oldest = waiting.first().and_then(|job: &usize| outcome.jobs.get(*job)).map_or(0.0, |job| time - job.sent);
        Point {
            seconds: rounded(time),
            replicas: now.map_or(0, |change| change.replicas),
            ready,
            visible: waiting.len(),
            in_flight,
            oldest_seconds: rounded(oldest.max(0.0)),
            reason: now.map(|change| change.reason.clone()).unwrap_or_default(),
        }
    };
    times.into_iter().map(point).collect()
}

/// To a millisecond.
pub(super) fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
