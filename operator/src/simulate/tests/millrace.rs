//! The operator's decision in the simulated world.

use super::super::super::random::Stream;
use super::super::super::setup::Setup;
use super::super::super::setup::fixtures::setup;
use super::super::super::trace::{Arrival, Trace};
use super::super::super::{engine, outcome::Outcome};
use super::*;
use crate::build::fixtures::validated;

/// 100 jobs of 6 s at 100 s, within 60 s: by the rule 10 workers at a time.
fn burst(lag: f64) -> Outcome {
    let base = setup();
    let cluster = super::super::super::args::ClusterArgs { count_lag_seconds: lag, ..base.cluster };
    let setup = Setup { cluster, ..base };
    let arrivals = vec![Arrival { at: 100.0, service: 6.0 }; 100];
    let trace = Trace { arrivals, begin: 0.0, end: 100.0 };
    let spec = validated(&[("/spec/scaling", serde_json::json!({ "maxReplicas": 10 }))]);
    let mut policy = Millrace::new(spec, setup.slots, 0.0, 3.0);
    engine::run(&setup, &trace, &mut policy)
}

#[test]
fn a_burst_is_seen_at_the_next_reading_worked_off_and_forgotten() {
    let outcome = burst(0.0);
    let first = outcome.changes.iter().find(|change| change.replicas > 0).unwrap();
    assert!((100.0..=100.0 + 10.0 * (1.0 + JITTER)).contains(&first.at), "{first:?}");
    assert!(outcome.jobs.iter().all(|job| job.finished.is_some()));
    assert_eq!(outcome.changes.iter().map(|change| change.replicas).max(), Some(10));
    assert_eq!(outcome.changes.last().map(|change| change.replicas), Some(0));
    assert_eq!((outcome.busy_killed, outcome.lost.len()), (0, 0));
}

#[test]
fn it_is_the_same_each_time() {
    assert_eq!(burst(3.0), burst(3.0));
}

/// kedacore/keda#7327: a day of single messages minutes apart, and starts of two to three minutes.
#[test]
fn sparse_messages_that_may_not_wait_for_a_start_cost_one_start_a_day() {
    use super::super::super::trace::{Spread, expand, parse};
    let rows = parse(include_str!("../../../../bench/traces/keda_7327.csv")).unwrap();
    let spread = Spread { step: Some(0.0), service: Some(30.0), service_cv: 0.3 };
    let trace = expand(&rows, spread, &mut super::super::super::random::Random::new(1, Stream::Trace)).unwrap();
    let base = setup();
    let cluster =
        super::super::super::args::ClusterArgs { ready_seconds: 150.0, count_lag_seconds: 3.0, ..base.cluster };
    let setup = Setup { cluster, ..base };
    let played = |target: i32, to_zero: i32| {
        let scaling = serde_json::json!({
            "target": { "queueDelaySeconds": target }, "scaleToZeroAfterSeconds": to_zero, "maxReplicas": 3
        });
        let mut policy = Millrace::new(validated(&[("/spec/scaling", scaling)]), 1, 0.0, 3.0);
        engine::run(&setup, &trace, &mut policy)
    };
    let warm = played(60, 1800);
    assert_eq!(warm.pods.len(), 1, "a start misses the target, and no pause is longer than the time to stay");
    let cold = played(300, 1800);
    assert!(cold.pods.len() > 50 && cold.pod_seconds() < warm.pod_seconds() / 2.0, "{} starts", cold.pods.len());
}

#[test]
fn a_worker_tells_what_a_real_one_tells() {
    let spec = validated(&[]);
    let millrace = Millrace::new(spec, 4, 0.0, 0.0);
    let mut pod = Pod::new(0, 0.0);
    let queue = super::super::super::queue::Queue::new(0.0);
    let mut random = super::super::super::random::Random::new(1, Stream::World);
    let jobs = [Job { sent: 30.0, service: 5.0, started: Some(60.0), finished: None }];
    let mut told = |pod: &Pod| {
        let sight = Sight { now: 60.0, replicas: 1, pods: &[], queue: &queue, jobs: &jobs, random: &mut random };
        millrace.worker(&sight, pod).report
    };
    assert_eq!(told(&pod), Report::NotRunning);
    (pod.phase, pod.running) = (Phase::Starting, 10.0);
    let Report::State(state) = told(&pod) else { panic!("it runs") };
    assert_eq!((state.ready, state.activity, state.capacity), (false, Activity::Starting, 4));
    pod.phase = Phase::Ready;
    pod.held = vec![(0, 65.0)];
    pod.received = Some((60.0, 30.0));
    pod.complete(5.0);
    let Report::State(state) = told(&pod) else { panic!("it runs") };
    assert_eq!((state.ready, state.activity, state.busy, state.completed), (true, Activity::Busy, 1, 1));
    let received = state.last_received.unwrap();
    assert_eq!((state.oldest_sent_at.unwrap(), received.at), (millrace.rfc3339(30.0), millrace.rfc3339(60.0)));
    let since = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    assert_eq!(since(&millrace.rfc3339(60.0)) - since(&received.sent_at), 30);
}
