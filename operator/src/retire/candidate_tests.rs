//! What is made of pods and reports as time goes by.

use std::sync::Arc;

use millrace_api::WorkerState;
use serde_json::{Value, json};

use super::*;
use crate::build::fixtures::{observed, validated};
use crate::scale::decide;
use crate::workers::Worker;

fn pod(name: &str, changes: &[(&str, Value)]) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": { "name": name, "uid": format!("uid-{name}"), "annotations": {}, "labels": { "pod-template-hash": "1" } },
        "spec": { "nodeName": "n", "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    for (pointer, value) in changes {
        *pod.pointer_mut(pointer).unwrap() = value.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn state(activity: Activity, completed: u64) -> Report {
    let busy = u32::from(matches!(activity, Activity::Busy | Activity::Draining));
    Report::State(Box::new(WorkerState { activity, busy, completed, ready: true, ..WorkerState::default() }))
}

/// A consumer of one pod over time.
struct Life {
    kept: HashMap<String, Kept>,
    start: Instant,
}

impl Life {
    fn new() -> Self {
        Self { kept: HashMap::new(), start: Instant::now() }
    }

    fn at(&mut self, second: u64, pod: &Arc<Pod>, report: Report) -> Candidate {
        let workers = vec![Worker { pod: pod.name_any(), report }];
        let seen = Observed { pods: vec![Arc::clone(pod)], workers, ..observed() };
        let now = self.start + Duration::from_secs(second);
        Inputs::of(None, &seen, &mut self.kept, true, now).pods.remove(0)
    }

    fn kept(&mut self) -> &mut Kept {
        self.kept.get_mut("uid-a").unwrap()
    }
}

fn protected() -> Arc<Pod> {
    let annotations = json!(Marks { goes: false, protected: true }.annotations());
    pod("a", &[("/metadata/annotations", annotations)])
}

#[test]
fn protection_begins_at_once_and_ends_after_half_a_minute() {
    let (mut life, bare, marked) = (Life::new(), pod("a", &[]), protected());
    assert!(!life.at(0, &bare, state(Activity::Starting, 0)).at_work);
    assert!(!life.at(5, &bare, state(Activity::Idle, 0)).at_work);
    assert!(life.at(10, &bare, state(Activity::Busy, 0)).at_work);
    assert!(life.at(15, &marked, state(Activity::Idle, 1)).at_work);
    assert!(life.at(44, &marked, state(Activity::Idle, 1)).at_work);
    assert!(!life.at(45, &marked, state(Activity::Idle, 1)).at_work);
    assert!(!life.at(46, &bare, state(Activity::Idle, 1)).at_work, "no mark, no reason to write one");
}

#[test]
fn silence_may_be_work_unless_it_was_never_ready() {
    let unready = pod("a", &[("/status/conditions", json!([]))]);
    assert!(!Life::new().at(0, &unready, Report::Silent).at_work);
    assert!(Life::new().at(0, &pod("a", &[]), Report::Silent).at_work);
    assert!(Life::new().at(0, &protected(), Report::Silent).at_work);
    assert!(!Life::new().at(0, &pod("a", &[]), Report::NotRunning).at_work);
}

#[test]
fn idle_twice_in_a_row_is_quiet_and_a_job_in_between_shows() {
    let (mut life, pod) = (Life::new(), pod("a", &[]));
    assert!(!life.at(0, &pod, state(Activity::Idle, 3)).quiet);
    assert!(life.at(10, &pod, state(Activity::Idle, 3)).quiet);
    assert!(!life.at(15, &pod, state(Activity::Idle, 4)).quiet, "it did a job unseen");
    assert!(!life.at(20, &pod, Report::Silent).quiet);
    assert!(!life.at(25, &pod, state(Activity::Idle, 4)).quiet);
    assert!(life.at(35, &pod, state(Activity::Idle, 4)).quiet);
}

#[test]
fn drained_counts_for_half_as_long_as_a_drain_lasts() {
    let (mut life, pod) = (Life::new(), pod("a", &[]));
    assert!(!life.at(0, &pod, state(Activity::Drained, 0)).is_harmless(), "somebody else asked for it");
    let start = life.start;
    life.kept().drained = Some(start);
    assert!(life.at(29, &pod, state(Activity::Drained, 0)).is_harmless());
    assert!(!life.at(30, &pod, state(Activity::Drained, 0)).is_harmless());
}

#[test]
fn a_cost_is_certain_when_it_was_seen_for_a_moment() {
    let marked = pod("a", &[("/metadata/annotations", json!(Marks { goes: true, protected: false }.annotations()))]);
    let (mut life, bare) = (Life::new(), pod("a", &[]));
    assert!(life.at(0, &bare, Report::Silent).certain);
    assert!(!life.at(10, &marked, Report::Silent).certain);
    assert!(life.at(11, &marked, Report::Silent).certain);
    assert!(!life.at(12, &bare, Report::Silent).certain, "taken away");
    assert!(!Life::new().at(0, &marked, Report::Silent).certain, "after a restart");
}

#[test]
fn another_pod_of_the_same_name_begins_anew() {
    let (mut life, first) = (Life::new(), pod("a", &[]));
    life.at(0, &first, state(Activity::Idle, 0));
    let start = life.start;
    life.kept().unable = Some(start);
    assert!(!life.at(1, &first, state(Activity::Idle, 0)).drains);
    let second = pod("a", &[("/metadata/uid", json!("uid-2"))]);
    assert!(life.at(2, &second, state(Activity::Idle, 0)).drains);
    assert_eq!(life.kept.len(), 1, "and nothing stays of the first");
}

#[test]
fn one_that_refuses_for_long_or_does_not_know_how_cannot_be_asked() {
    let (mut life, pod) = (Life::new(), pod("a", &[]));
    let mut drains = |second, unable, refuses| {
        life.at(0, &pod, state(Activity::Idle, 0));
        let start = life.start;
        let kept = life.kept.get_mut("uid-a").unwrap();
        (kept.unable, kept.refuses) = (Some(start).filter(|_| unable), Some(start).filter(|_| refuses));
        life.at(second, &pod, state(Activity::Idle, 0)).drains
    };
    assert!(drains(9, false, false));
    assert!(!drains(9, true, false) && drains(300, true, false), "asked again");
    assert!(drains(299, false, true) && !drains(300, false, true), "its GPU is not held for ever");
}

#[test]
fn what_the_deployment_says() {
    let of = |status: Value, pods: Vec<Arc<Pod>>| {
        let deployment = json!({
            "metadata": { "name": "sdxl", "generation": 2 },
            "spec": { "replicas": 3, "selector": {}, "template": {} },
            "status": status,
        });
        let seen =
            Observed { deployment: Some(Arc::new(serde_json::from_value(deployment).unwrap())), pods, ..observed() };
        let decision = decide(&validated(&[]), &seen, Instant::now());
        (decision.desired, Inputs::of(Some(&decision), &seen, &mut HashMap::new(), true, Instant::now()))
    };
    let (desired, inputs) = of(json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3 }), Vec::new());
    assert_eq!((inputs.desired, inputs.replicas), (Some(desired), 3));
    assert!(inputs.settled && !inputs.replacing);
    assert!(!of(json!({ "observedGeneration": 1 }), Vec::new()).1.settled);
    assert!(!of(json!({}), Vec::new()).1.settled);
    assert!(of(json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 2 }), Vec::new()).1.replacing);
    let pods = vec![pod("a", &[]), pod("b", &[("/metadata/labels", json!({ "pod-template-hash": "2" }))])];
    assert!(of(json!({ "observedGeneration": 2 }), pods).1.replacing, "pods of two templates");
    let failed = vec![pod("a", &[("/status/phase", json!("Failed"))])];
    assert!(of(json!({ "observedGeneration": 2 }), failed).1.pods.is_empty(), "the ReplicaSet does not count it");
}
