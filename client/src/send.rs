//! Sends letters, ten a call; only entries that failed are sent again.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::{BatchResultErrorEntry, QueueAttributeName};
use futures::stream::{self, Stream, StreamExt as _};
use jiff::Timestamp;
use millrace_api::is_fifo;

use crate::batch::{Batch, Batches, Numbered};
use crate::client::Client;
use crate::error::{Error, Trouble};
use crate::invalid::InvalidJob;
use crate::job::Job;
use crate::letter::{Letter, MAX_MESSAGE};

/// How often an entry is tried.
const ATTEMPTS: u32 = 6;
/// Wait before the second try; doubled at each.
const PAUSE: Duration = Duration::from_millis(100);
/// Calls at a time; on a FIFO queue one, as its order is promised.
const AT_ONCE: usize = 16;

/// A job that SQS has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    /// Its id as keys have it.
    pub job_id: String,
    /// SQS's id of the message.
    pub message_id: String,
    /// The hash by which its worker knows the input.
    pub input_sha256: String,
    /// When it was tried first, by this machine's clock: what failed before was another attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// As the job has it: the message id of the failure that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// What became of one of many.
#[derive(Debug)]
pub struct Outcome {
    /// Its place among those that were given.
    pub index: usize,
    /// Where it is, or why it was not sent.
    pub result: Result<Sent, Error>,
}

impl Client {
    /// Sends one job.
    pub async fn send(&self, job: &Job) -> Result<Sent, Error> {
        let letter = Letter::new(job, &self.consumer)?;
        let mut outcomes = self.send_letters(vec![(0, letter)], self.limit().await).await;
        outcomes.remove(0).result
    }

    /// Sends many, in batches, and tells of each as soon as it is known: on a FIFO queue in order.
    pub async fn send_all<I: IntoIterator<Item = Job>>(&self, jobs: I) -> impl Stream<Item = Outcome> {
        let letters = jobs.into_iter().enumerate().map(|(index, job)| (index, Letter::new(&job, &self.consumer)));
        self.stream(letters).await
    }

    pub(crate) async fn stream<I: Iterator<Item = Numbered>>(&self, letters: I) -> impl Stream<Item = Outcome> {
        let limit = self.limit().await;
        let fifo = is_fifo(&self.consumer.queue.url);
        let batches = Batches::new(letters, limit, fifo);
        let send = move |batch: Batch| async move {
            let refused = batch.refused.into_iter().map(|(index, e)| Outcome { index, result: Err(e.into()) });
            let mut outcomes: Vec<Outcome> = refused.collect();
            outcomes.extend(self.send_letters(batch.letters, limit).await);
            outcomes
        };
        stream::iter(batches).map(send).buffer_unordered(if fifo { 1 } else { AT_ONCE }).flat_map(stream::iter)
    }

    /// Most bytes of a message: the queue's own limit where it may be read, else SQS's.
    async fn limit(&self) -> usize {
        let ask = || async {
            let call = self.sqs.get_queue_attributes().queue_url(&self.consumer.queue.url);
            let answer = call.attribute_names(QueueAttributeName::MaximumMessageSize).send().await.ok()?;
            answer.attributes()?.get(&QueueAttributeName::MaximumMessageSize)?.parse().ok()
        };
        *self.limit.get_or_init(|| async { ask().await.unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE) }).await
    }

    /// One batch; an outcome for each letter.
    async fn send_letters(&self, letters: Vec<(usize, Letter)>, limit: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(letters.len());
        let mut left = Vec::with_capacity(letters.len());
        for (index, letter) in letters {
            match self.fitting(letter, limit).await {
                Ok(letter) => left.push((index, letter)),
                Err(error) => outcomes.push(Outcome { index, result: Err(error) }),
            }
        }
        let (mut pause, began) = (PAUSE, Timestamp::now());
        for attempt in 1..=ATTEMPTS {
            if left.is_empty() {
                break;
            }
            if attempt > 1 {
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause *= 2;
            }
            let last = attempt == ATTEMPTS;
            let mut again = Vec::new();
            let tried = match self.try_to_send(&left, began).await {
                Ok(tried) => tried,
                // the SDK has tried the call again by itself
                Err(error) => {
                    outcomes
                        .extend(left.iter().map(|(index, _)| Outcome { index: *index, result: Err(error.clone()) }));
                    break;
                }
            };
            for ((index, letter), result) in left.into_iter().zip(tried) {
                match result {
                    Err(error) if !last && error.trouble().is_some_and(Trouble::passes) => again.push((index, letter)),
                    result => outcomes.push(Outcome { index, result }),
                }
            }
            left = again;
        }
        outcomes
    }

    /// One call; a result for each letter, in order.
    async fn try_to_send(
        &self,
        letters: &[(usize, Letter)],
        began: Timestamp,
    ) -> Result<Vec<Result<Sent, Error>>, Error> {
        let action = "sqs:SendMessage";
        let queue = &self.consumer.queue.url;
        let entries: Result<Vec<_>, _> = letters.iter().enumerate().map(|(i, (_, letter))| letter.entry(i)).collect();
        let entries = entries.map_err(|e| Error::Config(e.to_string()))?;
        let answer = self.sqs.send_message_batch().queue_url(queue).set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|e| Error::aws(action, queue, &e))?;
        let sent = |i: usize, letter: &Letter| {
            let id = i.to_string();
            if let Some(entry) = answer.successful.iter().find(|entry| entry.id == id) {
                return Ok(Sent {
                    job_id: letter.job_id.clone(),
                    message_id: entry.message_id.clone(),
                    input_sha256: letter.input_sha256.clone(),
                    sent_at: Some(began),
                    attempt: letter.attempt.clone(),
                });
            }
            let failed = answer.failed.iter().find(|entry| entry.id == id);
            let (trouble, detail) = failed.map_or((Trouble::Unreachable, "no answer".to_owned()), refusal);
            Err(Error::Aws { trouble, action, what: queue.clone(), detail })
        };
        Ok(letters.iter().enumerate().map(|(i, (_, letter))| sent(i, letter)).collect())
    }

    /// The letter as it is, or with its body in S3 where it is too large for the queue.
    async fn fitting(&self, letter: Letter, limit: usize) -> Result<Letter, Error> {
        if letter.size() <= limit {
            return Ok(letter);
        }
        let bucket = self.consumer.queue.allow.input_buckets.first().ok_or_else(|| {
            let message = format!(
                "has {} bytes and the queue takes {limit}: list a bucket for large bodies in queue.allow.inputBuckets",
                letter.size()
            );
            InvalidJob::new("job", message)
        })?;
        let key = letter.body_key();
        let body = ByteStream::from(letter.body.clone().into_bytes());
        let put = self.s3.put_object().bucket(bucket).key(&key).body(body).send().await;
        put.map_err(|e| Error::aws("s3:PutObject", format!("s3://{bucket}/{key}"), &e))?;
        Ok(letter.pointing_to(bucket))
    }
}

/// Why SQS refused an entry: for good where it says that the sender is at fault.
pub(crate) fn refusal(entry: &BatchResultErrorEntry) -> (Trouble, String) {
    let trouble = if entry.sender_fault { Trouble::Other } else { Trouble::Throttled };
    let message = entry.message.as_deref().unwrap_or_default();
    (trouble, format!("{}: {message}", entry.code))
}
