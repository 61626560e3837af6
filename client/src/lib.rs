//! millrace-client: the producer's side. Sends jobs to a consumer's queue, waits for their results, and puts dead letters
//! back. Neither the worker nor the operator needs it: any program that can send an SQS message is a producer.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use millrace_client::{Client, Consumer, Job, Patience};
//!
//! # async fn example(worker_yaml: &millrace_api::WorkerConfig) -> Result<(), millrace_client::Error> {
//! let client = Client::connect(Consumer::from(worker_yaml), None).await?;
//! let job = Job { priority: 5, ..Job::text("a lighthouse at night") };
//! let sent = client.send(&job).await?;
//! let record = client.wait(&sent, Patience::of(Duration::from_secs(300))).await?;
//! println!("{:?}: {:?}", record.status, record.outputs);
//! # Ok(())
//! # }
//! ```
//!
//! A job reads as the modules: `job` → `check` → `letter` → `batch` → `send` → `post`; its result as `wait` → `look` → `record`.

mod batch;
mod check;
mod client;
mod consumer;
mod dead_letters;
mod download;
mod error;
mod fan_out;
mod fifo;
mod invalid;
mod job;
mod letter;
mod look;
mod patiently;
mod post;
mod queue;
mod record;
mod redrive;
mod send;
mod trace;
mod wait;

pub use client::{Client, connect_sqs};
pub use consumer::Consumer;
pub use dead_letters::{DeadLetter, DeadLetters};
pub use error::{Error, Trouble};
pub use fan_out::{FanOut, FanOutReport, task_word};
pub use invalid::InvalidJob;
pub use job::{Input, Job};
pub use queue::{QueuePlan, QueueStats};
pub use send::{Outcome, Sent};
pub use trace::is_traceparent;
pub use wait::Patience;
