//! A message's life, told in order: lease, turn, decode, its jobs, settle. What a job goes through is in `attempt`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::attempt::{Attempt, Ended};
use crate::aws::Trouble;
use crate::batch::Batcher;
use crate::config::Config;
use crate::deliver::Store;
use crate::failure::Fate;
use crate::handler::{Handler, RequestOf};
use crate::inputs::{Inputs, ReadError};
use crate::job::{Decoded, Job};
use crate::lanes::{Head, Lanes};
use crate::lease::{Lease, Leases};
use crate::message::Message;
use crate::metrics::{Metrics, Outcome, Phase};
use crate::queue::{Queue, QueueError, Redrive};
use crate::settle::{Settler, Verdict};
use crate::slots::{Alone, Slot, Slots};
use crate::state::{Part, State};
use crate::suspect::Notes;
use crate::time::seconds_between;

/// Everything that a message meets on its way.
#[derive(Debug)]
pub struct Pipeline<H: Handler> {
    /// Who reads inputs.
    pub handler: Arc<H>,
    /// As configured.
    pub config: Config,
    /// For dead letters.
    pub queue: Queue,
    /// What the queue says of failures.
    pub redrive: watch::Receiver<Redrive>,
    /// Who renews.
    pub leases: Arc<Leases>,
    /// On a FIFO queue, whose turn it is.
    pub lanes: Option<Lanes>,
    /// How many jobs are held, and who must be alone.
    pub slots: Slots,
    /// What messages point to.
    pub inputs: Inputs,
    /// Where requests wait for the model.
    pub batcher: Batcher<RequestOf<H>>,
    /// Where results go.
    pub store: Store,
    /// What attempts leave behind if they die.
    pub notes: Notes,
    /// Who tells of results.
    pub announcer: Announcer,
    /// Who has the last word.
    pub settler: Settler,
    /// What `/state` says.
    pub state: Arc<State>,
    /// What `/metrics` says.
    pub metrics: Arc<Metrics>,
    /// Which version of the model is loaded.
    pub revision: Option<String>,
    /// Jobs whose results may wait for S3 while their slot computes the next ones.
    pub deliveries: Semaphore,
    /// Messages that may be here at all, those included whose verdict waits for SQS.
    pub present: Semaphore,
    /// Set when the grace period is over: every job is given back.
    pub abort: CancellationToken,
}

/// A message's slot, until the model is done with all of its jobs.
#[derive(Debug)]
pub(crate) struct Room {
    inner: Mutex<(Option<Slot>, usize)>,
}

/// One job's part of its message's slot, until the model is done with it.
#[derive(Debug)]
pub(crate) struct Seat<'a>(Option<&'a Room>);

