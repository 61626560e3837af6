//! Scenarios that leave the operator, LocalStack and the nodes alone: each in a namespace of its own, all at once.

mod always_failing_model;
mod bad_messages;
mod crash_poison;
mod delete_consumer;
mod dlq_redrive;
mod dry_run;
mod duplicate_delivery;
mod embeddings;
mod fibonacci;
mod fifo_one_group;
mod fifo_order;
mod gpu_budget;
mod happy_path;
mod http_sidecar;
mod image_volume;
mod invalid_specs;
mod lease_lost;
mod poison_message;
mod queue_missing;
mod rollout;
mod s3_outage;
mod scale_down_busy;
mod slow_s3;
mod sparse_queue;
mod sqs_outage;
mod submit_wait;
mod task_fanout;
mod text_generation;
mod throttled_sqs;
mod throttling;
mod worker_killed;
mod worker_problems;
mod worker_starting;
mod worker_terminated;

#[test]
fn all_at_once_they_fit_the_nodes() {
    let alone = ["operator-restart", "drain-node", "spot-interruption", "operator-ha"];
    let together = millrace_e2e::GPUS.iter().filter(|(name, _)| !alone.contains(name));
    assert!(together.map(|(_, gpus)| gpus).sum::<i32>() <= 32);
}
