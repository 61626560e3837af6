//! One attempt at one job, told in order: done before? due? suspect? infer, upload, commit, announce.

mod failed;
mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use millrace_api::{JobStatus, RecordError, RecordOutput, ResultRecord, Timings};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::announce::AnnounceError;
use crate::batch::Done;
use crate::deliver::{Commit, DeliverError, Place};
use crate::failure::{Failure, Fate, JOB_ID_REUSED};
use crate::handler::{Handler, RequestOf};
use crate::inputs::ReadError;
use crate::job::{Job, JobHead};
use crate::lease::CEILING;
use crate::message::Message;
use crate::metrics::{Outcome, Phase};
use crate::model::{Cancel, InvalidInput, Item, Product, RunError};
use crate::parts::Parts;
use crate::pipeline::{Pipeline, Seat};
use crate::store::GivenUp;
use crate::suspect::Suspicion;
use crate::telemetry::JobSpan;
use crate::time::seconds_between;
use crate::way::Way;

/// Outputs of one job that are put at a time.
const PUTS: usize = 4;
/// Most bytes of the objects that one job's inputs name.
const MOST_OBJECTS: usize = 64 << 20;
/// How long a job that was cut waits for the model to notice.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// Longest that a job may take: SQS's ceiling, less what its record and its verdict need.
const BEFORE_CEILING: Duration = CEILING.saturating_sub(Duration::from_mins(2));

/// One delivery of one message.
pub(crate) struct Attempt<'a> {
    pub(crate) message: &'a Message,
    /// Lease lost or worker stopping.
    pub(crate) give_up: &'a CancellationToken,
    /// Lease lost.
    pub(crate) lost: &'a CancellationToken,
}

/// How a job, or a message with all of its jobs, ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) fate: Fate,
    /// The job's id and error for the dead-letter queue, where that is the message's fate.
    pub(crate) dead_letter: Option<(String, RecordError)>,
    /// The job's id, where it was taken out for killing its workers.
    pub(crate) quarantined: Option<String>,
    /// Ends with the message's verdict.
    pub(crate) span: JobSpan,
}

impl Ended {
    fn new(outcome: Outcome, fate: Fate) -> Self {
        Self { outcome, fate, dead_letter: None, quarantined: None, span: JobSpan::default() }
    }

    pub(crate) fn nothing_to_do() -> Self {
        Self::new(Outcome::Nothing, Fate::Delete)
    }

    /// The end of a message with two jobs: whatever keeps it longer.
    pub(crate) fn and(self, other: Self) -> Self {
        let (keeps, goes) = if self.fate >= other.fate { (self, other) } else { (other, self) };
        goes.span.ended(goes.outcome);
        Self { fate: keeps.fate.and(goes.fate), ..keeps }
    }
}

impl Attempt<'_> {
    /// Why it was given up.
    pub(crate) fn reason(&self) -> Failure {
        if self.lost.is_cancelled() {
            Failure::LeaseLost
        } else if self.time_left().is_zero() {
            Failure::TooLong
        } else {
            Failure::Stopping
        }
    }

    /// How long SQS will hide the message, less what its record and its verdict need.
    pub(crate) fn time_left(&self) -> Duration {
        BEFORE_CEILING.saturating_sub(self.message.polled.elapsed())
    }

    pub(crate) fn given_up(&self) -> Ended {
        if self.lost.is_cancelled() {
            Ended::new(Outcome::LeaseLost, Fate::Leave)
        } else {
            Ended::new(Outcome::Returned, Fate::Return(0))
        }
    }
}

/// One job's way through its attempt.
struct Work<'a> {
    attempt: &'a Attempt<'a>,
    seat: Seat<'a>,
    held_since: Instant,
    span: JobSpan,
    /// An attempt before it FAILED, whose outputs are replaced.
    retried: bool,
    /// Of the device's time, as long as it is not committed.
    spent: Duration,
}

/// A job that was computed, and how long that took.
struct Computed {
    products: Vec<Product>,
    timings: Timings,
    batched: Duration,
}

