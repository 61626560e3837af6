//! What each failure gets: the one table of it. docs/delivery.md shows the same rows.
//!
//! What has no row here is no failure of a job: S3, SQS and the network being slow, throttling or gone is waited out in
//! place while the lease is held, and a batch that does not fit into memory is halved.

use std::time::Duration;

use millrace_api::{InvalidInputPolicy, JobStatus, RecordError, RetrySpec};

use crate::model::InvalidInput;

/// SQS hides a message for twelve hours at most, counted from its receive; one is left for the attempt.
const LONGEST_RETURN: Duration = Duration::from_hours(11);
/// Record code of a job id that was used for something else; its record stands beside the other one.
pub const JOB_ID_REUSED: &str = "JobIdReused";

/// Why a job that was received did not end with its results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It can never run.
    Invalid {
        /// The record's code: `InvalidInput`, `JobIdReused`, `OutputKeyTaken`, `OutputLoop`, …
        code: &'static str,
        /// Which field, and what would be right.
        error: InvalidInput,
    },
    /// The model failed on it, or it does not fit into memory even alone.
    Model(String),
    /// It ran until SQS would not hide its message any longer.
    TooLong,
    /// Its workers died while they ran it alone.
    CrashPoison {
        /// How often.
        crashes: u32,
    },
    /// Its deadline has passed.
    Expired,
    /// It is not to be begun for so long.
    TooEarly(Duration),
    /// Its record is written, but who asked for it could not be told.
    Unannounced(String),
    /// The worker stops.
    Stopping,
    /// SQS gave its message to another worker.
    LeaseLost,
}

impl From<InvalidInput> for Failure {
    fn from(error: InvalidInput) -> Self {
        Self::Invalid { code: "InvalidInput", error }
    }
}

/// What the treatment of a failure depends on besides the failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Circumstances {
    /// How often the message was received, this time included.
    pub receive_count: u32,
    /// After so many receives it is given up.
    pub max_receive_count: u32,
    /// The queue has a dead-letter queue.
    pub dead_letter_queue: bool,
    /// Where messages that can never run go.
    pub invalid_input: InvalidInputPolicy,
    /// Backoff between tries.
    pub retry: RetrySpec,
    /// How long SQS still keeps the message.
    pub retention_left: Duration,
    /// From 0 to 1; spreads tries out.
    pub jitter: f64,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is done with.
    Delete,
    /// Sent to the dead-letter queue with its error, then deleted.
    DeadLetter,
    /// Visible again after so many seconds. At its last receive SQS moves it to the dead-letter queue then.
    Return(u32),
    /// It is another's: not touched.
    Leave,
}

impl Fate {
    /// The fate of a message with two jobs: it goes only when both are final.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

/// What a failed job gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// Its record, where it gets one.
    pub record: Option<(JobStatus, Option<RecordError>)>,
    /// What becomes of its message.
    pub fate: Fate,
}

