//! Scenarios that leave the operator, LocalStack and the node alone: each in a namespace of its own, all at once.

mod bad_messages;
mod delete_consumer;
mod happy_path;
mod invalid_specs;
mod queue_missing;
mod rollout;
mod worker_killed;
mod worker_problems;
mod worker_starting;

#[test]
fn all_at_once_they_fit_the_node() {
    let together = millrace_e2e::GPUS.iter().filter(|(name, _)| *name != "operator-restart");
    assert!(together.map(|(_, gpus)| gpus).sum::<i32>() <= 16);
}
