//! When a queue is read next.

use std::time::Duration;

use super::{Depth, QueueError};

/// Nothing waits and nobody works: at most five calls a minute.
const IDLE: Duration = Duration::from_secs(12);
/// Messages or workers are there.
const BUSY: Duration = Duration::from_secs(5);
/// First wait after an error, doubled at each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest wait after an error.
const LAST_RETRY: Duration = Duration::from_mins(1);

/// The wait until the next reading. `jitter` is in 0..1 and only ever adds, so that the calls a minute stay bounded
/// while many queues do not march in step.
pub(super) fn wait(depth: &Result<Depth, QueueError>, workers: bool, failures: u32, jitter: f64) -> Duration {
    let base = match depth {
        Ok(depth) if depth.is_idle() && !workers => IDLE,
        Ok(_) => BUSY,
        Err(_) => FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_RETRY),
    };
    base.mul_f64(1.0 + 0.1 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Depth = Depth { visible: 0, in_flight: 0, delayed: 0 };

    #[test]
    fn an_idle_queue_costs_at_most_six_calls_a_minute() {
        assert!(wait(&Ok(EMPTY), false, 0, 0.0) >= Duration::from_secs(10));
        for failures in 3..100 {
            assert!(wait(&Err(QueueError::NotReadYet), false, failures, 0.0) >= Duration::from_secs(10));
        }
    }

    #[test]
    fn messages_or_workers_make_it_faster() {
        let one = Depth { visible: 1, ..EMPTY };
        let held = Depth { in_flight: 1, ..EMPTY };
        for (depth, workers) in [(one, false), (held, false), (EMPTY, true)] {
            assert_eq!(wait(&Ok(depth), workers, 0, 0.0), BUSY, "{depth:?} {workers}");
        }
    }

    #[test]
    fn errors_back_off_to_a_limit() {
        let waits: Vec<u64> = (1..=7).map(|n| wait(&Err(QueueError::NotReadYet), true, n, 0.0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(wait(&Err(QueueError::NotReadYet), true, u32::MAX, 1.0).as_secs(), 66);
    }
}
