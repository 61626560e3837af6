//! Scenarios that break what others stand on: one at a time.

mod operator_restart;
