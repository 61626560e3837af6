//! A job's life, told in order: lease, decode, look up, infer, deliver, settle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use millrace_api::{InvalidInputPolicy, JobStatus, RecordError, RecordModel, RecordOutput, ResultRecord, Timings};
use rand::Rng;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::aws::Trouble as Kind;
use crate::batch::{Batcher, Done};
use crate::config::Config;
use crate::deliver::{Commit, DeliverError, Found, Place, Store};
use crate::job::{Job, JobHead, decode};
use crate::lease::{Lease, Leases};
use crate::message::Message;
use crate::metrics::{Metrics, Outcome, Phase};
use crate::model::{Cancel, InvalidInput, Product, Request, RunError};
use crate::queue::{Queue, QueueError, Redrive};
use crate::receive::Slot;
use crate::settle::{Settler, Verdict};
use crate::state::{Part, State};
use crate::time::{date, rfc3339, seconds_between};

/// Outputs of one job that are put at a time.
const PUTS: usize = 4;
/// SQS hides a message for twelve hours at most, counted from its receive; one is left for the attempt.
const LONGEST_RETURN: u32 = 11 * 3600;

/// Everything that a job meets on its way.
#[derive(Debug)]
pub struct Pipeline<R> {
    /// As configured.
    pub config: Config,
    /// For dead letters.
    pub queue: Queue,
    /// What the queue says of failures.
    pub redrive: watch::Receiver<Redrive>,
    /// Who renews.
    pub leases: Arc<Leases>,
    /// Where requests wait for the model.
    pub batcher: Batcher<R>,
    /// Where results go.
    pub store: Store,
    /// Who has the last word.
    pub settler: Settler,
    /// What `/state` says.
    pub state: Arc<State>,
    /// What `/metrics` says.
    pub metrics: Arc<Metrics>,
    /// Which version of the model is loaded.
    pub revision: Option<String>,
    /// Jobs whose results may wait for S3 while their slot computes the next ones.
    pub deliveries: Arc<Semaphore>,
    /// Jobs that may wait for SQS to take their verdict.
    pub settlements: Arc<Semaphore>,
    /// Set when the grace period is over: every job is given back.
    pub abort: CancellationToken,
}

/// How a job ended.
enum Ending {
    /// Its record is written; the message goes.
    Recorded(Outcome),
    /// A FAILED record is written; SQS moves the message to the dead-letter queue, some receives from now.
    FailedForRedrive(u32),
    /// It is tried again after so many seconds.
    Return(u32),
    /// Its lease was lost, or the worker stops.
    GivenUp,
}

/// Why a job that was received was not completed.
enum Trouble {
    /// It can never run.
    Invalid { code: &'static str, error: InvalidInput },
    /// The model failed on it.
    Model(String),
    /// Lease lost or worker stopping.
    GivenUp,
}

impl From<DeliverError> for Trouble {
    fn from(error: DeliverError) -> Self {
        match error {
            DeliverError::GivenUp => Self::GivenUp,
            DeliverError::OutputKeyTaken(_) => {
                Self::Invalid { code: "OutputKeyTaken", error: InvalidInput::body(error.to_string()) }
            }
            DeliverError::KeyTooLong(_) => {
                Self::Invalid { code: "OutputKeyTooLong", error: InvalidInput::body(error.to_string()) }
            }
        }
    }
}

impl From<InvalidInput> for Trouble {
    fn from(error: InvalidInput) -> Self {
        Self::Invalid { code: "InvalidInput", error }
    }
}

/// What a job occupies: a slot until its results have a place to wait for S3, then that place.
struct Room<'a> {
    slot: Option<Slot>,
    delivery: Option<SemaphorePermit<'a>>,
}

/// One delivery of one message.
struct Attempt<'a> {
    message: &'a Message,
    /// Lease lost or worker stopping.
    give_up: &'a CancellationToken,
}

impl<R: Request> Pipeline<R> {
    /// Sees a message through, from received to settled.
    pub async fn see_through(self: Arc<Self>, message: Message, slot: Slot) {
        let length =
            Duration::from_secs(u64::try_from(self.config.worker.queue.visibility_timeout_seconds).unwrap_or(0));
        let lease = self.leases.hold(&message);
        self.state.hold(&message, length);
        self.metrics.held.inc();
        self.metrics.phase(Phase::Queued, seconds_between(message.sent_at, message.received_at));

        let give_up = CancellationToken::new();
        let mut room = Room { slot: Some(slot), delivery: None };
        let ending = {
            let attempt = Attempt { message: &message, give_up: &give_up };
            let work = self.attempt(&attempt, &mut room);
            tokio::pin!(work);
            tokio::select! {
                ending = &mut work => ending,
                () = first_of(lease.lost(), &self.abort) => {
                    // what runs is told, and ends by itself within a step
                    give_up.cancel();
                    work.await
                }
            }
        };
        // nothing is received without bound while SQS takes no verdicts
        let settlement = self.settlements.acquire().await;
        drop(room);
        self.settle(&message, lease, ending).await;
        drop(settlement);
        self.state.let_go(&message.receipt_handle);
        self.metrics.held.dec();
    }

