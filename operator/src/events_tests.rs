//! Which Events a change of the status gives, in which order.

use std::sync::Arc;

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

fn status(conditions: &[(&str, &str, &str)]) -> QueueConsumerStatus {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status, reason)| {
            json!({ "type": kind, "status": status, "reason": reason, "message": format!("about {kind}"),
                "lastTransitionTime": "2026-11-23T00:00:00Z" })
        })
        .collect();
    serde_json::from_value(json!({ "readyReplicas": 4, "desiredReplicas": 4, "conditions": conditions })).unwrap()
}

fn reasons(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<String> {
    let outcome = Outcome::Invalid(Vec::new());
    let notes = notes("sdxl", &outcome, &status(before), &status(after));
    notes.into_iter().map(|n| format!("{}{}", if n.warning { "!" } else { "" }, n.reason)).collect()
}

#[test]
fn only_changes_are_told() {
    let same = [
        ("Ready", "False", "InvalidSpec"),
        ("QueueAccessible", "False", "QueueNotFound"),
        ("WorkersAvailable", "False", "Unschedulable"),
    ];
    assert!(reasons(&same, &same).is_empty());
    assert_eq!(reasons(&[], &same), ["!InvalidSpec", "!QueueNotFound", "!Unschedulable"]);
}

#[test]
fn a_queue_is_told_when_it_goes_and_when_it_is_back() {
    let good = [("QueueAccessible", "True", "AsExpected")];
    let gone = [("QueueAccessible", "False", "QueueNotFound")];
    let unread = [("QueueAccessible", "Unknown", "NotReadYet")];
    assert_eq!(reasons(&good, &gone), ["!QueueNotFound"]);
    assert_eq!(reasons(&gone, &good), ["QueueAccessible"]);
    assert_eq!(reasons(&unread, &good), ["QueueAccessible"]);
    assert!(reasons(&[], &unread).is_empty());
}

#[test]
fn workers_are_told_when_they_are_ready_and_when_they_cannot_be() {
    let starting = [("WorkersAvailable", "True", "WorkersStarting")];
    let ready = [("WorkersAvailable", "True", "AsExpected")];
    let zero = [("WorkersAvailable", "True", "ScaledToZero")];
    assert_eq!(reasons(&starting, &ready), ["WorkersReady"]);
    assert_eq!(reasons(&starting, &[("WorkersAvailable", "False", "ImagePullBackOff")]), ["!ImagePullBackOff"]);
    assert!(reasons(&ready, &zero).is_empty());
    assert!(reasons(&zero, &starting).is_empty());
}

#[test]
fn a_worker_s_problem_is_told_once() {
    let degraded = ("Degraded", "True", "ModelFileMissing");
    assert_eq!(reasons(&[], &[degraded]), ["!ModelFileMissing"]);
    let nobody = [("WorkersAvailable", "False", "ModelFileMissing"), degraded];
    assert_eq!(reasons(&[], &nobody), ["!ModelFileMissing"]);
}

#[test]
fn a_scale_is_told_once_whatever_else_failed() {
    let mut after = status(&[]);
    let scale = json!({ "time": "2026-11-23T00:00:00Z", "from": 0, "to": 4, "reason": "MessagesPerReplica", "message": "20 visible" });
    after.last_scale = serde_json::from_value(scale).unwrap();
    let outcome = Outcome::Invalid(Vec::new());
    let told = notes("sdxl", &outcome, &status(&[]), &after);
    assert_eq!(told[0].text, "Scaled from 0 to 4 workers: 20 visible");
    assert!(notes("sdxl", &outcome, &after, &after).is_empty());
}

#[test]
fn a_long_note_is_cut_at_a_character() {
    let text = shortened("é".repeat(2000));
    assert!(text.len() <= 1024 && text.ends_with('…'));
    assert_eq!(shortened("short".into()), "short");
}

#[tokio::test]
async fn an_event_that_comes_again_counts_up_and_few_are_remembered() {
    let methods = Arc::<Mutex<Vec<Method>>>::default();
    let told = Arc::clone(&methods);
    let service = tower::service_fn(move |request: Request<Body>| {
        let told = Arc::clone(&told);
        async move {
            let (parts, body) = request.into_parts();
            told.lock().unwrap().push(parts.method);
            Ok::<_, kube::Error>(Response::new(body))
        }
    });
    let recorder = Recorder::new(Client::new(service, "demo"), "test".into());
    let event = |number: u32| Event {
        type_: EventType::Normal,
        reason: "Scaled".into(),
        note: None,
        action: format!("ScaleFrom0To{number}"),
        secondary: None,
    };
    let about = ObjectReference { name: Some("sdxl".into()), namespace: Some("demo".into()), ..Default::default() };
    for number in [1, 1].into_iter().chain(2..REMEMBERED).chain([1]) {
        recorder.publish(&event(number), &about).await.unwrap();
    }
    let methods = methods.lock().unwrap();
    assert_eq!(methods[..2], [Method::POST, Method::PATCH]);
    assert_eq!((methods.len(), methods.last()), (REMEMBERED as usize + 1, Some(&Method::POST)), "it begins anew");
}
