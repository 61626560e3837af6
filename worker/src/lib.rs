//! millrace-worker: receives jobs from an SQS queue, infers in batches, puts results into S3, then deletes the messages.
//!
//! A job's life reads as the modules: `receive` → `lease` → `job` → `batch` → `model` → `deliver` → `settle`;
//! `pipeline` is the story that joins them.

pub mod allow;
pub mod announce;
mod attempt;
pub mod aws;
pub mod batch;
pub mod check;
pub mod config;
pub mod deliver;
pub mod drain;
pub mod driver;
pub mod engines;
pub mod failure;
pub mod http;
pub mod infer;
pub mod inputs;
pub mod job;
pub mod lanes;
pub mod launch;
pub mod lease;
pub mod message;
pub mod metrics;
pub mod model;
pub mod pipeline;
pub mod queue;
pub mod receive;
pub mod run;
pub mod settle;
pub mod slots;
pub mod standing;
pub mod state;
pub mod stop;
pub mod store;
pub mod suspect;
pub mod telemetry;
pub mod time;
pub mod trouble;
pub mod way;