    async fn settle(&self, message: &Message, lease: Lease, ending: Ending) {
        let lost = lease.lost().is_cancelled();
        // after this no heartbeat of ours can touch the message
        lease.release().await;
        let (outcome, verdict) = match ending {
            Ending::Recorded(outcome) => (outcome, Some(Verdict::Delete)),
            Ending::FailedForRedrive(seconds) => (Outcome::Failed, Some(Verdict::Return(seconds))),
            Ending::Return(_) | Ending::GivenUp if lost => (Outcome::LeaseLost, None),
            Ending::GivenUp => (Outcome::Returned, Some(Verdict::Return(0))),
            Ending::Return(seconds) => (Outcome::Returned, Some(Verdict::Return(seconds))),
        };
        self.metrics.ended(outcome);
        match outcome {
            Outcome::Completed | Outcome::Expired => self.state.ended(false),
            Outcome::Failed => self.state.ended(true),
            Outcome::AlreadyDone | Outcome::Returned | Outcome::LeaseLost => {}
        }
        if let Some(verdict) = verdict
            && !self.settler.settle(message.receipt_handle.clone(), verdict).await
        {
            tracing::warn!(
                message_id = message.id,
                ?verdict,
                "SQS did not take the verdict; the message comes back by itself"
            );
        }
    }

