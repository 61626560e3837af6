//! What a server can do at most: a bare loop over the SDK that receives ten, puts ten records and deletes the ten,
//! with nothing between, in as many pipelines at once as serves it best.
//!
//! It does what any worker must do and no more: no leases, no decoding, no batching across receives, no retries.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry as Entry, Message};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;

use crate::aws::{Aws, BATCH, Work};
use crate::process::cpu;
use crate::report::Run;

/// How many calls are under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Loops of receive, put and delete.
    pub pipelines: usize,
    /// Puts of each loop at a time.
    pub puts_at_once: usize,
}

/// The shapes that are tried. LocalStack computes in one Python thread at a time, and the model server answers in less
/// than a millisecond, so there is nothing beyond the last.
pub const SHAPES: [Shape; 8] = [
    Shape { pipelines: 1, puts_at_once: 1 },
    Shape { pipelines: 1, puts_at_once: 10 },
    Shape { pipelines: 2, puts_at_once: 1 },
    Shape { pipelines: 2, puts_at_once: 10 },
    Shape { pipelines: 4, puts_at_once: 1 },
    Shape { pipelines: 4, puts_at_once: 10 },
    Shape { pipelines: 8, puts_at_once: 10 },
    Shape { pipelines: 16, puts_at_once: 10 },
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.pipelines, self.puts_at_once)
    }
}

/// Which of the calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Receive, put, delete: a worker's.
    All,
    /// Only the puts.
    Puts,
    /// Only receive and delete.
    Queue,
}

impl Part {
    /// Its name in queues and progress.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "ceiling",
            Self::Puts => "puts",
            Self::Queue => "queue",
        }
    }
}

struct Loop {
    aws: Aws,
    work: Work,
    part: Part,
    puts_at_once: usize,
    record: Bytes,
    /// Messages that a loop has made its own, so that none polls an empty queue at the end.
    claimed: AtomicUsize,
    sqs_calls: AtomicUsize,
}

/// Takes all of `work` off its queue, or does the part asked for as often.
pub async fn run(aws: &Aws, work: &Work, record: &Bytes, shape: Shape, part: Part) -> anyhow::Result<Run> {
    // a connection is open before the clock starts, as the peers' are
    aws.s3.head_bucket().bucket(&work.bucket).send().await?;
    aws.sqs.get_queue_attributes().queue_url(&work.queue_url).send().await?;
    let shared = Arc::new(Loop {
        aws: aws.clone(),
        work: work.clone(),
        part,
        puts_at_once: shape.puts_at_once,
        record: record.clone(),
        claimed: AtomicUsize::new(0),
        sqs_calls: AtomicUsize::new(0),
    });
    let own = std::process::id();
    let (began, cpu_before) = (Instant::now(), cpu(own)?);
    let mut loops = JoinSet::new();
    for _ in 0..shape.pipelines {
        loops.spawn(Arc::clone(&shared).pipeline());
    }
    while let Some(ended) = loops.join_next().await {
        ended?.context("the ceiling's loop")?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu(own)? - cpu_before;
    let sqs_calls = shared.sqs_calls.load(Ordering::Relaxed) as u64;
    Ok(Run { messages: work.messages, seconds, cpu_seconds: Some(cpu_seconds), sqs_calls, ..Run::default() })
}

impl Loop {
    async fn pipeline(self: Arc<Self>) -> anyhow::Result<()> {
        loop {
            let first = self.claimed.fetch_add(BATCH, Ordering::Relaxed);
            let mut wanted = self.work.messages.saturating_sub(first).min(BATCH);
            if wanted == 0 {
                return Ok(());
            }
            while wanted > 0 {
                wanted -= if self.part == Part::Puts {
                    self.put((first..first + wanted).map(|n| n.to_string()).collect()).await?;
                    wanted
                } else {
                    let messages = self.receive(wanted).await?;
                    if self.part == Part::All {
                        self.put(messages.iter().filter_map(|m| m.message_id.clone()).collect()).await?;
                    }
                    self.delete(&messages).await?;
                    messages.len()
                };
            }
        }
    }

    async fn receive(&self, most: usize) -> anyhow::Result<Vec<Message>> {
        self.sqs_calls.fetch_add(1, Ordering::Relaxed);
        let call = self.aws.sqs.receive_message().queue_url(&self.work.queue_url).visibility_timeout(120);
        let call = call.wait_time_seconds(20).max_number_of_messages(i32::try_from(most)?);
        Ok(call.send().await?.messages.unwrap_or_default())
    }

    async fn put(&self, names: Vec<String>) -> anyhow::Result<()> {
        let put = |name: String| {
            let call = self.aws.s3.put_object().bucket(&self.work.bucket).key(format!("{name}.record.json"));
            let call = call.content_type("application/json").if_none_match("*");
            let call = call.body(ByteStream::from(self.record.clone()));
            async move { call.send().await.map(drop) }
        };
        let puts: Vec<_> = names.into_iter().map(put).collect();
        futures::stream::iter(puts).buffer_unordered(self.puts_at_once).try_collect::<()>().await?;
        Ok(())
    }

    async fn delete(&self, messages: &[Message]) -> anyhow::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        self.sqs_calls.fetch_add(1, Ordering::Relaxed);
        let entry = |(n, m): (usize, &Message)| {
            Entry::builder().id(n.to_string()).receipt_handle(m.receipt_handle().unwrap_or_default()).build()
        };
        let entries: Result<Vec<_>, _> = messages.iter().enumerate().map(entry).collect();
        let call = self.aws.sqs.delete_message_batch().queue_url(&self.work.queue_url).set_entries(Some(entries?));
        let answer = call.send().await?;
        anyhow::ensure!(answer.failed.is_empty(), "delete: {:?}", answer.failed);
        Ok(())
    }
}