impl Failure {
    /// The record's code and the error, where it is the model that failed: many in a row mean that it will fail the next
    /// one too. A job that kills its workers is not that: the worker that tells so did not run it.
    pub fn of_model(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Model(why) => Some(("ModelError", why)),
            Self::Invalid { .. }
            | Self::TooLong
            | Self::CrashPoison { .. }
            | Self::Expired
            | Self::TooEarly(_)
            | Self::Unannounced(_)
            | Self::Stopping
            | Self::LeaseLost => None,
        }
    }

    /// The table.
    pub fn treatment(self, at: &Circumstances) -> Treatment {
        let last = at.receive_count >= at.max_receive_count;
        let to_dead_letters = at.dead_letter_queue && at.invalid_input == InvalidInputPolicy::DeadLetter;
        let never = if to_dead_letters { Fate::DeadLetter } else { Fate::Delete };
        // visibility 0: SQS moves it to the dead-letter queue at the next receive
        let given_up = if at.dead_letter_queue { Fate::Return(0) } else { Fate::Delete };
        let failed = |code: &str, message: String| {
            Some((JobStatus::Failed, Some(RecordError { code: code.into(), message, field: None })))
        };
        match self {
            Self::Invalid { code, error } => {
                let error = RecordError { code: code.into(), message: error.message, field: error.field };
                Treatment { record: Some((JobStatus::Failed, Some(error))), fate: never }
            }
            Self::Model(why) if last => Treatment { record: failed("ModelError", why), fate: given_up },
            Self::TooLong => Treatment {
                record: failed(
                    "LeaseCeiling",
                    "it ran for twelve hours, which is as long as SQS hides a message; make the job smaller".into(),
                ),
                fate: never,
            },
            Self::CrashPoison { crashes } => Treatment {
                record: failed(
                    "CrashPoison",
                    format!(
                        "its worker died {crashes} times while it ran this job alone; look at the worker's last log and exit code (OOMKilled?)"
                    ),
                ),
                fate: never,
            },
            Self::Expired => Treatment { record: Some((JobStatus::Expired, None)), fate: Fate::Delete },
            Self::TooEarly(wait) => Treatment { record: None, fate: Fate::Return(seconds(wait.min(LONGEST_RETURN))) },
            Self::Unannounced(_) if last => Treatment { record: None, fate: given_up },
            Self::Model(_) | Self::Unannounced(_) => Treatment { record: None, fate: Fate::Return(at.backoff()) },
            // there is no next receive: SQS moves it to the dead-letter queue, and the record says why
            Self::Stopping if last && at.dead_letter_queue => Treatment {
                record: failed(
                    "WorkerStopped",
                    "the worker was stopped at the last allowed receive; redrive the message".into(),
                ),
                fate: Fate::Return(0),
            },
            Self::Stopping => Treatment { record: None, fate: Fate::Return(0) },
            Self::LeaseLost => Treatment { record: None, fate: Fate::Leave },
        }
    }
}