/// A job whose record stands.
struct Committed {
    outcome: Outcome,
    record: ResultRecord,
    timings: Timings,
    batched: Duration,
    /// Since when its record was put.
    committing: Instant,
}

impl<H: Handler> Pipeline<H> {
    /// Sees one job of a message through, from decoded to announced.
    pub(crate) async fn run_job<'a>(
        &self,
        attempt: &'a Attempt<'a>,
        job: Job,
        seat: Seat<'a>,
        held_since: Instant,
    ) -> Ended {
        let head = job.head.clone();
        let span = JobSpan::start(&self.queue.url, attempt.message, &head);
        let mut work = Work { attempt, seat, held_since, span, retried: false, spent: Duration::ZERO };
        let ended = Box::pin(self.run(&mut work, job)).await;
        let Work { seat, span, spent, .. } = work;
        drop(seat);
        let ended = match ended {
            Ok(outcome) => {
                self.metrics.wasted(outcome, spent);
                Ended::new(outcome, Fate::Delete)
            }
            Err(failure) => self.fail(attempt, &head, failure, spent, &span).await,
        };
        Ended { span, ..ended }
    }

    async fn run(&self, work: &mut Work<'_>, job: Job) -> Result<Outcome, Failure> {
        let attempt = work.attempt;
        let given_up = |_: GivenUp| attempt.reason();
        let message = attempt.message;
        // a first receive under SQS's own id can have no record: a healthy job pays for no look-up
        let look = message.receive_count > 1 || job.head.id_is_producers;
        let found = if look { self.store.find(&job.head.id, attempt.give_up).await.map_err(given_up)? } else { None };
        work.retried = found.is_some();
        if let Some(there) = found.map(|found| found.record) {
            if there.input_sha256 != job.head.input_sha256 || there.consumer != self.owner() {
                return Err(reused(&job.head));
            }
            if there.status.is_final() {
                tracing::info!(job_id = job.head.id, "done before; deleted without inference");
                work.seat.leave();
                self.announce(attempt, &job.head, &there, &job.head.id).await?;
                return Ok(Outcome::AlreadyDone);
            }
        }
        self.wait_until_due(work, &job.head).await?;

        let job = match job.object().cloned() {
            None => job,
            Some(object) => match self.inputs.read(&object, attempt.give_up).await {
                Ok(content) => {
                    let field = self.handler.content_field(&job.about());
                    job.with_content(&content, field)?
                }
                Err(ReadError::GivenUp) => return Err(attempt.reason()),
                Err(ReadError::Invalid(error)) => return Err(error.into()),
            },
        };
        let job = self.with_objects(attempt, job).await?;
        let requests = job.requests(&*self.handler, &self.config.worker.model.parameters)?;
        let committed = if message.receive_count == 1 {
            Box::pin(self.compute_and_commit(work, &job, requests)).await?
        } else {
            Box::pin(self.compute_with_note(work, &job, requests)).await?
        };
        self.finish(work, &job.head, committed).await
    }

    /// Reads the objects that a job's inputs name.
    async fn with_objects(&self, attempt: &Attempt<'_>, mut job: Job) -> Result<Job, Failure> {
        let mut bytes = 0;
        for named in self.config.forms.objects_of(&job, self.handler.object_fields(&job.about()))? {
            match self.inputs.read(&named.object, attempt.give_up).await {
                Ok(content) => {
                    bytes += content.len();
                    if bytes > MOST_OBJECTS {
                        let message = format!(
                            "with those before it the job's objects are more than {MOST_OBJECTS} bytes, which are held \
                             at the same time: make several jobs of it"
                        );
                        return Err(job.at(named.input, InvalidInput::field(named.field, message)).into());
                    }
                    job.put_content(&named, &content);
                }
                Err(ReadError::GivenUp) => return Err(attempt.reason()),
                Err(ReadError::Invalid(error)) => {
                    return Err(job.at(named.input, InvalidInput::field(named.field, error.message)).into());
                }
            }
        }
        Ok(job)
    }

    /// With a note for whoever comes after a worker that dies.
    async fn compute_with_note(
        &self,
        work: &mut Work<'_>,
        job: &Job,
        requests: Vec<RequestOf<H>>,
    ) -> Result<Committed, Failure> {
        let (attempt, head) = (work.attempt, &job.head);
        let given_up = |_: GivenUp| attempt.reason();
        let message_id = &attempt.message.id;
        let suspicion = self.notes.read(head, message_id, attempt.give_up).await.map_err(given_up)?;
        let alone = match suspicion {
            Suspicion::None => None,
            Suspicion::Poison { crashes } => return Err(Failure::CrashPoison { crashes }),
            // dead once more, it would reach the dead-letter queue without a word of why
            Suspicion::Alone { crashes } if crashes > 0 && self.is_last(attempt) => {
                return Err(Failure::CrashPoison { crashes });
            }
            Suspicion::Alone { crashes } => {
                tracing::warn!(job_id = head.id, crashes, "a worker died over this job, or beside it: it runs alone");
                tokio::select! {
                    alone = work.seat.alone(&self.slots) => alone,
                    () = attempt.give_up.cancelled() => return Err(attempt.reason()),
                }
            }
        };
        let left = self.notes.leave(head, message_id, suspicion, alone.is_some(), attempt.give_up);
        let left = left.await.map_err(given_up)?;
        let committed = Box::pin(self.compute_and_commit(work, job, requests)).await;
        drop(alone);
        if matches!(committed, Err(Failure::LeaseLost)) {
            self.notes.disown(left).await;
        } else {
            self.notes.take_back(&left, attempt.give_up.is_cancelled()).await;
        }
        committed
    }

    /// Neither too late nor too early. What is too early at its last receive waits here: SQS would not give it again.
    async fn wait_until_due(&self, work: &Work<'_>, head: &JobHead) -> Result<(), Failure> {
        let attempt = work.attempt;
        let now = Timestamp::now();
        if head.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Failure::Expired);
        }
        let early = head.not_before.map_or(0.0, |at| seconds_between(now, at));
        if early <= 0.0 {
            return Ok(());
        }
        let early = Duration::from_secs_f64(early);
        if self.is_last(attempt) && early >= attempt.time_left() {
            let why = "is later than SQS can hide the message at its last allowed receive; allow more receives, or send it later";
            return Err(InvalidInput::field("eta", why).into());
        }
        if !self.is_last(attempt) {
            // a whole second, or it would come back too early once more
            return Err(Failure::TooEarly(early + Duration::from_secs(1)));
        }
        tokio::select! {
            () = work.seat.aside(&self.slots, tokio::time::sleep(early)) => Ok(()),
            () = attempt.give_up.cancelled() => Err(attempt.reason()),
        }
    }

    /// A job whose record stands: who asked for it is told.
    async fn finish(&self, work: &Work<'_>, head: &JobHead, committed: Committed) -> Result<Outcome, Failure> {
        let Committed { outcome, record, timings, batched, committing } = committed;
        self.announce(work.attempt, head, &record, &head.id).await?;
        work.span.phase(Phase::Commit, committing);
        for (phase, seconds) in [
            (Phase::Waited, timings.waited_seconds - batched.as_secs_f64()),
            (Phase::Batch, batched.as_secs_f64()),
            (Phase::Inference, timings.inference_seconds),
            (Phase::Upload, timings.upload_seconds),
            (Phase::Commit, committing.elapsed().as_secs_f64()),
            (Phase::Total, timings.total_seconds),
        ] {
            self.metrics.phase(phase, seconds);
        }
        let message_id = &work.attempt.message.id;
        tracing::info!(job_id = head.id, message_id, seconds = timings.total_seconds, "completed");
        Ok(outcome)
    }

    /// From the model to the record; PENDING goes out meanwhile.
    async fn compute_and_commit(
        &self,
        work: &mut Work<'_>,
        job: &Job,
        requests: Vec<RequestOf<H>>,
    ) -> Result<Committed, Failure> {
        let pending = self.announcer.pending(work.attempt.message, &job.head);
        tokio::join!(self.compute_upload_commit(work, job, requests), pending).0
    }

    async fn compute_upload_commit(
        &self,
        work: &mut Work<'_>,
        job: &Job,
        requests: Vec<RequestOf<H>>,
    ) -> Result<Committed, Failure> {
        let (attempt, head) = (work.attempt, &job.head);
        let Computed { products, mut timings, batched } = self.compute(work, job, requests).await?;
        // the slot is free for the next job as soon as this one's results have a place to wait for S3
        let _place = tokio::select! {
            permit = self.deliveries.acquire() => permit.ok(),
            () = attempt.give_up.cancelled() => return Err(attempt.reason()),
        };
        work.seat.leave();

        let uploading = Instant::now();
        let seed = products.first().and_then(|p| p.seed);
        let parameters = products.iter().map(|p| p.parameters.clone()).filter(|p| !p.is_empty()).collect();
        let uploaded = self.upload(attempt, head, products, work.retried).await;
        let (outputs, value) = uploaded.map_err(|error| error.failure(attempt.reason()))?;
        work.span.phase(Phase::Upload, uploading);
        timings.upload_seconds = uploading.elapsed().as_secs_f64();
        timings.total_seconds = seconds_between(attempt.message.sent_at, Timestamp::now());
        let record = ResultRecord {
            outputs,
            value,
            seed,
            parameters,
            ..self.record(attempt, head, JobStatus::Completed, timings)
        };
        let committing = Instant::now();
        let committed = self.store.commit(&record, attempt.give_up).await.map_err(|GivenUp| attempt.reason())?;
        let (outcome, record) = match committed {
            Commit::Written => (Outcome::Completed, record),
            Commit::AlreadyFinal(there) => (Outcome::AlreadyDone, *there),
            Commit::IdTaken => return Err(reused(head)),
        };
        if outcome == Outcome::Completed {
            self.state.model_did_well();
            work.spent = Duration::ZERO;
        }
        Ok(Committed { outcome, record, timings, batched, committing })
    }

    /// Runs a job's requests in the model, until its deadline.
    async fn compute(&self, work: &mut Work<'_>, job: &Job, requests: Vec<RequestOf<H>>) -> Result<Computed, Failure> {
        let (attempt, held_since, head) = (work.attempt, work.held_since, &job.head);
        let cancel = Cancel::default();
        let (previews, mut shown) = mpsc::channel(1);
        let way = Way::new(requests.len(), Some(previews));
        self.state.follow(&attempt.message.receipt_handle, &way);
        let last = requests.len().saturating_sub(1);
        let run = |(index, request)| {
            let (hook, cancel) = (Some(way.hook(index)), cancel.clone());
            let (request, is_last) = (Arc::new(request), index == last);
            // how many outputs come before those of a later request is not known while it runs
            let uploads =
                (last == 0).then(|| Arc::new(Parts::new(&self.store, head, attempt.message, attempt.give_up)));
            let item = Item { request, cancel: cancel.clone(), hook, uploads, is_last };
            async move {
                let done = self.batcher.run(item, head.priority).await;
                // what is found invalid only now fails the job, whatever the others come to
                if matches!(done.result, Err(RunError::Invalid(_))) {
                    cancel.cancel();
                }
                done
            }
        };
        let all = join_all(requests.into_iter().enumerate().map(run));
        let previews = async {
            while let Some((index, preview)) = shown.recv().await {
                self.store.put_preview(head, index, &preview, attempt.give_up).await;
            }
            std::future::pending().await
        };
        let all = async {
            tokio::select! {
                done = all => done,
                never = previews => never,
            }
        };
        tokio::pin!(all);
        let due = async {
            match head.deadline {
                Some(at) => tokio::time::sleep(Duration::from_secs_f64(seconds_between(Timestamp::now(), at))).await,
                None => std::future::pending().await,
            }
        };
        let cut = async {
            tokio::select! {
                () = attempt.give_up.cancelled() => attempt.reason(),
                () = due => Failure::Expired,
            }
        };
        let (done, cut) = tokio::select! {
            done = &mut all => (done, None),
            cut = cut => {
                cancel.cancel();
                // a model that does not look up must not keep the message
                (tokio::time::timeout(LAST_LOOK, all).await.unwrap_or_default(), Some(cut))
            }
        };
        work.spent = done.iter().map(|d| d.share).sum();
        if let Some(cut) = cut {
            return Err(cut);
        }
        let began = done.iter().map(|d| d.began).min().map_or(held_since, tokio::time::Instant::into_std);
        let ended = done.iter().map(|d| d.began + d.took).max().map_or(began, tokio::time::Instant::into_std);
        let since = done.iter().map(|d| d.since).min().map_or(began, tokio::time::Instant::into_std);
        let could_begin = done.iter().map(|d| d.could_begin).min().map_or(began, tokio::time::Instant::into_std);
        let products = products(job, done, attempt)?;
        work.span.phase_between(Phase::Waited, held_since, since);
        work.span.phase_between(Phase::Batch, since, began);
        work.span.phase_between(Phase::Inference, began, ended);
        // a job that was received while the batch before it ran holds no slot of its own until that has ended
        self.state.served(could_begin.max(held_since).elapsed());
        let timings = Timings {
            waited_seconds: began.saturating_duration_since(held_since).as_secs_f64(),
            inference_seconds: (ended - began).as_secs_f64(),
            ..Self::timings(attempt)
        };
        Ok(Computed { products, timings, batched: began.saturating_duration_since(since) })
    }

    async fn upload(
        &self,
        attempt: &Attempt<'_>,
        head: &JobHead,
        products: Vec<Product>,
        replace: bool,
    ) -> Result<(Vec<RecordOutput>, Option<Value>), DeliverError> {
        let mut values: Vec<Value> = products.iter().filter_map(|p| p.value.clone()).collect();
        let value = if products.len() > 1 && !values.is_empty() { Some(Value::Array(values)) } else { values.pop() };
        let outputs: Vec<_> = products.into_iter().flat_map(|p| p.outputs).collect();
        let count = outputs.len();
        let put = |(index, output)| {
            let Message { id, sent_at, .. } = attempt.message;
            let place = Place { head, message_id: id, sent_at: *sent_at, index, count };
            async move { self.store.put_output(place, &output, replace, attempt.give_up).await }
        };
        let puts: Vec<_> = outputs.into_iter().enumerate().map(put).collect();
        Ok((futures::stream::iter(puts).buffered(PUTS).try_collect().await?, value))
    }

    /// Tells who asked of a record, which stands under this name.
    async fn announce(
        &self,
        attempt: &Attempt<'_>,
        head: &JobHead,
        record: &ResultRecord,
        name: &str,
    ) -> Result<(), Failure> {
        if !self.announcer.wanted(&head.announce) {
            return Ok(());
        }
        let uri = self.store.record_uri(name);
        let told = self.announcer.result(attempt.message, &head.announce, record, &uri, attempt.give_up).await;
        told.map_err(|error| match error {
            AnnounceError::GivenUp => attempt.reason(),
            AnnounceError::Refused(why) => Failure::Unannounced(why),
        })
    }
}

fn reused(head: &JobHead) -> Failure {
    let what = format!("{} was used before for another input or by another consumer; send a new id", head.id);
    Failure::Invalid { code: JOB_ID_REUSED, error: InvalidInput::field("job_id", what) }
}

/// Every request's product, or the failure that decides for the job: an invalid request, for which the others were
/// cancelled, before all else.
fn products(job: &Job, done: Vec<Done>, attempt: &Attempt<'_>) -> Result<Vec<Product>, Failure> {
    let mut products = Vec::with_capacity(done.len());
    let mut failure = None;
    for (index, one) in done.into_iter().enumerate() {
        match one.result {
            Ok(product) => products.push(product),
            Err(RunError::Invalid(error)) => return Err(job.at(index, error).into()),
            Err(RunError::Cancelled) => failure = Some(attempt.reason()),
            Err(RunError::Model(why)) => failure = failure.or(Some(Failure::Model(why))),
            Err(RunError::OutOfMemory(why)) => {
                let why = format!("out of memory, even alone in its batch: {why}");
                failure = failure.or(Some(Failure::Model(why)));
            }
        }
    }
    failure.map_or(Ok(products), Err)
}
