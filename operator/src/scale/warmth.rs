//! How long workers stay when there is nothing to do.
//!
//! For the last one: a GPU that idles costs its time; one that is let go costs its start when the next message comes, and
//! where the start takes longer than the target that message is late.
//!
//! - Where a start is within the target only cost counts. Before enough pauses were seen, the worker stays for as long as a
//!   start takes: as in the ski-rental problem (Karlin et al., 1988), whoever rents until the rent equals the price pays at
//!   most twice what one who knows the future pays. Afterwards it stays for the time that would have cost least over the
//!   pauses that were seen, each costing the pause itself if it is shorter, and that time and a start if it is longer.
//! - Where a start would miss the target the worker stays for `scaleToZeroAfterSeconds`, unless the pauses that were seen
//!   are all longer than that, so that the wait would be for nothing.
//!
//! At least a minute, because the queue's counts are approximate, and never longer than `scaleToZeroAfterSeconds`.
//!
//! The others go when they were not needed for `scaleDownStabilizationSeconds`; where the spec leaves that open, by the same
//! reckoning as long as a start takes.

use super::estimate::Samples;
use super::need::brief;

/// Counts that are approximate must say zero for so long, in seconds.
const LEAST: f64 = 60.0;
/// Workers beyond the last one stay for so long at least, which is a few readings of the queue, and at most, in seconds.
const FEW: (f64, f64) = (20.0, 60.0);
/// Pauses that must have been seen before they say something about the next one.
const ENOUGH: usize = 4;

/// For how long, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Warmth {
    pub(super) seconds: f64,
    pub(super) words: String,
}

/// How long fewer workers must have been enough before there are fewer, in seconds.
pub(super) fn window(spec: Option<i32>, target: Option<f64>, ready_seconds: f64) -> f64 {
    match (spec, target) {
        (Some(seconds), _) => f64::from(seconds),
        (None, Some(target)) if ready_seconds <= target => ready_seconds.clamp(FEW.0, FEW.1),
        (None, _) => FEW.1,
    }
}

/// `longest` is `scaleToZeroAfterSeconds`, `target` the queue delay that is promised, if one is.
pub(super) fn warmth(longest: f64, target: Option<f64>, ready_seconds: f64, gaps: &Samples<8>) -> Warmth {
    let start = brief(ready_seconds);
    let within = ready_seconds.clamp(LEAST.min(longest), longest);
    let Some(target) = target else {
        return Warmth { seconds: longest, words: "scaleToZeroAfterSeconds".into() };
    };
    let (seen, short) = gaps.at_most(longest);
    if ready_seconds <= target {
        let words = format!("a start takes {start} s and is within the target");
        let seconds = if seen >= ENOUGH { cheapest(LEAST.min(longest), longest, ready_seconds, gaps) } else { within };
        return Warmth { seconds, words };
    }
    if seen >= ENOUGH && short == 0 {
        let words = format!("the last {seen} pauses were all longer than scaleToZeroAfterSeconds");
        return Warmth { seconds: within, words };
    }
    let words = format!("a start takes {start} s and would miss the target, so scaleToZeroAfterSeconds counts");
    Warmth { seconds: longest, words }
}

/// The time to stay that would have cost least: the least, or just as long as one of the pauses.
fn cheapest(least: f64, longest: f64, ready_seconds: f64, gaps: &Samples<8>) -> f64 {
    let cost =
        |stay: f64| -> f64 { gaps.values().map(|gap| if gap <= stay { gap } else { stay + ready_seconds }).sum() };
    let stays = gaps.values().filter(|gap| (least..=longest).contains(gap));
    std::iter::once(least).chain(stays).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(values: &[f64]) -> Samples<8> {
        let mut samples = Samples::default();
        for value in values {
            samples.add(*value);
        }
        samples
    }

    #[test]
    fn the_cheaper_way_to_wait() {
        let hours = [7200.0; 4];
        for (longest, target, ready, pauses, seconds, case) in [
            (300.0, Some(60.0), 10.0, &[][..], 60.0, "a short start: the least"),
            (3600.0, Some(600.0), 180.0, &[], 180.0, "as long as a start takes"),
            (120.0, Some(600.0), 180.0, &[], 120.0, "never longer than the spec says"),
            (3600.0, Some(60.0), 180.0, &[], 3600.0, "a start would miss the target"),
            (3600.0, Some(60.0), 180.0, &[900.0, 1200.0, 600.0, 7200.0], 3600.0, "most pauses are short"),
            (3600.0, Some(60.0), 180.0, &hours, 180.0, "no pause was that short"),
            (3600.0, Some(60.0), 180.0, &hours[..3], 3600.0, "three pauses say nothing"),
            (3600.0, Some(600.0), 180.0, &[900.0, 500.0, 800.0, 700.0], 60.0, "pauses are long: a start is cheaper"),
            (3600.0, Some(600.0), 180.0, &[90.0, 70.0, 80.0, 900.0], 90.0, "most are short: as long as those"),
            (3600.0, Some(600.0), 20.0, &[90.0, 70.0, 80.0, 900.0], 60.0, "a start costs less than any pause"),
            (300.0, None, 10.0, &[], 300.0, "without a target the spec's word"),
        ] {
            let warmth = warmth(longest, target, ready, &gaps(pauses));
            assert!((warmth.seconds - seconds).abs() < 1e-9, "{case}: {warmth:?}");
        }
    }

    #[test]
    fn more_than_one_worker_stays_as_long_as_a_start_takes_unless_the_spec_says_how_long() {
        for (spec, target, ready, seconds) in [
            (Some(0), Some(60.0), 25.0, 0.0),
            (Some(300), Some(60.0), 25.0, 300.0),
            (None, Some(60.0), 2.0, 20.0),
            (None, Some(60.0), 25.0, 25.0),
            (None, Some(600.0), 180.0, 60.0),
            (None, Some(10.0), 25.0, 60.0),
            (None, None, 25.0, 60.0),
        ] {
            assert!((window(spec, target, ready) - seconds).abs() < 1e-9, "{spec:?} {target:?} {ready}");
        }
    }
}
