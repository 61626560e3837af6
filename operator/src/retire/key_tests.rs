//! The Secret's life, at an API server that keeps one.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// The API server's side: the Secret, what was asked, and what happens before a create.
#[derive(Default)]
struct Server {
    secret: Option<Value>,
    calls: Vec<String>,
    /// Somebody else's, who is a moment faster.
    faster: Option<Value>,
    forbidden: bool,
    /// So many answers are that it is away.
    away: usize,
}

type Shared = Arc<Mutex<Server>>;

fn answer(server: &mut Server, method: &Method, uri: &str, body: &[u8]) -> (u16, Value) {
    server.calls.push(format!("{method} {uri}"));
    let failure = |code: u16, reason: &str| {
        (code, json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "no" }))
    };
    if server.forbidden {
        return failure(403, "Forbidden");
    }
    if server.away > 0 {
        server.away -= 1;
        return failure(503, "ServiceUnavailable");
    }
    if *method == Method::GET {
        return server.secret.clone().map_or_else(|| failure(404, "NotFound"), |secret| (200, secret));
    }
    if let Some(faster) = server.faster.take() {
        server.secret = Some(faster);
        return failure(409, "AlreadyExists");
    }
    let secret: Value = serde_json::from_slice(body).unwrap();
    server.secret = Some(secret.clone());
    (201, secret)
}

fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let (code, answer) = answer(&mut server.lock().unwrap(), &parts.method, &parts.uri.to_string(), &body);
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "millrace-system")
}

const PATH: &str = "/api/v1/namespaces/millrace-system/secrets";

#[tokio::test]
async fn the_first_leader_makes_the_key_and_the_next_one_finds_it() {
    let server = Shared::default();
    let first = load(&client(&server), Some("millrace-system")).await.unwrap();
    let next = load(&client(&server), Some("millrace-system")).await.unwrap();
    assert_eq!(first.public_key(), next.public_key());
    let get = format!("GET {PATH}/{SECRET}");
    let server = server.lock().unwrap();
    assert_eq!(server.calls, [get.clone(), format!("POST {PATH}?&fieldManager=millrace-operator"), get]);
    let secret = server.secret.as_ref().unwrap();
    assert_eq!((&secret["type"], &secret["metadata"]["name"]), (&json!("Opaque"), &json!(SECRET)));
    let signature = STANDARD.decode(next.sign("POST", "sdxl-1", 7)).unwrap();
    assert!(verifies(&first.public_key(), &drain_text("POST", "sdxl-1", 7), &signature));
    for other in [("DELETE", "sdxl-1", 7), ("POST", "sdxl-2", 7), ("POST", "sdxl-1", 8)] {
        assert!(!verifies(&first.public_key(), &drain_text(other.0, other.1, other.2), &signature), "{other:?}");
    }
}

#[tokio::test]
async fn of_two_that_make_one_both_use_the_first() {
    let theirs = Shared::default();
    let other = load(&client(&theirs), Some("millrace-system")).await.unwrap();
    let server = Shared::default();
    server.lock().unwrap().faster = theirs.lock().unwrap().secret.take();
    let signer = load(&client(&server), Some("millrace-system")).await.unwrap();
    assert_eq!(signer.public_key(), other.public_key());
}

#[tokio::test]
async fn without_a_place_or_a_right_there_is_no_key() {
    let server = Shared::default();
    assert!(load(&client(&server), None).await.is_none());
    assert!(load(&client(&server), Some("")).await.is_none());
    assert_eq!(server.lock().unwrap().calls.len(), 0);
    server.lock().unwrap().forbidden = true;
    assert!(load(&client(&server), Some("millrace-system")).await.is_none());
    assert_eq!(server.lock().unwrap().calls.len(), 1, "a refusal is not repeated");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = Shared::default();
    server.lock().unwrap().away = 40;
    assert!(load(&client(&server), Some("millrace-system")).await.is_some());
    assert_eq!(server.lock().unwrap().calls.len(), 42);
}

#[tokio::test]
async fn a_secret_that_holds_something_else_is_left_as_it_is() {
    let server = Shared::default();
    let secret = json!({ "metadata": { "name": SECRET }, "data": { "pkcs8": STANDARD.encode("mine") } });
    server.lock().unwrap().secret = Some(secret.clone());
    let error = read_or_make(&client(&server), Some("millrace-system")).await.err().unwrap();
    assert!(error.to_string().contains("delete it, and restart the operator"), "{error}");
    assert_eq!(server.lock().unwrap().secret, Some(secret));
}
