//! A job that was not completed: its record, and what becomes of its message.

use std::time::Duration;

use jiff::Timestamp;
use millrace_api::{JobStatus, RecordError, ResultRecord};
use tokio_util::sync::CancellationToken;

use super::{Attempt, Ended};
use crate::deliver::{Commit, Store};
use crate::failure::{Circumstances, Failure, Fate, JOB_ID_REUSED, Treatment};
use crate::handler::Handler;
use crate::job::{Decoded, JobHead, Rejected};
use crate::metrics::Outcome;
use crate::model::InvalidInput;
use crate::pipeline::Pipeline;
use crate::store::{FAREWELL, GivenUp};
use crate::telemetry::JobSpan;
use crate::time::seconds_between;

impl<H: Handler> Pipeline<H> {
    /// What failures depend on here and now.
    pub(crate) fn circumstances(&self, attempt: &Attempt<'_>) -> Circumstances {
        let redrive = self.redrive.borrow();
        let queue = &self.config.worker.queue;
        let age = seconds_between(attempt.message.sent_at, Timestamp::now());
        Circumstances {
            receive_count: attempt.message.receive_count,
            max_receive_count: redrive.max_receive_count,
            dead_letter_queue: redrive.dead_letter_url.is_some(),
            invalid_input: queue.invalid_input,
            retry: queue.retry,
            retention_left: redrive.retention.saturating_sub(Duration::from_secs_f64(age)),
            jitter: rand::random(),
        }
    }

    /// SQS gives the message no more after this.
    pub(super) fn is_last(&self, attempt: &Attempt<'_>) -> bool {
        attempt.message.receive_count >= self.redrive.borrow().max_receive_count
    }

    /// A message that is no job.
    pub(crate) async fn reject(&self, attempt: &Attempt<'_>, rejected: Rejected) -> Ended {
        let Rejected { head, code, error } = rejected;
        self.state.name_job(&attempt.message.receipt_handle, &head.id, None);
        let span = JobSpan::start(&self.queue.url, attempt.message, &head);
        let ended = self.fail(attempt, &head, Failure::Invalid { code, error }, Duration::ZERO, &span).await;
        Ended { span, ..ended }
    }

    /// What a job that was not completed gets: its record, and its message a place.
    pub(super) async fn fail(
        &self,
        attempt: &Attempt<'_>,
        head: &JobHead,
        failure: Failure,
        spent: Duration,
        span: &JobSpan,
    ) -> Ended {
        let (job_id, message_id) = (&head.id, &attempt.message.id);
        let outcome = match &failure {
            Failure::LeaseLost => Outcome::LeaseLost,
            Failure::Expired => Outcome::Expired,
            _ => Outcome::Returned,
        };
        if let Some((code, why)) = failure.of_model() {
            self.state.model_failed(code, why);
        }
        match &failure {
            Failure::Model(why) => tracing::warn!(job_id, message_id, why, "the model failed"),
            Failure::Unannounced(why) => {
                tracing::warn!(job_id, message_id, why, "done, but who asked could not be told");
            }
            _ => {}
        }
        // what was given up has no say any more, but for its record
        let stopping = matches!(failure, Failure::Stopping | Failure::TooLong);
        let poison = matches!(failure, Failure::CrashPoison { .. });
        let Treatment { record, fate } = failure.treatment(&self.circumstances(attempt));
        self.metrics.wasted(outcome, spent);
        let Some((status, error)) = record else { return Ended::new(outcome, fate) };

        let outcome = if status == JobStatus::Failed { Outcome::Failed } else { outcome };
        if let Some(RecordError { code, message, field }) = &error {
            tracing::warn!(job_id, message_id, code, field, "failed: {message}");
            span.failed(code, message);
        }
        let failed = status == JobStatus::Failed;
        let record = ResultRecord {
            error: error.clone(),
            body: failed.then(|| attempt.message.body.clone()),
            ..self.record(attempt, head, status, Self::timings(attempt))
        };
        // a worker that stops has given everything else up
        let farewell = CancellationToken::new();
        let give_up = if stopping { &farewell } else { attempt.give_up };
        let mut name = head.id.clone();
        let committing = self.commit_failure(&record, &mut name, give_up);
        let patience = if stopping { FAREWELL } else { Duration::MAX };
        let Ok(committed) = tokio::time::timeout(patience, committing).await else {
            return Ended::new(Outcome::Returned, fate);
        };
        match committed {
            Err(GivenUp) => attempt.given_up(),
            Ok(Commit::AlreadyFinal(there)) => match self.announce(attempt, head, &there, &head.id).await {
                Ok(()) => Ended::new(Outcome::AlreadyDone, Fate::Delete),
                Err(untold @ Failure::Unannounced(_)) => {
                    Ended::new(Outcome::Returned, untold.treatment(&self.circumstances(attempt)).fate)
                }
                Err(_) => attempt.given_up(),
            },
            Ok(Commit::Written | Commit::IdTaken) => {
                let told = if stopping { Ok(()) } else { self.announce(attempt, head, &record, &name).await };
                match told {
                    Ok(()) => {}
                    // its record is final: whoever finds it tells again
                    Err(untold @ Failure::Unannounced(_)) if status.is_final() => {
                        return Ended::new(outcome, untold.treatment(&self.circumstances(attempt)).fate);
                    }
                    Err(Failure::Unannounced(why)) => {
                        tracing::error!(job_id, why, "failed, and who asked could not be told; the record says it");
                    }
                    Err(_) => return attempt.given_up(),
                }
                let dead_letter = error.map(|error| (head.raw_id.clone(), error));
                Ended { dead_letter, quarantined: poison.then(|| head.id.clone()), ..Ended::new(outcome, fate) }
            }
        }
    }

    /// A message that is given back: at its last receive SQS will not give it again, and at SQS's ceiling that would not
    /// help, so its jobs get their records first.
    pub(crate) async fn say_why(&self, attempt: &Attempt<'_>, ended: Ended) -> Ended {
        let at = self.circumstances(attempt);
        let why = attempt.reason();
        if why.clone().treatment(&at).record.is_none() {
            return ended;
        }
        let heads = match self.config.forms.decode(attempt.message) {
            Decoded::Jobs(jobs) => jobs.into_iter().map(|job| job.head).collect(),
            Decoded::Rejected(rejected) => vec![rejected.head],
            Decoded::Elsewhere(_) => vec![self.config.forms.reject(attempt.message, InvalidInput::body("")).head],
            Decoded::Nothing(_) => Vec::new(),
        };
        let mut told: Option<Ended> = None;
        for head in heads {
            let one = self.fail(attempt, &head, why.clone(), Duration::ZERO, &JobSpan::default()).await;
            told = Some(match told {
                Some(others) => others.and(one),
                None => one,
            });
        }
        let Some(told) = told else { return ended };
        self.bury(attempt, Ended { span: ended.span, ..told }).await
    }

    /// Writes it; `name` becomes the one under which it stands.
    async fn commit_failure(
        &self,
        record: &ResultRecord,
        name: &mut String,
        give_up: &CancellationToken,
    ) -> Result<Commit, GivenUp> {
        let reused = record.error.as_ref().is_some_and(|error| error.code == JOB_ID_REUSED);
        if !reused {
            match self.store.commit(record, give_up).await? {
                Commit::IdTaken => {}
                committed => return Ok(committed),
            }
        }
        *name = Store::beside(record);
        self.store.commit_beside(record, give_up).await
    }
}
