//! The HorizontalPodAutoscaler with one external metric of type AverageValue and its default behaviour, as in
//! kubernetes: pkg/controller/podautoscaler/horizontal.go and replica_calculator.go.

use std::collections::VecDeque;

/// `--horizontal-pod-autoscaler-sync-period`.
pub(super) const SYNC: f64 = 15.0;
/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;
/// Default of `behavior.scaleDown.stabilizationWindowSeconds`.
const DOWN_WINDOW: f64 = 300.0;
/// Default scale-up policies: Percent 100 and Pods 4 in each period, whichever is more. (Scale-down: Percent 100, which is no
/// limit.)
const UP_PODS: i32 = 4;
const UP_PERIOD: f64 = 15.0;
/// A sync writes the scale, and remembers when, after it computed it: this much later. The next sync computes 15 s after this
/// one did, and still counts that write as one of the last 15 s. So a count that its limit held back rises at every
/// *other* sync, as was measured (tests/keda_lab.json): 5 at 13 s, 10 at 43 s.
const WRITE: f64 = 0.1;

/// What it remembers.
#[derive(Debug)]
pub(super) struct Hpa {
    /// `averageValue`.
    average: f64,
    min: i32,
    max: i32,
    /// When, and what was recommended.
    recommended: VecDeque<(f64, i32)>,
    /// When, and how many pods were added.
    added: VecDeque<(f64, i32)>,
}

impl Hpa {
    pub(super) fn new(average: f64, min: i32, max: i32) -> Self {
        Self { average, min, max, recommended: VecDeque::new(), added: VecDeque::new() }
    }

    /// One sync: `current` is `spec.replicas`, `status` the pods there are. At 0 it is switched off.
    pub(super) fn sync(&mut self, now: f64, current: i32, status: i32, metric: f64) -> i32 {
        if current == 0 {
            return 0;
        }
        if self.recommended.is_empty() {
            self.recommended.push_back((now, current));
        }
        // GetExternalPerPodMetricReplicas
        let ratio = metric / (self.average * f64::from(status));
        let tolerated = (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
        let proposed = if tolerated { status } else { (metric / self.average).ceil() as i32 };
        let stabilized = self.stabilize(now, current, proposed);
        let desired = stabilized.clamp(self.min, self.limit(now, current));
        if desired > current {
            self.added.push_back((now + WRITE, desired - current));
        }
        desired
    }

    /// The highest of the window, where it is fewer than there are. There is no window upwards.
    fn stabilize(&mut self, now: f64, current: i32, proposed: i32) -> i32 {
        self.recommended.retain(|(at, _)| *at > now - DOWN_WINDOW);
        let highest = self.recommended.iter().map(|(_, count)| *count).fold(proposed, i32::max);
        self.recommended.push_back((now, proposed));
        if proposed >= current { proposed } else { highest.min(current) }
    }

    /// calculateScaleUpLimitWithScalingRules: what the period began with, and as many again or 4 more.
    fn limit(&mut self, now: f64, current: i32) -> i32 {
        self.added.retain(|(at, _)| *at > now - UP_PERIOD);
        let began = current - self.added.iter().map(|(_, count)| *count).sum::<i32>();
        let limit = (began + UP_PODS).max(began * 2).max(current);
        limit.min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_tolerated() {
        for (status, metric, wanted) in
            [(10, 50.0, 10), (10, 54.9, 10), (10, 55.0, 10), (10, 55.2, 12), (10, 45.1, 10), (4, 22.1, 5), (1, 5.4, 1)]
        {
            assert_eq!(Hpa::new(5.0, 1, 100).sync(0.0, status, status, metric), wanted, "{status} {metric}");
        }
    }

    #[test]
    fn up_by_4_or_by_as_many_again_once_a_period() {
        let mut hpa = Hpa::new(5.0, 1, 100);
        let (mut current, mut counts) = (1, Vec::new());
        for sync in 0..9_i32 {
            current = hpa.sync(f64::from(sync) * SYNC, current, current, 1000.0);
            counts.push(current);
        }
        assert_eq!(counts, [5, 5, 10, 10, 20, 20, 40, 40, 80]);
        assert_eq!(Hpa::new(5.0, 1, 7).sync(0.0, 5, 5, 1000.0), 7, "never above the most");
    }

    #[test]
    fn down_to_the_highest_of_five_minutes() {
        let mut hpa = Hpa::new(5.0, 1, 100);
        let mut at = |second: f64, current, metric| hpa.sync(second, current, current, metric);
        assert_eq!(at(0.0, 10, 50.0), 10);
        assert_eq!(at(15.0, 10, 20.0), 10);
        assert_eq!(at(285.0, 10, 0.0), 10);
        assert_eq!(at(300.0, 10, 0.0), 4, "what was said at 15 s");
        assert_eq!(at(315.0, 4, 0.0), 1, "never to none");
        assert_eq!(at(330.0, 0, 100.0), 0, "switched off");
    }
}
