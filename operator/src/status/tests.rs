//! Conditions as tables: what was seen, and what is said about it.

use std::sync::Arc;
use std::time::Instant;

use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::build::fixtures::{observed, validated, with};
use crate::queue::{Depth, QueueError};
use crate::scale::decide;
use crate::validate::validate;
use crate::workers::{Report, Worker};

fn seen(replicas: i32, ready: i32) -> Observed {
    let deployment = json!({
        "metadata": { "name": "sdxl", "generation": 1 },
        "spec": { "replicas": replicas, "selector": {}, "template": {} },
        "status": { "observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready },
    });
    Observed {
        deployment: Some(Arc::new(serde_json::from_value(deployment).unwrap())),
        last_desired: replicas,
        ..observed()
    }
}

fn scaling() -> (&'static str, Value) {
    ("/spec/scaling", json!({ "target": { "messagesPerReplica": 5 }, "maxReplicas": 4 }))
}

fn done(seen: &Observed, applied: Applied) -> Outcome {
    let consumer = validated(&[scaling()]);
    let decision = decide(&consumer, seen, Instant::now());
    let applied = Applied { replicas: if applied.moved { 7 } else { decision.desired }, ..applied };
    Outcome::Done(Box::new(decision), Box::new(applied), Box::default())
}

fn status(seen: &Observed, outcome: &Outcome) -> QueueConsumerStatus {
    compute(&with(&[scaling()]), seen, outcome, &QueueConsumerStatus::default(), None, Timestamp::UNIX_EPOCH)
}

fn of(seen: &Observed) -> QueueConsumerStatus {
    status(seen, &done(seen, Applied::default()))
}

/// `Ready=True/AsExpected`, or nothing where there is no such condition.
fn word(status: &QueueConsumerStatus, kind: &str) -> String {
    let condition = status.conditions.iter().find(|c| c.type_ == kind);
    condition.map_or_else(String::new, |c| format!("{}/{}", c.status, c.reason))
}

fn message(status: &QueueConsumerStatus, kind: &str) -> String {
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.message.clone()).unwrap_or_default()
}

fn pod(status: &Value) -> Arc<k8s_openapi::api::core::v1::Pod> {
    Arc::new(serde_json::from_value(json!({ "metadata": { "name": "sdxl-1" }, "status": status })).unwrap())
}

/// A pod whose model server is like this, while its worker waits for it.
fn server(state: &Value) -> Value {
    let mut pod = container(state);
    let mut server = pod["containerStatuses"][0].take();
    server["name"] = json!("server");
    let waiting = json!({ "restartCount": 0, "state": { "waiting": { "reason": "PodInitializing" } } });
    pod["containerStatuses"] = container(&waiting)["containerStatuses"].take();
    pod["initContainerStatuses"] = json!([server]);
    pod
}