impl Circumstances {
    /// Doubled at each receive, up to the maximum, with jitter; and never so long that SQS drops the message meanwhile.
    pub fn backoff(&self) -> u32 {
        let (first, most) = (self.retry.initial_seconds.max(0) as u32, self.retry.max_seconds.max(0) as u32);
        let doubled = first.saturating_mul(1u32.checked_shl(self.receive_count.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(most).min(seconds(LONGEST_RETURN)).min(seconds(self.retention_left) / 2);
        wait - (f64::from(wait) * 0.1 * self.jitter.clamp(0.0, 1.0)) as u32
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(receive_count: u32) -> Circumstances {
        Circumstances {
            receive_count,
            max_receive_count: 5,
            dead_letter_queue: true,
            invalid_input: InvalidInputPolicy::DeadLetter,
            retry: RetrySpec { initial_seconds: 60, max_seconds: 900 },
            retention_left: Duration::from_hours(24),
            jitter: 0.0,
        }
    }

    #[test]
    fn each_failure_gets_what_the_table_says() {
        let without = |count| Circumstances { dead_letter_queue: false, ..at(count) };
        let delete = |count| Circumstances { invalid_input: InvalidInputPolicy::Delete, ..at(count) };
        let invalid = || Failure::from(InvalidInput::field("steps", "too many"));
        let model = || Failure::Model("NaN".into());
        let poison = || Failure::CrashPoison { crashes: 2 };
        let failed = |code| Some((JobStatus::Failed, code));
        let table = [
            ("invalid input", invalid(), at(1), failed("InvalidInput"), Fate::DeadLetter),
            ("invalid input, to be deleted", invalid(), delete(1), failed("InvalidInput"), Fate::Delete),
            ("invalid input, no dead-letter queue", invalid(), without(1), failed("InvalidInput"), Fate::Delete),
            ("model error", model(), at(1), None, Fate::Return(60)),
            ("model error, again", model(), at(3), None, Fate::Return(240)),
            ("model error, last receive", model(), at(5), failed("ModelError"), Fate::Return(0)),
            (
                "model error, last receive, no dead-letter queue",
                model(),
                without(5),
                failed("ModelError"),
                Fate::Delete,
            ),
            ("twelve hours", Failure::TooLong, at(1), failed("LeaseCeiling"), Fate::DeadLetter),
            ("kills its worker", poison(), at(4), failed("CrashPoison"), Fate::DeadLetter),
            ("kills its worker, no dead-letter queue", poison(), without(4), failed("CrashPoison"), Fate::Delete),
            ("deadline passed", Failure::Expired, at(1), Some((JobStatus::Expired, "")), Fate::Delete),
            ("not yet", Failure::TooEarly(Duration::from_secs(90)), at(1), None, Fate::Return(90)),
            ("not for days", Failure::TooEarly(Duration::from_hours(50)), at(1), None, Fate::Return(11 * 3600)),
            ("not announced", Failure::Unannounced("gone".into()), at(2), None, Fate::Return(120)),
            ("not announced, last receive", Failure::Unannounced("gone".into()), at(5), None, Fate::Return(0)),
            (
                "not announced, no dead-letter queue",
                Failure::Unannounced("gone".into()),
                without(5),
                None,
                Fate::Delete,
            ),
            ("stopping", Failure::Stopping, at(1), None, Fate::Return(0)),
            ("stopping at the last receive", Failure::Stopping, at(5), failed("WorkerStopped"), Fate::Return(0)),
            ("stopping, no dead-letter queue", Failure::Stopping, without(5), None, Fate::Return(0)),
            ("lease lost", Failure::LeaseLost, at(1), None, Fate::Leave),
        ];
        for (name, failure, at, record, fate) in table {
            let of_model = failure.of_model().map(|(code, _)| code);
            assert_eq!(of_model, name.starts_with("model error").then_some("ModelError"), "{name}");
            let given = failure.treatment(&at);
            let code = |error: Option<RecordError>| error.map(|e| e.code).unwrap_or_default();
            let found = given.record.map(|(status, error)| (status, code(error)));
            assert_eq!(found, record.map(|(status, code)| (status, code.to_owned())), "{name}");
            assert_eq!(given.fate, fate, "{name}");
        }
    }

    #[test]
    fn an_invalid_field_is_named_in_the_record() {
        let given = Failure::from(InvalidInput::field("steps", "too many")).treatment(&at(1));
        assert_eq!(given.record.unwrap().1.unwrap().field.as_deref(), Some("steps"));
    }

    #[test]
    fn a_message_with_several_jobs_goes_when_all_are_final() {
        let order = [Fate::Delete, Fate::DeadLetter, Fate::Return(0), Fate::Return(60), Fate::Leave];
        for (i, one) in order.into_iter().enumerate() {
            for (j, other) in order.into_iter().enumerate() {
                assert_eq!(one.and(other), order[i.max(j)], "{one:?} and {other:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_backoff_is_bounded_and_ends_before_the_message_does(
            receive_count in 0..2000_u32, initial in 0..43_200, more in 0..43_200, left in 0..2_000_000_u64, jitter in 0.0..1.0,
        ) {
            let retry = RetrySpec { initial_seconds: initial, max_seconds: initial + more };
            let retention_left = Duration::from_secs(left);
            let at = Circumstances { receive_count, retry, retention_left, jitter, ..at(1) };
            let wait = u64::from(at.backoff());
            prop_assert!(wait <= (initial + more) as u64 && wait <= 11 * 3600);
            prop_assert!(left == 0 || wait < left);
            let full = u64::from(Circumstances { jitter: 0.0, ..at }.backoff());
            prop_assert!(wait * 10 >= full * 9, "more than a tenth of jitter: {} of {}", wait, full);
        }
    }
}
