//! The worker's binary against a model of SQS and S3 that does what a LocalStack cannot: late answers, lost acks,
//! duplicates, stale handles, partial failures, jumps of the clock.
//!
//! `MILLRACE_SEED` replays a run; `MILLRACE_SOAK=1` (`make soak`) runs ten times as much.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;
mod ledger;
// shared with tests/worker: each uses a part of it
#[allow(dead_code)]
#[path = "../worker/program.rs"]
mod program;
#[path = "../worker/wait.rs"]
mod wait;

mod answers;
mod commit;
mod crashes;
mod drain;
mod fifo;
mod leases;
mod receive;
mod server;
mod soak;
mod stub;
mod terminations;
mod texts;
mod transcripts;