fn container(state: &Value) -> Value {
    let mut container = json!({ "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 3 });
    container.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
    json!({ "phase": "Pending", "containerStatuses": [container] })
}

#[test]
fn ready_at_zero_and_at_work() {
    let mut zero = seen(0, 0);
    zero.reading.depth = Ok(Depth::default());
    let status = of(&zero);
    for (kind, expected) in [
        ("Ready", "True/ScaledToZero"),
        ("QueueAccessible", "True/AsExpected"),
        ("WorkersAvailable", "True/ScaledToZero"),
        ("ScalingActive", "True/QueueEmpty"),
        ("Reconciling", ""),
        ("Stalled", ""),
        ("Degraded", ""),
    ] {
        assert_eq!(word(&status, kind), expected, "{kind}");
    }
    let status = of(&seen(4, 4));
    assert_eq!(word(&status, "Ready"), "True/AsExpected");
    assert_eq!(word(&status, "WorkersAvailable"), "True/AsExpected");
    let status = of(&seen(4, 1));
    assert_eq!(word(&status, "WorkersAvailable"), "True/WorkersStarting");
    assert_eq!(word(&status, "Reconciling"), "True/WorkersStarting");
    assert_eq!(message(&status, "WorkersAvailable"), "1 of 4 workers are ready; the others are starting");
}

#[test]
fn only_counts_are_told_seldom() {
    let before = of(&seen(4, 4));
    let mut fewer = seen(4, 4);
    fewer.reading.depth = Ok(Depth { visible: 18, ..Depth::default() });
    let after =
        compute(&with(&[scaling()]), &fewer, &done(&fewer, Applied::default()), &before, None, Timestamp::UNIX_EPOCH);
    assert_ne!(message(&before, "ScalingActive"), message(&after, "ScalingActive"));
    assert_eq!(news(&before, &after), News::Counts);
    assert_eq!(news(&before, &before), News::None);
    assert_eq!(news(&before, &of(&seen(4, 3))), News::More);
}

#[test]
fn what_limits_the_count_is_told() {
    let told =
        |changes: &[(&str, Value)], change: &dyn Fn(&mut Observed), grant: Option<crate::scale::budget::Grant>| {
            let mut seen = seen(4, 4);
            change(&mut seen);
            let changes: Vec<(&str, Value)> = std::iter::once(scaling()).chain(changes.iter().cloned()).collect();
            let (spec, now) = (validated(&changes), Instant::now());
            let decision = decide(&spec, &seen, now);
            let decision = match grant {
                Some(grant) => decision.granted(&spec, &seen, grant, now),
                None => decision,
            };
            let Outcome::Done(_, applied, plan) = done(&seen, Applied::default()) else { panic!("not done") };
            let outcome = Outcome::Done(Box::new(decision), applied, plan);
            compute(&with(&changes), &seen, &outcome, &QueueConsumerStatus::default(), None, Timestamp::UNIX_EPOCH)
        };
    let grant = crate::scale::budget::Grant { replicas: 2, words: "its share is 2 workers".into() };
    let limited = told(&[], &|_| (), Some(grant));
    assert_eq!(word(&limited, "BudgetLimited"), "True/GpuBudget");
    assert!(message(&limited, "BudgetLimited").contains("needs 4 workers, and there can be 2: its share"));
    let dry = told(
        &[("/spec/scaling/mode", json!("DryRun"))],
        &|seen| seen.reading.depth = Ok(Depth { visible: 100, ..Depth::default() }),
        None,
    );
    assert_eq!(word(&dry, "ScalingActive"), "False/DryRun");
    assert!(message(&dry, "ScalingActive").contains("it would be 4 workers"), "{}", message(&dry, "ScalingActive"));
    let paused = told(&[("/spec/scaling/mode", json!("Paused"))], &|_| (), None);
    assert_eq!(word(&paused, "ScalingActive"), "False/Paused");
    let shared = told(&[], &|seen| seen.shared_with = vec!["demo/other".into()], None);
    assert_eq!(word(&shared, "QueueShared"), "True/SameQueue");
    assert!(message(&shared, "QueueShared").starts_with("demo/other reads the same queue"));
    let failing = told(
        &[],
        &|seen| {
            let failing = millrace_api::Failing {
                attempts: 9,
                since: String::new(),
                code: "ModelError".into(),
                message: "NaN".into(),
            };
            let state = millrace_api::WorkerState { failing: Some(failing), ..millrace_api::WorkerState::default() };
            seen.workers = vec![Worker { pod: "sdxl-1".into(), report: Report::State(Box::new(state)) }];
        },
        None,
    );
    assert_eq!(word(&failing, "Degraded"), "True/JobsFailing");
    assert!(message(&failing, "Degraded").contains("ModelError: NaN"), "{}", message(&failing, "Degraded"));
}

#[test]
fn kubernetes_own_words_for_pods() {
    let table = [
        (
            container(&json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "no such image x:1" } } })),
            "ImagePullBackOff",
            "no such image x:1",
        ),
        (
            container(
                &json!({ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling x:1" } } }),
            ),
            "ImagePullBackOff",
            "x:1",
        ),
        (
            container(
                &json!({ "state": { "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"aws\" not found" } } }),
            ),
            "CreateContainerConfigError",
            "secret \"aws\"",
        ),
        (
            container(
                &json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }),
            ),
            "CrashLoopBackOff",
            "exit code 1",
        ),
        (
            container(
                &json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }),
            ),
            "OOMKilled",
            "limits.memory",
        ),
        (
            server(&json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "no such image vllm:1" } } })),
            "ImagePullBackOff",
            "no such image vllm:1",
        ),
        (
            server(
                &json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": { "exitCode": 2, "reason": "Error" } } }),
            ),
            "CrashLoopBackOff",
            "container server ended with exit code 2 and was restarted 3 times; see `kubectl logs --previous -c server`",
        ),
        (
            server(
                &json!({ "state": { "running": {} }, "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }),
            ),
            "OOMKilled",
            "spec.model.server.container.resources.limits.memory",
        ),
        (
            json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." }] }),
            "Unschedulable",
            "Insufficient nvidia.com/gpu",
        ),
        (json!({ "phase": "Failed", "reason": "Evicted", "message": "low on disk" }), "Evicted", "low on disk"),
    ];
    for (pod_status, reason, words) in table {
        let mut trouble = seen(4, 0);
        let pods = if pod_status["phase"] == "Failed" { &mut trouble.ended } else { &mut trouble.pods };
        *pods = vec![pod(&pod_status)];
        let status = of(&trouble);
        assert_eq!(word(&status, "WorkersAvailable"), format!("False/{reason}"));
        assert_eq!(word(&status, "Ready"), format!("False/{reason}"));
        assert_eq!(word(&status, "Reconciling"), "", "{reason}");
        assert!(message(&status, "WorkersAvailable").contains(words), "{}", message(&status, "WorkersAvailable"));
        let mut some = trouble.clone();
        some.deployment = seen(4, 3).deployment;
        let ready = pod(&json!({ "conditions": [{ "type": "Ready", "status": "True" }] }));
        some.pods.extend(std::iter::repeat_n(ready, 3));
        assert_eq!(word(&of(&some), "Ready"), "True/AsExpected", "the others work");
        assert_eq!(word(&of(&some), "WorkersAvailable"), format!("False/{reason}"));
    }
}

