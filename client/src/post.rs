//! Posts one batch: what failed for a while is tried again, by itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::BatchResultErrorEntry;
use jiff::Timestamp;

use crate::client::Client;
use crate::error::{Error, Trouble};
use crate::invalid::InvalidJob;
use crate::letter::Letter;
use crate::send::{Outcome, Sent};

/// How often an entry is tried: for about a minute.
const ATTEMPTS: u32 = 10;
/// Wait before the second try; doubled at each.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the calls of one stream know of each other.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// SQS has answered before, so a network that fails now is likely to come back.
    answered: AtomicBool,
    /// Why no call succeeds any more.
    dead: OnceLock<Error>,
}

impl Line {
    /// Whether a call that failed as a whole is worth another try.
    fn may_recover(&self, error: &Error) -> bool {
        self.answered.load(Ordering::Relaxed) && error.trouble().is_some_and(Trouble::passes)
    }

    /// Takes note of a call that failed for good: where it was not for what it sent, the next would fail alike.
    fn failed(&self, error: &Error) {
        if error.trouble().is_some_and(|trouble| trouble != Trouble::Other) {
            self.dead.get_or_init(|| error.clone());
        }
    }
}

impl Client {
    /// One batch; an outcome for each letter.
    pub(crate) async fn post(&self, letters: Vec<(usize, Letter)>, limit: usize, line: &Line) -> Vec<Outcome> {
        if let Some(error) = line.dead.get() {
            return all_failed(&letters, error);
        }
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
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if let Some(error) = line.dead.get() {
                outcomes.extend(all_failed(&left, error));
                break;
            }
            let last = attempt == ATTEMPTS;
            let tried = match self.try_to_send(&left, began).await {
                Ok(tried) => tried,
                Err(error) if !last && line.may_recover(&error) => continue,
                // one of them may be at fault for all
                Err(error) if error.trouble() == Some(Trouble::Other) && left.len() > 1 => {
                    for one in left {
                        outcomes.extend(Box::pin(self.post(vec![one], limit, line)).await);
                    }
                    break;
                }
                Err(error) => {
                    line.failed(&error);
                    outcomes.extend(all_failed(&left, &error));
                    break;
                }
            };
            line.answered.store(true, Ordering::Relaxed);
            let mut again = Vec::new();
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

fn all_failed(letters: &[(usize, Letter)], error: &Error) -> Vec<Outcome> {
    letters.iter().map(|(index, _)| Outcome { index: *index, result: Err(error.clone()) }).collect()
}

/// Why SQS refused an entry: for good where it says that the sender is at fault.
fn refusal(entry: &BatchResultErrorEntry) -> (Trouble, String) {
    let trouble = if entry.sender_fault { Trouble::Other } else { Trouble::Throttled };
    let message = entry.message.as_deref().unwrap_or_default();
    (trouble, format!("{}: {message}", entry.code))
}
