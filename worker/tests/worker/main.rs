//! The worker's binary against a real LocalStack, a file per matter; and what its source promises to those who run it.
//!
//! `MILLRACE_TEST_ENDPOINT` names the LocalStack. Without it the tests that need one say that they were skipped;
//! `e2e/kind/test cluster test` brings one up and always sets it.
//!
//! No test looks at how long something took. What is waited for has a deadline that only a broken worker misses.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;
// shared with tests/model: each uses a part of it
#[allow(dead_code)]
mod program;
mod receiver;
#[allow(dead_code)]
#[path = "../model/stub.rs"]
mod stub;
mod wait;

mod announce;
mod check;
mod consume;
mod dependencies;
mod faces;
mod forms;
mod invalid;
mod killed;
mod launch;
mod leases;
mod model;
mod outages;
mod parts;
mod policy;
mod stop;
mod traces;
