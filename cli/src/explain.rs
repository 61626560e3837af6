//! `explain`: why a consumer has as many workers as it has, in the operator's own words.

use clap::Args;
use kube::ResourceExt as _;
use millrace_api::{QueueConsumer, condition};
use serde::Serialize;

use crate::common::Common;
use crate::exit::Ended;
use crate::show::{Tabular, show};

/// Tell why the consumer has as many workers as it has: what the operator saw, and what it decided
#[derive(Debug, Args)]
pub struct ExplainArgs {}

/// Runs the command.
pub async fn run(common: &Common) -> anyhow::Result<Ended> {
    anyhow::ensure!(
        common.config.is_none(),
        "--config: a worker.yaml has no operator that decided anything; name a cluster's consumer"
    );
    show(common.format, &explanation(&common.resource().await?))?;
    Ok(Ended::Well)
}

/// One thing that is known, with what it means.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    what: &'static str,
    is: String,
    why: String,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Explanation(Vec<Line>);

impl Tabular for Explanation {
    fn heads(&self) -> Vec<&'static str> {
        vec!["WHAT", "IS", "WHY"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.0.iter().map(|line| vec![line.what.into(), line.is.clone(), line.why.clone()]).collect()
    }
}

fn explanation(consumer: &QueueConsumer) -> Explanation {
    let Some(status) = &consumer.status else {
        let why = format!("the operator has not looked at {} yet: is it running?", consumer.name_any());
        return Explanation(vec![Line { what: "status", is: "none".into(), why }]);
    };
    let mut lines = Vec::new();
    let mut tell = |what, is: String, why: String| lines.push(Line { what, is, why });
    let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let scaling = condition(condition::SCALING_ACTIVE).map(|c| format!("{}: {}", c.reason, c.message));
    tell(
        "workers",
        format!("{} wanted, {} there, {} ready", status.desired_replicas, status.replicas, status.ready_replicas),
        scaling.unwrap_or_default(),
    );
    if let Some(scale) = &status.last_scale {
        let is = format!("{} to {} at {}", scale.from, scale.to, scale.time.0);
        tell("last change", is, format!("{}: {}", scale.reason, scale.message));
    }
    if let Some(queue) = &status.queue {
        let oldest =
            queue.oldest_message_age_seconds.map(|seconds| format!("the oldest has waited for about {seconds} s"));
        let is = format!("{} visible, {} in flight, {} delayed", queue.visible, queue.in_flight, queue.delayed);
        tell("queue", is, oldest.unwrap_or_default());
    }
    if let Some(estimates) = &status.estimates {
        for (what, value, why) in [
            ("service", estimates.service_seconds, "seconds that a job holds a slot"),
            ("time to ready", estimates.ready_seconds, "seconds until a new worker is ready"),
            ("arrivals", estimates.arrivals_per_minute, "messages a minute"),
        ] {
            if let Some(value) = value {
                tell(what, format!("{value}"), why.into());
            }
        }
    }
    for condition in status.conditions.iter().filter(|c| c.type_ != condition::SCALING_ACTIVE) {
        // the type is a word of the operator's; in a table it is the value that counts
        tell(
            "condition",
            format!("{}={}", condition.type_, condition.status),
            format!("{}: {}", condition.reason, condition.message),
        );
    }
    Explanation(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consumer(status: &serde_json::Value) -> QueueConsumer {
        serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "QueueConsumer", "metadata": { "name": "sdxl" },
            "spec": {
                "queue": { "url": "https://sqs.us-east-1.amazonaws.com/1/q" }, "model": { "task": "Echo" },
                "output": { "bucket": "images" },
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn it_tells_the_last_change_with_its_reckoning() {
        let time = "2026-11-23T10:00:00Z";
        let Explanation(lines) = explanation(&consumer(&json!({
            "replicas": 2, "readyReplicas": 1, "desiredReplicas": 3,
            "queue": { "visible": 40, "inFlight": 4, "delayed": 0, "oldestMessageAgeSeconds": 90 },
            "lastScale": { "time": time, "from": 2, "to": 3, "reason": "QueueDelay", "message": "44 jobs of 5 s" },
            "conditions": [
                { "type": "ScalingActive", "status": "True", "reason": "QueueDelay", "message": "3 workers", "lastTransitionTime": time },
                { "type": "Ready", "status": "True", "reason": "AsExpected", "message": "", "lastTransitionTime": time },
            ],
        })));
        let told: Vec<_> = lines.iter().map(|line| (line.what, line.is.as_str(), line.why.as_str())).collect();
        assert_eq!(
            told,
            [
                ("workers", "3 wanted, 2 there, 1 ready", "QueueDelay: 3 workers"),
                ("last change", "2 to 3 at 2026-11-23T10:00:00Z", "QueueDelay: 44 jobs of 5 s"),
                ("queue", "40 visible, 4 in flight, 0 delayed", "the oldest has waited for about 90 s"),
                ("condition", "Ready=True", "AsExpected: "),
            ]
        );
    }

    #[test]
    fn without_a_status_it_asks_for_the_operator() {
        let Explanation(lines) = explanation(&consumer(&json!(null)));
        assert!(lines[0].why.contains("is it running?"), "{lines:?}");
    }
}
