//! Two candidates against an API server that keeps one lease and refuses stale writes.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;

use super::*;

/// The API server's side: the lease, its version, and whether the server answers at all.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
    silent: bool,
    refuse_next_write: bool,
}

type Shared = Arc<Mutex<Server>>;

fn failure(code: u16, reason: &str) -> (u16, Vec<u8>) {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"{reason}","code":{code},"message":"m"}}"#
    );
    (code, body.into_bytes())
}

fn answer(server: &mut Server, method: &Method, body: &[u8]) -> (u16, Vec<u8>) {
    if *method == Method::GET {
        return match &server.lease {
            Some(lease) => (200, serde_json::to_vec(lease).unwrap()),
            None => failure(404, "NotFound"),
        };
    }
    let mut lease: Lease = serde_json::from_slice(body).unwrap();
    if *method == Method::POST && server.lease.is_some() {
        return failure(409, "AlreadyExists");
    }
    let current = server.lease.as_ref().and_then(|l| l.metadata.resource_version.clone());
    if std::mem::take(&mut server.refuse_next_write) || lease.metadata.resource_version != current {
        return failure(409, "Conflict");
    }
    server.version += 1;
    lease.metadata.resource_version = Some(server.version.to_string());
    server.lease = Some(lease.clone());
    (200, serde_json::to_vec(&lease).unwrap())
}

fn elector(server: &Shared, name: &str) -> Elector {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            if server.lock().unwrap().silent {
                std::future::pending::<()>().await;
            }
            let method = request.method().clone();
            let body = request.into_body().collect_bytes().await.unwrap();
            let (code, body) = answer(&mut server.lock().unwrap(), &method, &body);
            Ok::<_, kube::Error>(Response::builder().status(code).body(Body::from(body)).unwrap())
        }
    });
    Elector::new(Client::new(service, "millrace"), "millrace", name)
}

fn spec(server: &Shared) -> LeaseSpec {
    server.lock().unwrap().lease.clone().unwrap().spec.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_makes_the_lease_and_the_second_waits_for_its_whole_duration() {
    let server = Shared::default();
    let (mut a, mut b) = (elector(&server, "a"), elector(&server, "b"));
    assert!(a.attempt().await.unwrap());
    assert!(!b.attempt().await.unwrap());
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(!b.attempt().await.unwrap());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(b.attempt().await.unwrap(), "a silent holder is replaced");
    assert_eq!(spec(&server).lease_transitions, Some(1));
    assert!(!a.attempt().await.unwrap(), "the former holder sees that");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_keeps_the_time_of_acquisition_and_restarts_the_others_wait() {
    let server = Shared::default();
    let (mut a, mut b) = (elector(&server, "a"), elector(&server, "b"));
    assert!(a.attempt().await.unwrap());
    let first = spec(&server);
    assert!(!b.attempt().await.unwrap());
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(a.attempt().await.unwrap());
    assert_eq!(spec(&server).acquire_time, first.acquire_time);
    assert_eq!(spec(&server).lease_transitions, Some(0));
    assert!(!b.attempt().await.unwrap());
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(!b.attempt().await.unwrap(), "12 s after the first sight, but 6 s after the renewal");
}

#[tokio::test(start_paused = true)]
async fn a_race_for_a_free_lease_is_lost_by_the_stale_write() {
    let server = Shared::default();
    let (mut a, mut b) = (elector(&server, "a"), elector(&server, "b"));
    assert!(a.attempt().await.unwrap());
    a.release().await;
    assert_eq!(spec(&server).holder_identity.as_deref(), Some(""));
    server.lock().unwrap().refuse_next_write = true;
    assert!(!b.attempt().await.unwrap());
    assert!(b.attempt().await.unwrap(), "a released lease is free at once");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_another_may_start() {
    let server = Shared::default();
    let mut a = elector(&server, "a");
    let acquired = a.acquire(&CancellationToken::new()).await.unwrap();
    server.lock().unwrap().silent = true;
    // Time that goes by before the first renewal counts as well.
    tokio::time::advance(Duration::from_secs(6)).await;
    let lost = a.hold(acquired, &CancellationToken::new()).await.unwrap_err();
    assert!(lost.to_string().contains("did not answer in time"), "{lost}");
    assert!(acquired.elapsed() < RENEW_DEADLINE + Duration::from_secs(1), "{:?}", acquired.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_releases() {
    let server = Shared::default();
    let (mut a, mut b) = (elector(&server, "a"), elector(&server, "b"));
    assert!(a.attempt().await.unwrap());
    b.release().await;
    assert_eq!(spec(&server).holder_identity, Some(a.identity.clone()));
}
