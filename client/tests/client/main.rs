//! The library against the model of SQS and S3, a file per matter.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;
mod strict;
mod torn;

mod download;
mod fan_out;
mod queue;
mod redrive;
mod send;
mod wait;
