//! The model as AWS's own SDK sees it, a file per matter. Nothing here looks at how long something took: time is jumped.

// helpers outside of #[test] functions fail the test by panicking, as those do
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

mod faults;
mod fifo;
mod leases;
mod objects;
mod queues;
mod redrive;
