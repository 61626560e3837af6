//! Probes, state and metrics over HTTP.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

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

/// Loaded, inferred once, not draining. Says why not.
async fn readyz(Shared(faces): Shared<Faces>) -> Response {
    if faces.state.is_ready() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let mut why = if faces.state.snapshot().draining { "draining\n" } else { "not loaded yet\n" }.to_owned();
    for problem in faces.state.problems() {
        // writing to a String cannot fail
        let _ = writeln!(why, "{}: {}", problem.reason, problem.message);
    }
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn state(Shared(faces): Shared<Faces>) -> Response {
    Json(faces.state.snapshot()).into_response()
}

async fn metrics(Shared(faces): Shared<Faces>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], faces.metrics.encode()).into_response()
}