    async fn attempt<'a>(&'a self, attempt: &Attempt<'_>, room: &mut Room<'a>) -> Ending {
        let held_since = Instant::now();
        let job = match decode(attempt.message, self.config.worker.queue.body_format) {
            Ok(job) => job,
            Err(rejected) => return self.fail(attempt, &rejected.head, rejected.error.into()).await,
        };
        self.state.name_job(&attempt.message.receipt_handle, &job.head.id);
        match self.compute(attempt, &job, room, held_since).await {
            Ok(ending) => ending,
            Err(trouble) => self.fail(attempt, &job.head, trouble).await,
        }
    }

    async fn compute<'a>(
        &'a self,
        attempt: &Attempt<'_>,
        job: &Job,
        room: &mut Room<'a>,
        held_since: Instant,
    ) -> Result<Ending, Trouble> {
        let (message, head) = (attempt.message, &job.head);
        // a first receive under SQS's own id can have no record: a healthy job pays for no look-up
        let look = message.receive_count > 1 || head.id_is_producers;
        let found = if look { self.store.find(&head.id, attempt.give_up).await? } else { None };
        if let Some(Found { record: there, .. }) = &found {
            if there.input_sha256 != head.input_sha256 || there.consumer != self.config.worker.consumer.to_string() {
                return Err(Trouble::Invalid { code: "JobIdReused", error: reused(&head.id) });
            }
            if there.status.is_final() {
                tracing::info!(job_id = head.id, "done before; deleted without inference");
                return Ok(Ending::Recorded(Outcome::AlreadyDone));
            }
        }
        if head.deadline.is_some_and(|deadline| deadline < Timestamp::now()) {
            let record = self.record(attempt, head, JobStatus::Expired, Timings::default());
            return self.commit(attempt, &record, Outcome::Expired).await;
        }

        let requests: Vec<R> = job.requests(&self.config.worker.model.parameters)?;
        let done = self.infer(requests, attempt.give_up).await;
        // the slot is free for the next job as soon as this one's results have a place to wait for S3
        let delivery = tokio::select! {
            permit = self.deliveries.acquire() => permit.ok(),
            () = attempt.give_up.cancelled() => None,
        };
        room.delivery = delivery;
        room.slot = None;
        let held = held_since.elapsed();
        let began = done.iter().map(|d| d.began).min();
        let ended = done.iter().map(|d| d.began + d.took).max();
        let waited = began.map_or(0.0, |began| (began.into_std() - held_since).as_secs_f64());
        let inference = began.zip(ended).map_or(0.0, |(began, ended)| (ended - began).as_secs_f64());

        let products = products(job, done)?;
        self.state.served(held);
        let uploading = Instant::now();
        let (outputs, value, seed) = self.upload(attempt, head, products, found.is_some()).await?;
        let mut timings = timings(attempt.message);
        timings.waited_seconds = waited;
        timings.inference_seconds = inference;
        timings.upload_seconds = uploading.elapsed().as_secs_f64();
        let record = ResultRecord { outputs, value, seed, ..self.record(attempt, head, JobStatus::Completed, timings) };
        let ending = self.commit(attempt, &record, Outcome::Completed).await?;
        for (phase, seconds) in [
            (Phase::Waited, timings.waited_seconds),
            (Phase::Inference, timings.inference_seconds),
            (Phase::Upload, timings.upload_seconds),
            (Phase::Total, timings.total_seconds),
        ] {
            self.metrics.phase(phase, seconds);
        }
        tracing::info!(job_id = head.id, message_id = message.id, seconds = timings.total_seconds, "completed");
        Ok(ending)
    }

    /// Runs a job's requests; given up, they end at the engine's next look.
    async fn infer(&self, requests: Vec<R>, give_up: &CancellationToken) -> Vec<Done> {
        let cancel = Cancel::default();
        let run = |request| self.batcher.run(Arc::new(request), cancel.clone());
        let all = join_all(requests.into_iter().map(run));
        tokio::pin!(all);
        tokio::select! {
            done = &mut all => done,
            () = give_up.cancelled() => {
                cancel.cancel();
                all.await
            }
        }
    }

    async fn upload(
        &self,
        attempt: &Attempt<'_>,
        head: &JobHead,
        products: Vec<Product>,
        replace: bool,
    ) -> Result<(Vec<RecordOutput>, Option<Value>, Option<u64>), DeliverError> {
        let seed = products.first().and_then(|p| p.seed);
        let mut values: Vec<Value> = products.iter().filter_map(|p| p.value.clone()).collect();
        let value = if products.len() > 1 && !values.is_empty() { Some(Value::Array(values)) } else { values.pop() };
        let outputs: Vec<_> = products.into_iter().flat_map(|p| p.outputs).collect();
        let (count, date) = (outputs.len(), date(attempt.message.sent_at));
        let owner = self.config.worker.consumer.to_string();
        let put = |(index, output)| {
            let place = Place {
                job_id: &head.id,
                input_sha256: &head.input_sha256,
                owner: &owner,
                message_id: &attempt.message.id,
                consumer: &self.config.worker.consumer.name,
                date: &date,
                index,
                count,
            };
            async move { self.store.put_output(place, &output, replace, attempt.give_up).await }
        };
        let puts: Vec<_> = outputs.into_iter().enumerate().map(put).collect();
        let placed = futures::stream::iter(puts).buffered(PUTS).try_collect().await?;
        Ok((placed, value, seed))
    }

    /// Writes a record that ends the job.
    async fn commit(&self, attempt: &Attempt<'_>, record: &ResultRecord, outcome: Outcome) -> Result<Ending, Trouble> {
        match self.store.commit(record, attempt.give_up).await? {
            Commit::Written => Ok(Ending::Recorded(outcome)),
            Commit::AlreadyFinal => Ok(Ending::Recorded(Outcome::AlreadyDone)),
            Commit::IdTaken => Err(Trouble::Invalid { code: "JobIdReused", error: reused(&record.job_id) }),
        }
    }

    /// What a job that was not completed gets: its record, and its message a place.
    async fn fail(&self, attempt: &Attempt<'_>, head: &JobHead, trouble: Trouble) -> Ending {
        let redrive = self.redrive.borrow().clone();
        let message = attempt.message;
        let (error, invalid) = match trouble {
            Trouble::GivenUp => return Ending::GivenUp,
            Trouble::Invalid { code, error } => {
                (RecordError { code: code.into(), message: error.message, field: error.field }, true)
            }
            Trouble::Model(why) if message.receive_count < redrive.max_receive_count => {
                let wait = self.backoff(message.receive_count);
                tracing::warn!(
                    job_id = head.id,
                    attempt = message.receive_count,
                    wait,
                    why,
                    "the model failed; tried again later"
                );
                return Ending::Return(wait);
            }
            Trouble::Model(why) => (RecordError { code: "ModelError".into(), message: why, field: None }, false),
        };
        tracing::warn!(
            job_id = head.id,
            message_id = message.id,
            code = error.code,
            field = error.field,
            "failed: {}",
            error.message
        );
        let beside = error.code == "JobIdReused";
        let record = ResultRecord {
            error: Some(error.clone()),
            body: Some(message.body.clone()),
            ..self.record(attempt, head, JobStatus::Failed, timings(attempt.message))
        };
        let mut committed =
            if beside { Ok(Commit::IdTaken) } else { self.store.commit(&record, attempt.give_up).await };
        if matches!(committed, Ok(Commit::IdTaken)) {
            committed = self.store.commit_beside(&record, attempt.give_up).await;
        }
        match (committed, invalid) {
            (Err(_), _) => Ending::GivenUp,
            (Ok(Commit::AlreadyFinal), _) => Ending::Recorded(Outcome::AlreadyDone),
            (Ok(_), true) => self.bury(attempt, head, &error, &redrive).await,
            // visibility 0: SQS moves it to the dead-letter queue at the next receive
            (Ok(_), false) if redrive.dead_letter_url.is_some() => Ending::FailedForRedrive(0),
            (Ok(_), false) => Ending::Recorded(Outcome::Failed),
        }
    }

    /// A message that can never run goes to the dead-letter queue, or goes.
    async fn bury(&self, attempt: &Attempt<'_>, head: &JobHead, error: &RecordError, redrive: &Redrive) -> Ending {
        let wanted = self.config.worker.queue.invalid_input == InvalidInputPolicy::DeadLetter;
        let Some(url) = redrive.dead_letter_url.as_deref().filter(|_| wanted) else {
            return Ending::Recorded(Outcome::Failed);
        };
        let (mut pause, mut bare) = (Duration::from_millis(500), false);
        loop {
            match self.queue.dead_letter(url, attempt.message, &head.raw_id, error, bare).await {
                Ok(()) => {
                    self.state.clear_problem(Part::DeadLetters);
                    return Ending::Recorded(Outcome::Failed);
                }
                Err((Kind::Throttled | Kind::Unreachable, why)) => self.report(Part::DeadLetters, &why),
                // it may leave no room for the error beside it, which is in the record too
                Err((Kind::Other, why)) if !bare => {
                    tracing::warn!(job_id = head.id, %why, "the dead letter is refused; sending it without the error");
                    bare = true;
                    continue;
                }
                // nothing that waiting would mend: SQS's own redrive moves it, later
                Err((_, why)) => {
                    self.report(Part::DeadLetters, &why);
                    return Ending::FailedForRedrive(self.backoff(attempt.message.receive_count));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(20)),
                () = attempt.give_up.cancelled() => return Ending::GivenUp,
            }
        }
    }

    fn report(&self, part: Part, error: &QueueError) {
        if self.state.set_problem(part, error.reason, &error.message) {
            tracing::error!(reason = error.reason, "{error}");
        }
    }

    /// Doubled at each receive, with jitter, up to the maximum.
    fn backoff(&self, receive_count: u32) -> u32 {
        let retry = self.config.worker.queue.retry;
        let (first, most) = (retry.initial_seconds.max(0) as u32, retry.max_seconds.max(0) as u32);
        let doubled = first.saturating_mul(1u32.checked_shl(receive_count.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(most).min(LONGEST_RETURN);
        wait - rand::rng().random_range(0..=wait / 10)
    }

    fn record(&self, attempt: &Attempt<'_>, head: &JobHead, status: JobStatus, timings: Timings) -> ResultRecord {
        let worker = &self.config.worker;
        ResultRecord {
            job_id: head.id.clone(),
            message_id: attempt.message.id.clone(),
            status,
            consumer: worker.consumer.to_string(),
            outputs: Vec::new(),
            value: None,
            error: None,
            attempt: attempt.message.receive_count,
            worker: self.state.worker().into(),
            model: RecordModel {
                task: worker.model.task.name().into(),
                source: worker.model.source.as_ref().map(millrace_api::ModelSource::name).unwrap_or_default(),
                revision: self.revision.clone(),
            },
            input_sha256: head.input_sha256.clone(),
            form: head.form.name().into(),
            body: None,
            timings,
            seed: None,
            started_at: rfc3339(attempt.message.received_at),
            finished_at: rfc3339(Timestamp::now()),
            metadata: head.metadata.clone(),
        }
    }
}

/// What the message itself tells of a job's times.
fn timings(message: &Message) -> Timings {
    Timings {
        queued_seconds: seconds_between(message.sent_at, message.received_at),
        total_seconds: seconds_between(message.sent_at, Timestamp::now()),
        ..Timings::default()
    }
}

async fn first_of(one: &CancellationToken, other: &CancellationToken) {
    tokio::select! {
        () = one.cancelled() => {}
        () = other.cancelled() => {}
    }
}

fn reused(id: &str) -> InvalidInput {
    InvalidInput::field(
        "job_id",
        format!("{id} was used before for another input or by another consumer; send a new id"),
    )
}

/// Every request's product, or the trouble that decides for the job.
fn products(job: &Job, done: Vec<Done>) -> Result<Vec<Product>, Trouble> {
    let mut products = Vec::with_capacity(done.len());
    let mut trouble = None;
    for (index, one) in done.into_iter().enumerate() {
        match one.result {
            Ok(product) => products.push(product),
            Err(RunError::Cancelled) => return Err(Trouble::GivenUp),
            Err(RunError::Invalid(error)) => return Err(job.at(index, error).into()),
            Err(RunError::Model(why)) => trouble = Some(Trouble::Model(why)),
            Err(RunError::OutOfMemory(why)) => {
                trouble = Some(Trouble::Model(format!("out of memory, even alone in its batch: {why}")));
            }
        }
    }
    trouble.map_or(Ok(products), Err)
}
