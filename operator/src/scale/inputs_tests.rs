//! What is made of pods and of workers' reports.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::build::fixtures::{observed, validated};

fn rfc3339(seconds: f64) -> String {
    Timestamp::from_millisecond((seconds * 1e3) as i64).unwrap().to_string()
}

fn pod(name: &str, age: f64, now: f64, rest: &Value) -> Arc<Pod> {
    let mut pod = json!({ "metadata": { "name": name, "creationTimestamp": rfc3339((now - age).floor()) } });
    pod.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn state(name: &str, change: impl FnOnce(&mut WorkerState)) -> Worker {
    let mut state = WorkerState { worker: name.into(), ready: true, capacity: 4, ..WorkerState::default() };
    change(&mut state);
    Worker { pod: name.into(), report: Report::State(Box::new(state)) }
}

#[test]
fn pods_are_told_apart() {
    let instant = Instant::now();
    let now = clock::seconds(instant);
    let ready = json!({ "spec": { "containers": [], "nodeName": "n" }, "status": { "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": rfc3339((now - 70.0).floor()) } ] } });
    let crashing = json!({ "spec": { "containers": [], "nodeName": "n" }, "status": { "containerStatuses": [
        { "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 3, "state": { "waiting": { "reason": "CrashLoopBackOff" } } } ] } });
    let creating = json!({ "spec": { "containers": [], "nodeName": "n" }, "status": { "containerStatuses": [
        { "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": { "reason": "ContainerCreating" } } } ] } });
    let loading = json!({ "spec": { "containers": [], "nodeName": "n" } });
    let mut seen = observed();
    seen.pods = vec![
        pod("ready", 100.0, now, &ready),
        pod("crashing", 100.0, now, &crashing),
        pod("creating", 20.0, now, &creating),
        pod("new", 10.0, now, &json!({})),
        pod("stuck", 700.0, now, &json!({})),
        pod("hopeless", 100.0, now, &loading),
    ];
    seen.workers = vec![state("hopeless", |s| {
        s.ready = false;
        s.problems.push(millrace_api::Problem {
            reason: "ModelFileMissing".into(),
            message: "unet is missing".into(),
            since: String::new(),
        });
    })];
    let spec = validated(&[]);
    let pods = Pods::of(&spec, &seen, 8, now);
    assert_eq!((pods.ready, pods.broken, pods.stuck, pods.starting), (1, 2, 1, 4), "{pods:?}");
    assert!((pods.starting_age - 30.0 / 4.0).abs() < 1.0, "two are still to be made: {pods:?}");
    assert!((pods.took["ready"] - 30.0).abs() < 1.1, "{pods:?}");
}

#[test]
fn reports_become_numbers() {
    let instant = Instant::now();
    let now = clock::seconds(instant);
    let service = |mean| Some(millrace_api::ServiceSeconds { mean, p95: mean });
    let mut seen = observed();
    seen.workers = vec![
        state("a", |s| {
            (s.busy, s.completed, s.service_seconds) = (2, 30, service(4.0));
            s.last_received = Some(millrace_api::Received { at: rfc3339(now - 50.0), sent_at: rfc3339(now - 90.0) });
        }),
        state("b", |s| {
            (s.busy, s.completed, s.failed, s.service_seconds) = (1, 9, 1, service(8.0));
            s.last_received = Some(millrace_api::Received { at: rfc3339(now - 10.0), sent_at: rfc3339(now - 30.0) });
            s.jobs = vec![millrace_api::JobState {
                job_id: "j".into(),
                message_id: "m".into(),
                started_at: rfc3339(now - 12.0),
                lease_expires_at: String::new(),
                must_end_at: String::new(),
                sent_at: String::new(),
                progress: None,
            }];
        }),
        Worker { pod: "c".into(), report: Report::Silent },
    ];
    let inputs = Inputs::of(&validated(&[]), &seen, instant);
    assert_eq!((inputs.busy, inputs.silent, inputs.held, inputs.slots), (3, 1, 3, 4.0));
    assert!((inputs.service_seconds.unwrap() - 5.0).abs() < 1e-9);
    assert!((inputs.oldest_seconds.unwrap() - 30.0).abs() < 0.1, "of the last receive");
    assert!((inputs.running_seconds.unwrap() - 12.0).abs() < 0.1);
    assert_eq!((inputs.done["a"], inputs.done["b"]), (30, 10));
    assert!(inputs.healthy && inputs.failing.is_none());
}

#[test]
fn a_model_is_broken_where_nobody_gets_through() {
    let failing = |attempts| millrace_api::Failing {
        attempts,
        since: String::new(),
        code: "ModelError".into(),
        message: "NaN".into(),
    };
    let of = |workers: &[(u64, Option<u64>)]| {
        let states: Vec<WorkerState> = workers
            .iter()
            .map(|(completed, attempts)| WorkerState {
                completed: *completed,
                failing: attempts.map(failing),
                ..WorkerState::default()
            })
            .collect();
        super::failing(states.iter()).is_some()
    };
    assert!(of(&[(0, Some(5))]));
    assert!(of(&[(100, Some(3)), (0, Some(2)), (0, None)]), "who tries nothing says nothing");
    assert!(!of(&[(0, Some(4))]), "too few to tell");
    assert!(!of(&[(0, Some(50)), (10, None)]), "one worker is broken, not the model");
    assert!(!of(&[]));
}

#[test]
fn free_slots_that_receive_nothing() {
    let since = |seconds: Option<f64>| WorkerState {
        ready: true,
        capacity: 4,
        busy: 1,
        empty_since: seconds.map(rfc3339),
        ..WorkerState::default()
    };
    assert!(finds_nothing(&since(Some(100.0)), 120.0));
    assert!(!finds_nothing(&since(Some(130.0)), 120.0), "the count may be older than what it received");
    assert!(!finds_nothing(&since(None), 120.0));
    assert!(!finds_nothing(&WorkerState { busy: 4, ..since(Some(100.0)) }, 120.0), "it has no free slot");
}
