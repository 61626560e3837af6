//! millrace-worker: receives jobs from an SQS queue, infers in batches, puts results into S3, then deletes the messages.
//!
//! A job's life reads as the modules: `receive` → `lease` → `job` → `batch` → `model` → `deliver` → `settle`;
//! `pipeline` is the story that joins them.
//!
//! As a library it is a team's own worker: an engine of theirs, and `fn main() -> ExitCode { millrace_worker::run(load) }`,
//! as docs/bring-your-own-engine.md tells. What they need of it stands at the root; feature `models`, which they leave
//! out, is millrace's own engines.

pub mod allow;
pub mod announce;
mod attempt;
pub mod aws;
pub mod batch;
pub mod check;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod drain;
#[cfg(feature = "models")]
pub mod driver;
#[cfg(feature = "models")]
pub mod engines;
pub mod failure;
pub mod handler;
pub mod http;
pub mod infer;
pub mod inputs;
pub mod job;
pub mod lanes;
#[cfg(feature = "models")]
pub mod launch;
pub mod lease;
pub mod message;
pub mod metrics;
pub mod model;
pub mod parts;
pub mod pipeline;
pub mod queue;
pub mod receive;
pub mod routes;
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

/// What the guide shows is compiled with the other examples of documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/bring-your-own-engine.md")]
struct Guide;

pub use cli::run;
pub use handler::Handler;
pub use millrace_api::task::{Declaration, Field};
pub use model::fields::Fields;
pub use model::{
    About, Engine, Input, InvalidInput, Item, LoadError, Loading, Name, Output, Product, Request, RunError, Stream,
};
pub use routes::Routes;
