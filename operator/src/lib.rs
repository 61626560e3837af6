//! The millrace operator: turns QueueConsumers into worker Deployments and scales them by their queues.
//!
//! One pass of reconcile is a pipeline, a module a step:
//! `QueueConsumer` + world → `observe` → `validate` → `scale` → `build` → `apply` → `status`.
//! Only `observe`, `apply`, `status` and `events` talk to a server; the rest is pure.

pub mod args;

mod apply;
mod build;
mod controller;
mod error;
mod events;
mod http;
mod lease;
mod memory;
mod metrics;
mod observe;
mod queue;
mod scale;
mod simulate;
mod start;
mod status;
mod telemetry;
mod validate;
mod workers;
mod world;

pub use simulate::run as simulate;
pub use start::run;
