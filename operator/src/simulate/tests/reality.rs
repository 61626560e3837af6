//! The simulator beside what was measured.

use serde::Deserialize;

use super::args::ClusterArgs;
use super::policy::Policy;
use super::policy::keda::{Keda, Settings};
use super::policy::millrace::Millrace;
use super::setup::fixtures::setup;
use super::*;
use crate::build::fixtures::validated;
use crate::simulate::trace::Arrival;

/// How far it may be off.
const TOLERANCE: f64 = 0.15;

/// What was measured, in runs of a burst of 200 jobs of 5 s for 10 replicas.
#[derive(Deserialize)]
struct Lab {
    runs: Vec<Run>,
}

/// Seconds from the send.
#[derive(Deserialize)]
struct Run {
    /// Before the burst.
    #[serde(default)]
    replicas: i32,
    poll_phase: f64,
    sync_phase: Option<f64>,
    first_asked: Option<f64>,
    all_asked: f64,
    all_ready: f64,
    queue_empty: f64,
    back_to_zero: f64,
    worker_seconds: f64,
    p95_wait: Option<f64>,
}

impl Run {
    /// What a policy makes of it, where pods are ready so long after they got a node, more or less.
    fn simulate(&self, (ready_seconds, ready_cv): (f64, f64), policy: &mut dyn Policy) -> Outcome {
        let base = setup();
        let cluster =
            ClusterArgs { scheduling_seconds: 0.5, ready_seconds, ready_cv, stop_seconds: 1.0, ..base.cluster };
        let setup = Setup { replicas: self.replicas, cluster, ..base };
        let trace = Trace { arrivals: vec![Arrival { at: 0.0, service: 5.0 }; 200], begin: 0.0, end: 0.0 };
        engine::run(&setup, &trace, policy)
    }

    /// That it is what was measured.
    fn compare(&self, outcome: &Outcome) {
        let asked = |count: i32| outcome.changes.iter().find(|change| change.replicas >= count).unwrap().at;
        let mut ready: Vec<f64> = outcome.pods.iter().filter_map(|pod| pod.ready).collect();
        ready.sort_by(f64::total_cmp);
        let empty = outcome.jobs.iter().filter_map(|job| job.finished).fold(0.0, f64::max);
        let mut waits: Vec<f64> = outcome.jobs.iter().filter_map(|job| job.started).collect();
        waits.sort_by(f64::total_cmp);
        let p95 = waits[waits.len() * 95 / 100];
        for (what, simulated, measured) in [
            // With one worker at the beginning nothing is first asked for.
            ("first asked for", self.first_asked.map_or(1.0, |_| asked(1)), self.first_asked.unwrap_or(1.0)),
            ("all asked for", asked(10), self.all_asked),
            ("all ready", ready[9], self.all_ready),
            ("queue empty", empty, self.queue_empty),
            ("back to zero", outcome.changes.last().unwrap().at, self.back_to_zero),
            ("worker-seconds", outcome.pod_seconds(), self.worker_seconds),
            ("95 of 100 began", self.p95_wait.map_or(1.0, |_| p95), self.p95_wait.unwrap_or(1.0)),
        ] {
            let off = simulated / measured - 1.0;
            println!(
                "from {}: {what}: simulated {simulated:.1}, measured {measured}: {:+.1} %",
                self.replicas,
                off * 100.0
            );
            assert!(off.abs() < TOLERANCE, "from {}: {what}: {simulated} instead of {measured}", self.replicas);
        }
        assert_eq!(outcome.changes.last().unwrap().replicas, 0);
    }
}

#[test]
fn keda_does_what_it_did_on_a_cluster() {
    let lab: Lab = serde_json::from_str(include_str!("keda_lab.json")).unwrap();
    assert_eq!(lab.runs.len(), 2);
    for run in lab.runs {
        let settings = Settings {
            queue_length: 5.0,
            cooldown: 300.0,
            poll_phase: Some(run.poll_phase),
            sync_phase: run.sync_phase,
        };
        let mut keda = Keda::new(settings, (0, 10), 0.0, &mut Random::new(1, Stream::Policy));
        run.compare(&run.simulate((1.0, 0.0), &mut keda));
    }
}

#[test]
fn millrace_does_what_it_did_on_a_cluster() {
    let lab: Lab = serde_json::from_str(include_str!("millrace_kind.json")).unwrap();
    assert_eq!(lab.runs.len(), 1);
    for run in lab.runs {
        let spec = validated(&[
            ("/spec/model", serde_json::json!({ "task": "Echo", "batch": { "maxSize": 1 } })),
            ("/spec/worker/gpu/count", serde_json::json!(0)),
            ("/spec/scaling", serde_json::json!({ "maxReplicas": 10 })),
        ]);
        let mut millrace = Millrace::new(spec, 1, 0.0, run.poll_phase);
        run.compare(&run.simulate((3.0, 0.1), &mut millrace));
    }
}
