//! The result on a small outcome that can be reckoned by hand.

use serde_json::Value;

use super::super::outcome::{Change, Job, Lost, Span};
use super::super::setup::fixtures::setup;
use super::*;

/// Two jobs at 0 s and one at 100 s; one worker from 5 s, ready at 15 s, and another that never had a node.
pub(in super::super) fn outcome() -> Outcome {
    let job = |sent: f64, started: f64, finished: f64| Job {
        sent,
        service: 5.0,
        started: Some(started),
        finished: Some(finished),
    };
    let change = |at: f64, replicas, reason: &str| Change { at, replicas, reason: reason.into() };
    Outcome {
        begin: 0.0,
        end: 200.0,
        jobs: vec![job(0.0, 15.0, 20.0), job(0.0, 120.0, 125.0), job(100.0, 125.0, 130.0)],
        lost: vec![Lost { job: 1, started: 20.0, back: 110.0 }],
        pods: vec![
            Span { placed: Some(5.0), ready: Some(15.0), gone: 155.0 },
            Span { placed: None, ready: None, gone: 50.0 },
        ],
        changes: vec![
            change(0.0, 0, "Begin"),
            change(5.0, 2, "Rule"),
            change(50.0, 1, "Rule"),
            change(60.0, 1, "Busy"),
            change(150.0, 0, "Empty"),
        ],
        busy_killed: 1,
    }
}

pub(in super::super) fn report() -> Report {
    Report::of(PolicyName::Keda, &Setup { gpus: 2, ..setup() }, &outcome(), 20)
}

#[test]
fn the_figures() {
    let json: Value = serde_json::to_value(report()).unwrap();
    let mut json = json.as_object().unwrap().clone();
    let timeline = json.remove("timeline").unwrap();
    let wanted = serde_json::json!({
        "policy": "keda", "target_seconds": 60.0, "jobs": 3,
        "wait_seconds": { "p50": 25.0, "p95": 120.0, "p99": 120.0, "max": 120.0 },
        "over_target_share": 0.333_333, "gpu_seconds": 300.0, "least_gpu_seconds": 30.0,
        "cold_starts": 1, "peak_replicas": 2, "scale_ups": 1, "scale_downs": 2,
        "redelivered": 1, "busy_killed": 1, "unserved": 0, "seed": 1,
    });
    assert_eq!(Value::Object(json), wanted);
    let at =
        |second: f64| timeline.as_array().unwrap().iter().find(|point| point["seconds"] == second).unwrap().clone();
    let point = |seconds: f64, replicas: i32, ready: i32, visible: i32, in_flight: i32, oldest: f64, reason: &str| {
        serde_json::json!({
            "seconds": seconds, "replicas": replicas, "ready": ready, "visible": visible, "in_flight": in_flight,
            "oldest_seconds": oldest, "reason": reason,
        })
    };
    assert_eq!(at(10.0), point(10.0, 2, 0, 2, 0, 10.0, "Rule"));
    assert_eq!(at(60.0), point(60.0, 1, 1, 0, 1, 0.0, "Busy"));
    assert_eq!(at(110.0), point(110.0, 1, 1, 2, 0, 110.0, "Busy"));
    assert_eq!(at(200.0), point(200.0, 0, 0, 0, 0, 0.0, "Empty"));
}

#[test]
fn the_text_says_the_same() {
    let text = report().text();
    for wanted in ["keda", "33.33 % (target 60 s)", "0.083 h", "25.0 s, 120.0 s, 120.0 s, 120.0 s"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn jobs_that_were_never_done_are_late() {
    let mut outcome = outcome();
    (outcome.jobs[2].started, outcome.jobs[2].finished) = (None, None);
    let report = Report::of(PolicyName::Ray, &setup(), &outcome, 0);
    assert_eq!(report.unserved, 1);
    assert!((report.over_target_share - 2.0 / 3.0).abs() < 1e-5);
    assert!(report.timeline.is_empty());
}
