//! Announcements: who asked for it is told what became of a job, after the record is written and before the message is
//! deleted. So a worker that dies in between tells nobody, and whoever finds the record at the next delivery tells all:
//! repeated perhaps, never lost.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::{CallbackHosts, CallbackSpec, CallbackUrlError, ResultRecord, WorkerConfig};
use rand::Rng;
use tokio_util::sync::CancellationToken;

mod address;
mod callback;
mod notice;
mod reply;

use self::callback::Callbacks;
use self::notice::Notice;
use self::reply::Replies;
use crate::job::{Announce, JobHead};
use crate::message::Message;
use crate::metrics::{Announced, Channel, Metrics};
use crate::state::{Part, State};

/// Tries of one announcement; with the pauses about a minute. After that the message itself is what is tried again.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Longest that a job waits for its PENDING to be sent.
const PENDING_PATIENCE: Duration = Duration::from_secs(5);

/// Tells of jobs.
#[derive(Debug)]
pub struct Announcer {
    replies: Replies,
    /// None where no host may be called.
    callbacks: Option<Callbacks>,
    metrics: Arc<Metrics>,
    state: Arc<State>,
}

/// Why somebody was not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The lease was lost or the worker stops.
    #[error("given up")]
    GivenUp,
    /// Not now, and trying on would hold the job up: whoever finds the record at a later delivery tells again.
    #[error("{0}")]
    Refused(String),
}

/// Why a config's announcements cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Entries of the list that are no hosts.
    #[error("{}", .0.join("; "))]
    Hosts(Vec<String>),
    /// Callbacks are to be signed, and there is nothing to sign them with.
    #[error("output.callback: callbacks are to be signed, but {} is missing or empty", CallbackSpec::VARIABLE)]
    SecretMissing,
    /// No HTTP client can be had.
    #[error("callbacks: cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// One try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// `ReplyQueueNotFound`, `CallbackRefused`, …
    reason: &'static str,
    /// Where, what, and the fix.
    message: String,
    /// It may pass by itself.
    passes: bool,
    /// How long the other side asks to be left alone.
    wait: Option<Duration>,
}

impl Announcer {
    /// For the consumer of `config`; `secret` is what `CallbackSpec::VARIABLE` holds.
    pub fn new(
        sqs: aws_sdk_sqs::Client,
        config: &WorkerConfig,
        secret: Option<String>,
        metrics: Arc<Metrics>,
        state: Arc<State>,
    ) -> Result<Self, SetupError> {
        let list = &config.queue.allow.callback_hosts;
        let place = |(index, error)| format!("queue.allow.callbackHosts[{index}]: {error}");
        let hosts =
            CallbackHosts::parse(list).map_err(|wrong| SetupError::Hosts(wrong.into_iter().map(place).collect()))?;
        let secret = secret.filter(|secret| !secret.is_empty());
        if config.output.callback.is_some() && secret.is_none() {
            return Err(SetupError::SecretMissing);
        }
        let callbacks = if list.is_empty() { None } else { Some(Callbacks::new(hosts, secret.as_deref())?) };
        let replies = Replies::new(sqs, config.output.reply.clone(), Arc::clone(&metrics));
        Ok(Self { replies, callbacks, metrics, state })
    }

    /// Whether anybody is to be told.
    pub fn wanted(&self, announce: &Announce) -> bool {
        announce.callback_url.is_some() || self.replies.queue(announce.reply_to.as_deref()).is_some()
    }

    /// Tells the reply queue at a job's first receive that a worker has it: one try, and no job fails by it.
    pub async fn pending(&self, message: &Message, head: &JobHead) {
        let Some(queue) = self.replies.queue(head.announce.reply_to.as_deref()) else { return };
        if message.receive_count > 1 {
            return;
        }
        let notice = Notice::Pending { job_id: &head.id, since: message.received_at };
        let sent = tokio::time::timeout(PENDING_PATIENCE, self.replies.send(queue, &notice, message)).await;
        let why = match sent {
            Ok(Ok(())) => return self.metrics.announced(Channel::Reply, Announced::Sent),
            Ok(Err(failure)) => failure.message,
            Err(_) => format!("sqs:SendMessage on {queue}: no answer within {} s", PENDING_PATIENCE.as_secs()),
        };
        self.metrics.announced(Channel::Reply, Announced::Refused);
        tracing::warn!(job_id = head.id, "PENDING is not announced: {why}");
    }

    /// Tells everybody of a job's record, which lies at `record_uri`. Ok when all were told.
    pub async fn result(
        &self,
        message: &Message,
        announce: &Announce,
        record: &ResultRecord,
        record_uri: &str,
        give_up: &CancellationToken,
    ) -> Result<(), AnnounceError> {
        let notice = Notice::Result { record, uri: record_uri };
        let reply = async {
            let Some(queue) = self.replies.queue(announce.reply_to.as_deref()) else { return Ok(()) };
            self.persist(Channel::Reply, give_up, || self.replies.send(queue, &notice, message)).await
        };
        let callback = async {
            let Some(url) = &announce.callback_url else { return Ok(()) };
            self.persist(Channel::Callback, give_up, || self.call(url, &notice, message)).await
        };
        // one that does not answer must not keep the other waiting
        match tokio::join!(reply, callback) {
            (Ok(()), told) | (told, Ok(())) => told,
            (Err(AnnounceError::Refused(reply)), Err(AnnounceError::Refused(callback))) => {
                Err(AnnounceError::Refused(format!("{reply}; {callback}")))
            }
            (Err(_), Err(_)) => Err(AnnounceError::GivenUp),
        }
    }

    async fn call(&self, url: &str, notice: &Notice<'_>, message: &Message) -> Result<(), Failure> {
        match &self.callbacks {
            Some(callbacks) => callbacks.call(url, notice, message).await,
            None => match CallbackHosts::default().permit(url) {
                Ok(_) => Ok(()),
                Err(error) => Err(not_allowed(&error)),
            },
        }
    }

    /// Tries until it works, is refused, has been tried often enough, or is given up.
    async fn persist<F>(
        &self,
        channel: Channel,
        give_up: &CancellationToken,
        mut attempt: impl FnMut() -> F,
    ) -> Result<(), AnnounceError>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            let answer = tokio::select! {
                answer = attempt() => answer,
                () = give_up.cancelled() => return Err(AnnounceError::GivenUp),
            };
            tries += 1;
            let failure = match answer {
                Ok(()) => {
                    self.metrics.announced(channel, Announced::Sent);
                    if self.state.clear_problem(part(channel)) {
                        tracing::info!(channel = channel.label(), "announcements work again");
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if !failure.passes || tries == TRIES {
                self.metrics.announced(channel, Announced::Refused);
                if self.state.set_problem(part(channel), failure.reason, &failure.message) {
                    tracing::error!(reason = failure.reason, tries, "{}", failure.message);
                }
                return Err(AnnounceError::Refused(failure.message));
            }
            self.metrics.announced(channel, Announced::Retried);
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            let asked = failure.wait.unwrap_or_default().min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(jittered.max(asked)) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = give_up.cancelled() => return Err(AnnounceError::GivenUp),
            }
        }
    }
}

fn part(channel: Channel) -> Part {
    match channel {
        Channel::Reply => Part::Replies,
        Channel::Callback => Part::Callbacks,
    }
}

fn not_allowed(error: &CallbackUrlError) -> Failure {
    Failure { reason: "CallbackNotAllowed", message: format!("callback_url: {error}"), passes: false, wait: None }
}

#[cfg(test)]
mod tests;
