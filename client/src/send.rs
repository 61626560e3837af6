//! Sends jobs, ten a call and many calls at a time.

use std::sync::Arc;

use aws_sdk_sqs::types::QueueAttributeName;
use futures::stream::{self, Stream, StreamExt as _};
use jiff::Timestamp;
use millrace_api::is_fifo;

use crate::batch::{Batch, Batches, Numbered};
use crate::client::Client;
use crate::error::Error;
use crate::invalid::InvalidJob;
use crate::job::Job;
use crate::letter::{Letter, MAX_MESSAGE};
use crate::post::Line;

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
    /// What is wrong with a job, as far as it can be told before it is sent.
    pub fn check(&self, job: &Job) -> Result<(), InvalidJob> {
        Letter::new(job, &self.consumer).map(|_| ())
    }

    /// Sends one job.
    pub async fn send(&self, job: &Job) -> Result<Sent, Error> {
        let letter = Letter::new(job, &self.consumer)?;
        let mut outcomes = self.post(vec![(0, letter)], self.limit().await, &Line::default()).await;
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
        let line = Arc::new(Line::default());
        let send = move |batch: Batch| {
            let line = Arc::clone(&line);
            async move {
                let refused = batch.refused.into_iter().map(|(index, e)| Outcome { index, result: Err(e.into()) });
                let mut outcomes: Vec<Outcome> = refused.collect();
                outcomes.extend(self.post(batch.letters, limit, &line).await);
                outcomes
            }
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
}
