//! When a queue is read next.

use std::time::Duration;

use super::{Depth, QueueError};

/// A reading every so often answers a target of so many times the seconds, within these bounds.
const PART_OF_TARGET: f64 = 6.0;
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
/// Where there is no target.
const USUAL: Duration = Duration::from_secs(10);
/// Up to this part of an interval is added at random.
pub(crate) const JITTER: f64 = 0.1;
/// First wait after an error, doubled at each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest wait after an error.
const LAST_RETRY: Duration = Duration::from_mins(1);

/// What is known without asking SQS.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outlook {
    /// `scaling.target.queueDelaySeconds`.
    pub(crate) target: Option<i32>,
    /// Workers are asked for, or still there.
    pub(crate) working: bool,
    /// Some worker receives nothing although it has room: nothing waits.
    pub(crate) receives_nothing: bool,
    /// There may be no more workers than there are.
    pub(crate) at_most: bool,
    /// The count was as it should be for minutes, and messages do not grow old.
    pub(crate) calm: bool,
}

/// How often a queue should be read. Workers see its messages sooner than its counts tell: one that receives nothing
/// says that none wait, and its first job brings the next reading forward.
pub(crate) fn interval(outlook: &Outlook) -> Duration {
    let by_target = outlook
        .target
        .map_or(USUAL, |target| Duration::from_secs_f64(f64::from(target) / PART_OF_TARGET).clamp(SHORTEST, LONGEST));
    if outlook.working && (outlook.receives_nothing || outlook.at_most || outlook.calm) { LONGEST } else { by_target }
}

/// The wait until the next reading. `jitter` is in 0..1 and only ever adds, so that the calls a minute stay bounded
/// while many queues do not march in step.
pub(super) fn wait(depth: &Result<Depth, QueueError>, interval: Duration, failures: u32, jitter: f64) -> Duration {
    let base = match depth {
        Ok(_) => interval,
        Err(_) => FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_RETRY),
    };
    base.mul_f64(1.0 + JITTER * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Depth = Depth { visible: 0, in_flight: 0, delayed: 0 };

    #[test]
    fn how_often_follows_the_target_and_what_workers_tell() {
        let asleep = Outlook { target: Some(60), ..Outlook::default() };
        let working = Outlook { working: true, ..asleep };
        for (outlook, seconds, case) in [
            (asleep, 10, "at zero"),
            (Outlook { target: Some(6), ..asleep }, 5, "never more often than that"),
            (Outlook { target: Some(3600), ..asleep }, 30, "never less often than that"),
            (Outlook { target: None, ..asleep }, 10, "messagesPerReplica"),
            (working, 10, "workers on their way, or all of them busy"),
            (Outlook { receives_nothing: true, ..working }, 30, "idle"),
            (Outlook { at_most: true, ..working }, 30, "no more are allowed"),
            (Outlook { calm: true, ..working }, 30, "steady"),
            (Outlook { calm: true, ..asleep }, 10, "nobody would tell"),
        ] {
            assert_eq!(interval(&outlook).as_secs(), seconds, "{case}");
        }
    }

    #[test]
    fn a_steady_queue_costs_at_most_two_calls_a_minute() {
        let steady = Outlook { working: true, receives_nothing: true, target: Some(1), ..Outlook::default() };
        for jitter in [0.0, 0.5, 1.0] {
            assert!(wait(&Ok(EMPTY), interval(&steady), 0, jitter) >= Duration::from_secs(30));
        }
    }

    #[test]
    fn errors_back_off_to_a_limit() {
        let wait = |failures, jitter| wait(&Err(QueueError::NotReadYet), USUAL, failures, jitter).as_secs();
        assert_eq!((1..=7).map(|n| wait(n, 0.0)).collect::<Vec<_>>(), [5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(wait(u32::MAX, 1.0), 66);
    }
}