#[test]
fn a_pull_of_the_model_is_told_from_one_of_the_worker() {
    for (reference, message, of_model) in [
        ("registry/sdxl:1", "Back-off pulling image \"registry/sdxl:1\": ErrImagePull: not found", true),
        ("sdxl", "failed to pull and unpack image \"docker.io/library/sdxl:latest\": not found", true),
        ("registry/sdxl:1", "image pull failed for registry/sdxl:1 because the registry is unavailable: 503", true),
        ("sdxl:1", "Container image \"sdxl:1\" is not present with pull policy of Never", true),
        ("sdxl:1", "Back-off pulling image \"worker-sdxl:1\"", false),
        ("sdxl:1", "Back-off pulling image \"sdxl:12\"", false),
        ("sdxl:1", "secret \"aws\" not found", false),
    ] {
        let state = json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": message } } });
        let mut waiting = (*pod(&container(&state))).clone();
        let volumes =
            json!({ "containers": [], "volumes": [{ "name": "models", "image": { "reference": reference } }] });
        waiting.spec = serde_json::from_value(volumes).unwrap();
        let mut trouble = seen(4, 0);
        trouble.pods = vec![Arc::new(waiting)];
        let words = self::message(&of(&trouble), "WorkersAvailable");
        assert!(words.contains(message), "{words}");
        assert_eq!(words.contains("spec.model.source.image"), of_model, "{words}");
    }
}

#[test]
fn a_pod_that_is_on_its_way_is_no_trouble() {
    let mut starting = seen(4, 0);
    starting.pods = vec![pod(&container(&json!({ "state": { "waiting": { "reason": "ContainerCreating" } } })))];
    assert_eq!(word(&of(&starting), "Ready"), "True/WorkersStarting");
}

#[test]
fn a_quota_is_named() {
    let mut refused = seen(4, 0);
    let mut deployment = refused.deployment.as_deref().unwrap().clone();
    deployment.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
        { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: gpus" }
    ]))
    .unwrap();
    refused.deployment = Some(Arc::new(deployment));
    let status = of(&refused);
    assert_eq!(word(&status, "WorkersAvailable"), "False/FailedCreate");
    assert!(message(&status, "Ready").contains("exceeded quota: gpus"));
}

#[test]
fn a_worker_s_problem_degrades_and_keeps_unready_when_nobody_is_ready() {
    let state = json!({ "worker": "sdxl-1", "ready": false, "draining": false, "capacity": 1, "busy": 0, "completed": 0, "failed": 0,
        "problems": [{ "reason": "ModelFileMissing", "message": "unet/config.json is not in s3://models/x/", "since": "" }] });
    let worker =
        Worker { pod: "sdxl-1".into(), report: Report::State(Box::new(serde_json::from_value(state).unwrap())) };
    let mut broken = seen(4, 0);
    broken.workers = vec![worker.clone()];
    let status = of(&broken);
    for kind in ["Ready", "WorkersAvailable"] {
        assert_eq!(word(&status, kind), "False/ModelFileMissing", "{kind}");
        assert!(message(&status, kind).contains("unet/config.json"), "{kind}");
    }
    assert_eq!(word(&status, "Degraded"), "True/ModelFileMissing");
    let mut partly = seen(4, 3);
    partly.workers = vec![worker];
    assert_eq!(word(&of(&partly), "Ready"), "True/AsExpected");
    assert_eq!(word(&of(&partly), "Degraded"), "True/ModelFileMissing");
}