impl Room {
    fn new(slot: Option<Slot>, jobs: usize) -> Self {
        Self { inner: Mutex::new((slot, jobs)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<Slot>, usize)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// The job needs the model no more.
    pub(crate) fn leave(&mut self) {
        if let Some(room) = self.0.take() {
            let mut inner = room.lock();
            inner.1 -= 1;
            if inner.1 == 0 {
                inner.0 = None;
            }
        }
    }

    /// Waits until nothing else is held.
    pub(crate) async fn alone(&self, slots: &Slots) -> Option<Alone> {
        let room = self.0?;
        let mut slot = room.lock().0.take()?;
        let alone = slots.alone(&mut slot).await;
        room.lock().0 = Some(slot);
        Some(alone)
    }

    /// Waits for something without a slot.
    pub(crate) async fn aside<T>(&self, slots: &Slots, turn: impl Future<Output = T>) -> T {
        let Some(slot) = self.0.and_then(|room| room.lock().0.take()) else { return turn.await };
        let (slot, turn) = slots.aside(slot, turn).await;
        if let Some(room) = self.0 {
            room.lock().0 = slot;
        }
        turn
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<H: Handler> Pipeline<H> {
    /// Sees a message through, from received to settled. It counts as held from the call on, before anything runs: the
    /// poll that brought it ends next, and in between nobody may think that the worker has nothing.
    pub fn see_through(self: Arc<Self>, message: Message, slot: Slot) -> impl Future<Output = ()> + Send {
        self.state.hold(&message, self.leases.length());
        self.work_through(message, slot)
    }

    async fn work_through(self: Arc<Self>, message: Message, slot: Slot) {
        let lease = self.leases.hold(&message);
        self.metrics.held.inc();
        self.metrics.phase(Phase::Queued, seconds_between(message.sent_at, message.received_at));
        if message.receive_count > 1 {
            self.metrics.redeliveries.inc();
        }

        let give_up = CancellationToken::new();
        let attempt = Attempt { message: &message, give_up: &give_up, lost: lease.lost() };
        let (mut ended, _present) = {
            let work = self.work(&attempt, slot);
            tokio::pin!(work);
            tokio::select! {
                ended = &mut work => ended,
                () = self.must_end(&attempt) => {
                    // what runs is told, and ends by itself within a step
                    give_up.cancel();
                    work.await
                }
            }
        };
        if ended.outcome == Outcome::Returned && give_up.is_cancelled() && !lease.lost().is_cancelled() {
            ended = self.say_why(&attempt, ended).await;
        }
        // what the attempt left behind, such as the upload of an output that nobody wants any more, ends with it
        give_up.cancel();
        self.settle(&message, lease, ended).await;
        self.state.let_go(&message.receipt_handle);
        self.metrics.held.dec();
    }

    /// Lease lost, worker stopping, or as long as SQS hides a message.
    async fn must_end(&self, attempt: &Attempt<'_>) {
        tokio::select! {
            () = attempt.lost.cancelled() => {}
            () = self.abort.cancelled() => {}
            () = tokio::time::sleep(attempt.time_left()) => {}
        }
    }

    /// Gives a message back that came while the worker stops.
    pub async fn turn_away(&self, message: Message) {
        let give_up = CancellationToken::new();
        give_up.cancel();
        let attempt = Attempt { message: &message, give_up: &give_up, lost: &CancellationToken::new() };
        let ended = self.say_why(&attempt, attempt.given_up()).await;
        let verdict = if ended.fate == Fate::Delete { Verdict::Delete } else { Verdict::Return(0) };
        self.settler.settle(message.receipt_handle, verdict).await;
    }

    /// Everything between lease and verdict. What it gives besides the end keeps the message counted until it is settled.
    async fn work(&self, attempt: &Attempt<'_>, slot: Slot) -> (Ended, Option<tokio::sync::SemaphorePermit<'_>>) {
        let held_since = Instant::now();
        // nothing is received without bound while SQS takes no verdicts
        let present = tokio::select! {
            permit = self.present.acquire() => permit.ok(),
            () = attempt.give_up.cancelled() => return (attempt.given_up(), None),
        };
        let (slot, _turn) = match (&self.lanes, &attempt.message.group) {
            (Some(lanes), Some(group)) => tokio::select! {
                (slot, turn) = self.in_turn(lanes, group, slot) => (slot, Some(turn)),
                () = attempt.give_up.cancelled() => return (attempt.given_up(), present),
            },
            _ => (Some(slot), None),
        };
        let ended = match self.decode(attempt).await {
            Ok(jobs) => {
                let room = Room::new(slot, jobs.len());
                let all = jobs.into_iter().map(|job| self.run_job(attempt, job, Seat(Some(&room)), held_since));
                join_all(all).await.into_iter().reduce(Ended::and).unwrap_or_else(Ended::nothing_to_do)
            }
            Err(ended) => ended,
        };
        let ended = self.bury(attempt, ended).await;
        if let Some(job_id) = ended.quarantined.as_ref().filter(|_| ended.fate == Fate::Delete) {
            self.notes.forget(job_id).await;
        }
        (ended, present)
    }

    /// On a FIFO queue, the message's turn within its group; it waits for that without a slot.
    async fn in_turn(&self, lanes: &Lanes, group: &str, slot: Slot) -> (Option<Slot>, Head) {
        match lanes.try_enter(group) {
            Some(turn) => (Some(slot), turn),
            None => self.slots.aside(slot, lanes.enter(group)).await,
        }
    }

    /// The message's jobs; else how it ended without.
    async fn decode(&self, attempt: &Attempt<'_>) -> Result<Vec<Job>, Ended> {
        let message = attempt.message;
        let mut decoded = self.config.forms.decode(message);
        if let Decoded::Elsewhere(object) = &decoded {
            decoded = match self.inputs.read(object, attempt.give_up).await {
                Ok(body) => match std::str::from_utf8(&body) {
                    Ok(body) => self.config.forms.decode_body(message, body),
                    Err(_) => Decoded::Rejected(self.config.forms.reject(message, object.not_text())),
                },
                Err(ReadError::GivenUp) => return Err(attempt.given_up()),
                Err(ReadError::Invalid(error)) => Decoded::Rejected(self.config.forms.reject(message, error)),
            };
        }
        match decoded {
            Decoded::Jobs(jobs) => {
                if let Some(job) = jobs.first() {
                    self.state.name_job(&message.receipt_handle, &job.head.id, job.head.deadline);
                }
                Ok(jobs)
            }
            Decoded::Nothing(why) => {
                tracing::info!(message_id = message.id, "nothing to do: {why}");
                Err(Ended::nothing_to_do())
            }
            Decoded::Rejected(rejected) => Err(self.reject(attempt, *rejected).await),
            // decode_body never says so
            Decoded::Elsewhere(_) => Err(attempt.given_up()),
        }
    }

    /// A message that can never run goes to the dead-letter queue with its error; any other end stays as it is.
    pub(crate) async fn bury(&self, attempt: &Attempt<'_>, ended: Ended) -> Ended {
        if ended.fate != Fate::DeadLetter {
            return ended;
        }
        let (Some(url), Some((job_id, error))) = (self.redrive.borrow().dead_letter_url.clone(), &ended.dead_letter)
        else {
            return Ended { fate: Fate::Delete, ..ended };
        };
        let (mut pause, mut bare) = (Duration::from_millis(500), false);
        loop {
            match self.queue.dead_letter(&url, attempt.message, job_id, error, bare).await {
                Ok(()) => {
                    self.state.clear_problem(Part::DeadLetters);
                    return Ended { fate: Fate::Delete, ..ended };
                }
                Err((Trouble::Throttled | Trouble::Unreachable, why)) => self.report(Part::DeadLetters, &why),
                // it may leave no room for the error beside it, which is in the record too
                Err((Trouble::Other, why)) if !bare => {
                    tracing::warn!(job_id, %why, "the dead letter is refused; sending it without the error");
                    bare = true;
                    continue;
                }
                // nothing that waiting would mend: SQS's own redrive moves it, later
                Err((_, why)) => {
                    self.report(Part::DeadLetters, &why);
                    return Ended { fate: Fate::Return(self.circumstances(attempt).backoff()), ..ended };
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(20)),
                () = attempt.give_up.cancelled() => return attempt.given_up(),
            }
        }
    }

    async fn settle(&self, message: &Message, lease: Lease, ended: Ended) {
        let lost = lease.lost().is_cancelled();
        // after this no heartbeat of ours can touch the message
        lease.release().await;
        let verdict = match ended.fate {
            Fate::Delete | Fate::DeadLetter => Some(Verdict::Delete),
            // a lost message is another's to bring back
            Fate::Return(_) if lost => None,
            Fate::Return(seconds) => Some(Verdict::Return(seconds)),
            Fate::Leave => None,
        };
        self.metrics.ended(ended.outcome);
        match ended.outcome {
            Outcome::Completed | Outcome::Expired => self.state.ended(false),
            Outcome::Failed => self.state.ended(true),
            Outcome::AlreadyDone | Outcome::Returned | Outcome::LeaseLost | Outcome::Nothing => {}
        }
        if let Some(verdict) = verdict {
            let asked = Instant::now();
            if self.settler.settle(message.receipt_handle.clone(), verdict).await {
                self.metrics.phase(Phase::Ack, asked.elapsed().as_secs_f64());
                ended.span.phase(Phase::Ack, asked);
            } else {
                let message_id = &message.id;
                tracing::warn!(message_id, ?verdict, "SQS did not take the verdict; the message comes back by itself");
            }
        }
        ended.span.ended(ended.outcome);
    }

    fn report(&self, part: Part, error: &QueueError) {
        if self.state.set_problem(part, error.reason, &error.message) {
            tracing::error!(reason = error.reason, "{error}");
        }
    }
}
