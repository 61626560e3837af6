//! Prometheus metrics. Labels are bounded, and a QueueConsumer's are removed with it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use millrace_api::QueueConsumer;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::queue::Depth;
use crate::scale::Decision;

/// Whose value it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Consumer {
    namespace: String,
    consumer: String,
}

impl From<&ObjectRef<QueueConsumer>> for Consumer {
    fn from(key: &ObjectRef<QueueConsumer>) -> Self {
        Self { namespace: key.namespace.clone().unwrap_or_default(), consumer: key.name.clone() }
    }
}

/// How a pass ended: `ok`, or the reason of its error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scale {
    namespace: String,
    consumer: String,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Direction {
    #[allow(non_camel_case_types, reason = "the label's value")]
    up,
    #[allow(non_camel_case_types, reason = "the label's value")]
    down,
}

type ByConsumer = Family<Consumer, Gauge>;

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    reconcile_seconds: Histogram,
    visible: ByConsumer,
    in_flight: ByConsumer,
    delayed: ByConsumer,
    oldest: ByConsumer,
    wanted: ByConsumer,
    desired: ByConsumer,
    ready: ByConsumer,
    scales: Family<Scale, Counter>,
    scale_latency: Histogram,
    requests: Family<Request, Counter>,
    leading: Gauge<f64, AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("millrace"),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0, 10.0]),
            visible: Family::default(),
            in_flight: Family::default(),
            delayed: Family::default(),
            oldest: Family::default(),
            wanted: Family::default(),
            desired: Family::default(),
            ready: Family::default(),
            scales: Family::default(),
            scale_latency: Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            requests: Family::default(),
            leading: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("reconcile", "Passes of reconcile, by how they ended", self.reconciles.clone());
        let seconds = Unit::Seconds;
        r.register_with_unit(
            "reconcile",
            "Duration of a pass of reconcile",
            seconds.clone(),
            self.reconcile_seconds.clone(),
        );
        r.register("queue_visible_messages", "Messages that can be received now", self.visible.clone());
        r.register("queue_in_flight_messages", "Messages that workers hold", self.in_flight.clone());
        r.register("queue_delayed_messages", "Messages that become visible later", self.delayed.clone());
        let oldest = "How long the oldest message that can be received has waited, as far as is known";
        r.register_with_unit("oldest_message_age", oldest, seconds.clone(), self.oldest.clone());
        let wanted = "Workers that the queue needs, before budgets and other limits";
        r.register("wanted_replicas", wanted, self.wanted.clone());
        r.register("desired_replicas", "Workers that the last decision asked for", self.desired.clone());
        r.register("ready_replicas", "Workers that are ready", self.ready.clone());
        r.register("scale", "Changes of a worker count", self.scales.clone());
        r.register_with_unit(
            "scale_latency",
            "From a read of the queue's count to the accepted patch of the Deployment that it led to",
            seconds,
            self.scale_latency.clone(),
        );
        r.register("sqs_requests", "Calls of SQS", self.requests.clone());
        r.register("leader", "1 while this replica is the one that works", self.leading.clone());
    }

    /// The text that Prometheus reads.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A pass of reconcile ended.
    pub(crate) fn reconciled(&self, outcome: &str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { outcome: outcome.into() }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A queue was read for a consumer.
    pub(crate) fn depth(&self, key: &ObjectRef<QueueConsumer>, depth: &Depth) {
        let labels = Consumer::from(key);
        self.visible.get_or_create(&labels).set(depth.visible);
        self.in_flight.get_or_create(&labels).set(depth.in_flight);
        self.delayed.get_or_create(&labels).set(depth.delayed);
    }

    /// What was decided for a consumer.
    pub(crate) fn decided(&self, key: &ObjectRef<QueueConsumer>, decision: &Decision) {
        let labels = Consumer::from(key);
        self.wanted.get_or_create(&labels).set(decision.wanted.into());
        self.oldest.get_or_create(&labels).set(decision.oldest_seconds.unwrap_or_default() as i64);
    }

    /// A consumer's workers, asked for and ready.
    pub(crate) fn replicas(&self, key: &ObjectRef<QueueConsumer>, desired: i32, ready: i32) {
        let labels = Consumer::from(key);
        self.desired.get_or_create(&labels).set(desired.into());
        self.ready.get_or_create(&labels).set(ready.into());
    }

    /// A worker count was changed; `latency` where a reading of the queue led to it.
    pub(crate) fn scaled(&self, key: &ObjectRef<QueueConsumer>, from: i32, to: i32, latency: Option<Duration>) {
        let direction = if to > from { Direction::up } else { Direction::down };
        let Consumer { namespace, consumer } = Consumer::from(key);
        self.scales.get_or_create(&Scale { namespace, consumer, direction }).inc();
        if let Some(latency) = latency {
            self.scale_latency.observe(latency.as_secs_f64());
        }
    }

    /// SQS was called.
    pub(crate) fn sqs(&self, operation: &'static str, outcome: &'static str) {
        self.requests.get_or_create(&Request { operation, outcome }).inc();
    }

    /// This replica works, or waits.
    pub(crate) fn lead(&self, leading: bool) {
        self.leading.set(if leading { 1.0 } else { 0.0 });
    }

    /// A consumer is gone.
    pub(crate) fn forget(&self, key: &ObjectRef<QueueConsumer>) {
        let labels = Consumer::from(key);
        let families =
            [&self.visible, &self.in_flight, &self.delayed, &self.oldest, &self.wanted, &self.desired, &self.ready];
        for family in families {
            family.remove(&labels);
        }
        for direction in [Direction::up, Direction::down] {
            let Consumer { namespace, consumer } = labels.clone();
            self.scales.remove(&Scale { namespace, consumer, direction });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectRef<QueueConsumer> {
        ObjectRef::new(name).within("demo")
    }

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::default();
        let depth = Depth { visible: 50, in_flight: 2, delayed: 1 };
        metrics.depth(&key("a"), &depth);
        metrics.replicas(&key("a"), 4, 3);
        metrics.scaled(&key("a"), 0, 4, Some(Duration::from_millis(20)));
        metrics.sqs("GetQueueAttributes", "ok");
        metrics.reconciled("ok", Duration::from_millis(3));
        let text = metrics.encode().unwrap();
        for line in [
            r#"millrace_queue_visible_messages{namespace="demo",consumer="a"} 50"#,
            r#"millrace_queue_in_flight_messages{namespace="demo",consumer="a"} 2"#,
            r#"millrace_queue_delayed_messages{namespace="demo",consumer="a"} 1"#,
            r#"millrace_desired_replicas{namespace="demo",consumer="a"} 4"#,
            r#"millrace_ready_replicas{namespace="demo",consumer="a"} 3"#,
            r#"millrace_scale_total{namespace="demo",consumer="a",direction="up"} 1"#,
            r"millrace_scale_latency_seconds_count 1",
            r#"millrace_sqs_requests_total{operation="GetQueueAttributes",outcome="ok"} 1"#,
            r#"millrace_reconcile_total{outcome="ok"} 1"#,
            r"millrace_reconcile_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_consumer_takes_its_labels_with_it() {
        let metrics = Metrics::default();
        for name in ["gone", "stays"] {
            metrics.depth(&key(name), &Depth::default());
            metrics.replicas(&key(name), 1, 1);
            metrics.scaled(&key(name), 1, 0, None);
        }
        metrics.forget(&key("gone"));
        let text = metrics.encode().unwrap();
        assert!(!text.contains("gone") && text.contains("stays"), "{text}");
    }
}