#[test]
fn a_queue_that_cannot_be_read_stops_scaling_and_keeps_the_counts() {
    let mut lost = seen(4, 4);
    lost.reading.depth = Err(QueueError::NotFound { queue: "prompts".into(), place: "AWS region us-east-1".into() });
    let before = of(&seen(4, 4));
    let outcome = done(&lost, Applied::default());
    let status = compute(&with(&[scaling()]), &lost, &outcome, &before, None, Timestamp::UNIX_EPOCH);
    for kind in ["Ready", "QueueAccessible", "ScalingActive"] {
        assert_eq!(word(&status, kind), "False/QueueNotFound", "{kind}");
    }
    assert_eq!(word(&status, "Stalled"), "True/QueueNotFound");
    assert!(message(&status, "QueueAccessible").contains("queue prompts does not exist at AWS region us-east-1"));
    assert_eq!((status.desired_replicas, status.queue), (4, before.queue));
    let mut throttled = lost.clone();
    throttled.reading.depth = Err(QueueError::Throttled { queue: "prompts".into(), detail: "slow".into() });
    assert_eq!(word(&of(&throttled), "Stalled"), "", "that passes by itself");
    let mut fresh = seen(0, 0);
    fresh.reading.depth = Err(QueueError::NotReadYet);
    assert_eq!(word(&of(&fresh), "Ready"), "Unknown/NotReadYet");
}

#[test]
fn an_invalid_spec_names_every_field() {
    let consumer = with(&[
        ("/spec/queue/url", json!("http://localstack:4566/000000000000/q")),
        ("/spec/output/keyTemplate", json!("{job}")),
    ]);
    let mut unread = seen(2, 2);
    unread.reading.depth = Err(QueueError::NotReadYet);
    let outcome = Outcome::Invalid(validate(&consumer).unwrap_err());
    let status = status(&unread, &outcome);
    for kind in ["Ready", "ScalingActive"] {
        assert_eq!(word(&status, kind), "False/InvalidSpec", "{kind}");
    }
    assert_eq!(word(&status, "Stalled"), "True/InvalidSpec");
    assert_eq!(word(&status, "WorkersAvailable"), "True/AsExpected", "the workers of before go on");
    for field in ["spec.queue.region", "spec.output.keyTemplate"] {
        assert!(message(&status, "Ready").contains(field), "{}", message(&status, "Ready"));
    }
}

#[test]
fn a_taken_name_and_a_refusal_are_told() {
    let here = seen(0, 0);
    let Outcome::Done(decision, ..) = done(&here, Applied::default()) else { panic!("not done") };
    let taken = ApplyError::NameTaken { kind: "Deployment", name: "sdxl".into() };
    let status = status(&here, &Outcome::Failed(decision.clone(), taken));
    assert_eq!(word(&status, "Ready"), "False/NameTaken");
    assert_eq!(word(&status, "Stalled"), "True/NameTaken");
    let refused =
        ApplyError::Refused { kind: "Deployment", name: "sdxl".into(), message: "spec.x: Invalid value".into() };
    let status = self::status(&here, &Outcome::Failed(decision, refused));
    assert_eq!(word(&status, "Ready"), "False/ApplyFailed");
    assert!(message(&status, "Ready").contains("spec.x: Invalid value"));
}

#[test]
fn times_move_only_with_the_status_of_a_condition() {
    let (before, later) = (of(&seen(4, 4)), Timestamp::from_second(99).unwrap());
    let again = seen(4, 4);
    let consumer = with(&[scaling()]);
    assert_eq!(
        compute(&consumer, &again, &done(&again, Applied::default()), &before, None, later),
        before,
        "nothing new: nothing to write"
    );
    let mut trouble = seen(4, 0);
    trouble.ended = vec![pod(&json!({ "phase": "Failed", "reason": "Evicted" }))];
    let after = compute(&consumer, &trouble, &done(&trouble, Applied::default()), &before, None, later);
    let time = |kind: &str| after.conditions.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.0;
    assert_eq!(time("Ready"), later);
    assert_eq!(time("QueueAccessible"), Timestamp::UNIX_EPOCH);
    assert!(after.conditions.iter().all(|c| c.observed_generation == Some(3)));
}

#[test]
fn the_last_scale_is_kept_until_the_next() {
    let here = seen(4, 4);
    let Outcome::Done(decision, ..) = done(&here, Applied::default()) else { panic!("not done") };
    let (time, message) = (Time(Timestamp::UNIX_EPOCH), decision.message.clone());
    let scale = LastScale { time, from: 0, to: 4, reason: "MessagesPerReplica".into(), message };
    let refused = ApplyError::Refused { kind: "PodDisruptionBudget", name: "sdxl".into(), message: "no".into() };
    let before = QueueConsumerStatus::default();
    let outcome = Outcome::Failed(decision, refused);
    let scaled = compute(&with(&[scaling()]), &here, &outcome, &before, Some(&scale), Timestamp::UNIX_EPOCH);
    assert_eq!((scaled.last_scale.as_ref(), scaled.desired_replicas), (Some(&scale), 4), "whatever failed after it");
    let outcome = done(&here, Applied::default());
    let after = compute(&with(&[scaling()]), &here, &outcome, &scaled, None, Timestamp::UNIX_EPOCH);
    assert_eq!(after.last_scale, scaled.last_scale);
}

