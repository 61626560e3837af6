//! The program against the model of SQS and S3, with a worker of Echo's kind in the test, a file per matter.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

mod dlq;
mod environment;
mod results;
mod submit;
