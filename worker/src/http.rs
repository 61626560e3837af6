//! Probes, state, drain and metrics over HTTP.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use millrace_api::{Activity, DRAIN_PATH};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::drain::{Drains, Order};
use crate::metrics::Metrics;
use crate::receive::Pulse;
use crate::state::State;

/// What the faces show.
#[derive(Debug, Clone)]
pub struct Faces {
    /// For `/readyz` and `/state`.
    pub state: Arc<State>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/livez`.
    pub pulse: Arc<Pulse>,
    /// For `/drain`.
    pub drains: Arc<Drains>,
}

/// Opens the port, on every address.
pub async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        // a machine without IPv6
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
        bound => bound,
    }
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, faces: Faces) -> std::io::Result<()> {
    axum::serve(listener, router(faces)).await
}

fn router(faces: Faces) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/state", get(state))
        .route(DRAIN_PATH, post(drain).delete(resume))
        .route("/metrics", get(metrics))
        .with_state(faces)
}

/// Progress, not just a socket: no poll of the queue hangs.
async fn livez(Shared(faces): Shared<Faces>) -> Response {
    if faces.pulse.is_alive() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a poll of the queue hangs\n").into_response()
    }
}

/// Loaded, inferred once, not stopping. Says why not.
async fn readyz(Shared(faces): Shared<Faces>) -> Response {
    let standing = faces.state.standing();
    if standing.ready() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let mut why = if standing.stopping { "stopping\n" } else { "not loaded yet\n" }.to_owned();
    for problem in faces.state.problems() {
        // writing to a String cannot fail
        let _ = writeln!(why, "{}: {}", problem.reason, problem.message);
    }
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// What `/state` may be asked to wait for.
#[derive(Debug, Default, Deserialize)]
struct Hang {
    /// The answer waits while the activity is this one.
    unless: Option<Activity>,
    /// Not for longer than this.
    #[serde(default)]
    wait: Wait,
}

/// How long an answer may wait: less than a client has patience for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Wait(Duration);

impl Default for Wait {
    fn default() -> Self {
        Self(Duration::from_secs(20))
    }
}

impl TryFrom<String> for Wait {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let seconds = text.parse().ok().filter(|seconds| (1..=25).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or("must be whole seconds from 1 to 25")
    }
}

/// At once, or as soon as the activity is another one than the asker knows of.
async fn state(Shared(faces): Shared<Faces>, Query(hang): Query<Hang>) -> Response {
    if let Some(known) = hang.unless {
        let mut standing = faces.state.watch();
        let changed = standing.wait_for(|standing| standing.activity() != known);
        // either way the answer is the state as it is by then
        let _ = tokio::time::timeout(hang.wait.0, changed).await;
    }
    Json(faces.state.snapshot()).into_response()
}

async fn drain(Shared(faces): Shared<Faces>, headers: HeaderMap) -> Response {
    obey(&faces, Order::Drain, &headers).await
}

async fn resume(Shared(faces): Shared<Faces>, headers: HeaderMap) -> Response {
    obey(&faces, Order::Resume, &headers).await
}

async fn obey(faces: &Faces, order: Order, headers: &HeaderMap) -> Response {
    match faces.drains.obey(order, headers, Timestamp::now()).await {
        Ok(()) => Json(faces.state.snapshot()).into_response(),
        Err(refusal) => (refusal.status(), format!("{refusal}\n")).into_response(),
    }
}

async fn metrics(Shared(faces): Shared<Faces>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], faces.metrics.encode()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::extract::rejection::QueryRejection;
    use axum::http::Uri;

    use super::*;

    fn faces() -> Faces {
        let config = "
consumer: { namespace: demo, name: echo }
queue: { url: 'http://localstack:4566/000000000000/prompts', region: us-east-1 }
model: { task: Echo }
output: { bucket: results }
";
        let config = crate::config::parse(config, "worker.yaml".as_ref()).unwrap();
        let state = Arc::new(State::new("w".into(), 1));
        Faces {
            metrics: Arc::new(Metrics::new(&config.worker)),
            pulse: Arc::default(),
            drains: Arc::new(Drains::new(Arc::clone(&state), None, config.path, Duration::from_mins(1))),
            state,
        }
    }

    fn hang(query: &str) -> Result<Query<Hang>, QueryRejection> {
        Query::try_from_uri(&Uri::try_from(format!("/state?{query}")).unwrap())
    }

    async fn activity(faces: &Faces, query: &str) -> Activity {
        let answer = state(Shared(faces.clone()), hang(query).unwrap()).await;
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<millrace_api::WorkerState>(&body).unwrap().activity
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_hangs_is_told_on_a_change_or_when_it_has_waited() {
        let faces = faces();
        let start = tokio::time::Instant::now();
        assert_eq!(activity(&faces, "").await, Activity::Starting);
        assert_eq!(activity(&faces, "unless=Idle&wait=20").await, Activity::Starting, "it differs already");
        assert!(start.elapsed().is_zero());
        assert_eq!(activity(&faces, "unless=Starting&wait=5").await, Activity::Starting);
        assert_eq!(start.elapsed().as_secs(), 5, "on the paused clock");

        let changes = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // nothing that the word tells of
            faces.state.begin_poll();
            tokio::time::sleep(Duration::from_secs(1)).await;
            faces.state.set_loaded();
        };
        let (changed, ()) = tokio::join!(activity(&faces, "unless=Starting"), changes);
        assert_eq!((changed, start.elapsed().as_secs()), (Activity::Idle, 7));
    }

    #[test]
    fn what_nobody_can_wait_for_is_refused() {
        for (query, accepted) in [
            ("unless=idle", "`Starting`, `Idle`, `Busy`, `Draining`, `Drained`"),
            ("unless=Idle&wait=0", "wait: must be whole seconds from 1 to 25"),
            ("unless=Idle&wait=26", "from 1 to 25"),
            ("unless=Idle&wait=soon", "from 1 to 25"),
        ] {
            let refused = hang(query).unwrap_err();
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{query}");
            let body = refused.body_text();
            assert!(body.contains(accepted), "{query}: {body}");
        }
    }
}