#[test]
fn the_count_is_the_one_that_was_written() {
    let stale = seen(0, 0);
    let moved = status(&stale, &done(&stale, Applied { moved: true, ..Applied::default() }));
    assert_eq!(moved.desired_replicas, 7, "the live count stayed");
    assert!(message(&moved, "WorkersAvailable").contains("0 of 7"), "{moved:?}");
    let Outcome::Done(decision, ..) = done(&stale, Applied::default()) else { panic!("not done") };
    let refused = ApplyError::Refused { kind: "Deployment", name: "sdxl".into(), message: "no".into() };
    let failed =
        compute(&with(&[scaling()]), &stale, &Outcome::Failed(decision, refused), &moved, None, Timestamp::UNIX_EPOCH);
    assert_eq!(failed.desired_replicas, 7, "nothing was changed");
}

#[test]
fn a_new_count_is_no_rollout() {
    let with_status = |generation: i64, updated: i32| {
        let mut seen = seen(4, 4);
        let mut deployment = seen.deployment.as_deref().unwrap().clone();
        deployment.metadata.generation = Some(generation);
        deployment.status.as_mut().unwrap().updated_replicas = Some(updated);
        seen.deployment = Some(Arc::new(deployment));
        seen
    };
    let scaled = with_status(2, 4);
    assert!(scaled.rolling(), "it might be one: no scale-down yet");
    assert_eq!(word(&of(&scaled), "Reconciling"), "");
    assert_eq!(word(&of(&with_status(1, 3)), "Reconciling"), "True/RolloutInProgress");
}

#[test]
fn a_crash_loop_has_one_word_in_all_its_states() {
    let last = json!({ "terminated": { "exitCode": 2, "reason": "Error" } });
    for state in [
        json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
        json!({ "running": {} }),
        json!({ "terminated": { "exitCode": 2, "reason": "Error" } }),
    ] {
        let mut looping = seen(4, 0);
        looping.pods = vec![pod(&container(&json!({ "state": state, "lastState": last })))];
        let status = of(&looping);
        assert_eq!(word(&status, "WorkersAvailable"), "False/CrashLoopBackOff", "{state}");
        assert!(message(&status, "Ready").contains("exit code 2"), "{state}");
    }
    let mut once = seen(4, 0);
    once.pods = vec![pod(&container(&json!({ "restartCount": 1, "state": { "running": {} }, "lastState": last })))];
    assert_eq!(word(&of(&once), "WorkersAvailable"), "True/WorkersStarting", "once is no loop");
}

#[tokio::test]
async fn a_status_is_one_apply_of_the_subresource_onto_the_very_object() {
    let (service, mut server) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
    let client = Client::new(service, "demo");
    let answers = tokio::spawn(async move {
        let (request, send) = server.next_request().await.unwrap();
        assert_eq!(request.method(), http::Method::PATCH);
        let path = "/apis/millrace.dev/v1alpha1/namespaces/demo/queueconsumers/sdxl/status";
        assert_eq!(request.uri().path(), path);
        assert_eq!(request.uri().query(), Some("&force=true&fieldManager=millrace-operator"));
        let body: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        assert_eq!((&body["metadata"]["uid"], &body["status"]["desiredReplicas"]), (&json!("uid-1"), &json!(4)));
        send.send_response(http::Response::new(Body::from(serde_json::to_vec(&*with(&[])).unwrap())));
        for (code, reason) in [(404, "NotFound"), (409, "Conflict"), (500, "InternalError")] {
            let (_, send) = server.next_request().await.unwrap();
            let failure =
                json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "m" });
            let body = Body::from(serde_json::to_vec(&failure).unwrap());
            send.send_response(http::Response::builder().status(code).body(body).unwrap());
        }
    });
    let (consumer, status) = (with(&[]), of(&seen(4, 4)));
    write(&client, &consumer, &status).await.unwrap();
    assert!(write(&client, &consumer, &status).await.is_ok(), "deleted since: nobody to tell");
    for _ in ["a conflict", "a failure"] {
        assert_eq!(write(&client, &consumer, &status).await.unwrap_err().reason(), "StatusNotWritten");
    }
    answers.await.unwrap();
}
