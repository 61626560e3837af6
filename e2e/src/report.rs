//! What is known of a scenario's place, printed where it failed.

use std::fmt::Debug;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use millrace_api::QueueConsumer;

use crate::{Consumer, Lab, name_of};

/// Lines of each worker's log.
const TAIL: i64 = 25;

/// Prints conditions, Events, pods, their states and logs, queue counts, and the operator's log. What cannot be had is
/// said so: a report must not fail.
pub(crate) async fn print(lab: &Lab) {
    eprintln!("\n======== {}", lab.name);
    match lab.api::<QueueConsumer>().list(&ListParams::default()).await {
        Ok(consumers) => {
            for consumer in &consumers.items {
                print_consumer(lab, consumer).await;
            }
        }
        Err(error) => eprintln!("its QueueConsumers cannot be listed: {error}"),
    }
    show(
        "queues",
        lab.sqs.list_queues().queue_name_prefix(&lab.name).send().await.map(|q| q.queue_urls.unwrap_or_default()),
    );
    show("keys of the bucket", lab.keys("").await);
    print_text("the operator's log", lab.operator().log().await);
    eprintln!("======== end of {}\n", lab.name);
}

async fn print_consumer(lab: &Lab, object: &QueueConsumer) {
    let consumer = Consumer::new(lab, name_of(object));
    eprintln!("\n---- QueueConsumer {}", name_of(object));
    if let Some(status) = &object.status {
        eprintln!(
            "replicas {} desired {} ready {} queue {:?} last scale {:?}",
            status.replicas, status.desired_replicas, status.ready_replicas, status.queue, status.last_scale
        );
        for c in &status.conditions {
            eprintln!("  {} {} {}: {}", c.type_, c.status, c.reason, c.message);
        }
    }
    match consumer.events().await {
        Ok(events) => events.iter().for_each(|event| eprintln!("  event {event}")),
        Err(error) => eprintln!("its Events cannot be listed: {error:#}"),
    }
    for pod in consumer.pods().await.unwrap_or_default() {
        print_pod(lab, &consumer, &pod).await;
    }
}

async fn print_pod(lab: &Lab, consumer: &Consumer<'_>, pod: &Pod) {
    eprintln!("\n-- pod {} (deleted at {:?})", name_of(pod), pod.metadata.deletion_timestamp);
    if let Some(status) = &pod.status {
        eprintln!("phase {:?}", status.phase);
        for c in status.conditions.iter().flatten().filter(|c| c.status != "True") {
            eprintln!("  {} {} {:?}: {:?}", c.type_, c.status, c.reason, c.message);
        }
        for c in status.container_statuses.iter().flatten() {
            eprintln!("  {} restarts {} state {:?} last {:?}", c.name, c.restart_count, c.state, c.last_state);
        }
    }
    show("state", consumer.state(pod).await);
    let tail = LogParams { tail_lines: Some(TAIL), ..LogParams::default() };
    print_text("log", lab.api::<Pod>().logs(&name_of(pod), &tail).await.map_err(Into::into));
}

fn show<T: Debug, E: std::fmt::Display>(what: &str, found: Result<T, E>) {
    match found {
        Ok(found) => eprintln!("{what}: {found:?}"),
        Err(error) => eprintln!("{what}: cannot be had: {error}"),
    }
}

fn print_text(what: &str, found: Result<String>) {
    match found {
        Ok(text) => eprintln!("{what}:\n{text}"),
        Err(error) => eprintln!("{what}: cannot be had: {error:#}"),
    }
}
