//! The simulator beside what was measured.

use serde::Deserialize;

use super::args::ClusterArgs;
use super::policy::keda::{Keda, Settings};
use super::setup::fixtures::setup;
use super::*;
use crate::simulate::trace::Arrival;

/// How far it may be off.
const TOLERANCE: f64 = 0.15;

#[derive(Deserialize)]
struct Lab {
    runs: Vec<Run>,
}

/// A row of keda_lab.json. Seconds from the send.
#[derive(Deserialize)]
struct Run {
    replicas: i32,
    poll_phase: f64,
    sync_phase: f64,
    first_asked: Option<f64>,
    all_asked: f64,
    all_ready: f64,
    queue_empty: f64,
    back_to_zero: f64,
    worker_seconds: f64,
}

#[test]
fn keda_does_what_it_did_on_a_cluster() {
    let lab: Lab = serde_json::from_str(include_str!("keda_lab.json")).unwrap();
    assert_eq!(lab.runs.len(), 2);
    for run in lab.runs {
        let base = setup();
        let cluster = ClusterArgs { scheduling_seconds: 0.5, ready_seconds: 1.0, stop_seconds: 1.0, ..base.cluster };
        let setup = Setup { replicas: run.replicas, cluster, ..base };
        let trace = Trace { arrivals: vec![Arrival { at: 0.0, service: 5.0 }; 200], begin: 0.0, end: 0.0 };
        let settings = Settings {
            queue_length: 5.0,
            cooldown: 300.0,
            poll_phase: Some(run.poll_phase),
            sync_phase: Some(run.sync_phase),
        };
        let mut keda = Keda::new(settings, (0, 10), 0.0, &mut Random::new(1, Stream::Policy));
        let outcome = engine::run(&setup, &trace, &mut keda);

        let asked = |count: i32| outcome.changes.iter().find(|change| change.replicas >= count).unwrap().at;
        let mut ready: Vec<f64> = outcome.pods.iter().filter_map(|pod| pod.ready).collect();
        ready.sort_by(f64::total_cmp);
        let empty = outcome.jobs.iter().filter_map(|job| job.finished).fold(0.0, f64::max);
        for (what, simulated, measured) in [
            // With one worker at the beginning nothing is first asked for.
            ("first asked for", run.first_asked.map_or(1.0, |_| asked(1)), run.first_asked.unwrap_or(1.0)),
            ("all asked for", asked(10), run.all_asked),
            ("all ready", ready[9], run.all_ready),
            ("queue empty", empty, run.queue_empty),
            ("back to zero", outcome.changes.last().unwrap().at, run.back_to_zero),
            ("worker-seconds", outcome.pod_seconds(), run.worker_seconds),
        ] {
            let off = simulated / measured - 1.0;
            println!(
                "from {}: {what}: simulated {simulated:.1}, measured {measured}: {:+.1} %",
                run.replicas,
                off * 100.0
            );
            assert!(off.abs() < TOLERANCE, "from {}: {what}: {simulated} instead of {measured}", run.replicas);
        }
        assert_eq!(outcome.changes.last().unwrap().replicas, 0);
    }
}
