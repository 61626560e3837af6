//! /healthz, /readyz and /metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether this replica can do its part: it waits for the lease, or holds it and knows the cluster's state.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Scopes that are not listed yet.
    missing: AtomicUsize,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { missing: AtomicUsize::new(1) }
    }
}

impl Readiness {
    /// From now on so many scopes must be listed; none while waiting for the lease.
    pub(crate) fn needs(&self, scopes: usize) {
        self.missing.store(scopes, Ordering::Relaxed);
    }

    /// One of them is.
    pub(crate) fn listed(&self) {
        self.missing.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.missing.load(Ordering::Relaxed) == 0
    }
}

#[derive(Clone)]
struct Faces {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = router(Faces { metrics, readiness });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(faces: Faces) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(faces)
}

async fn readyz(State(faces): State<Faces>) -> (StatusCode, &'static str) {
    if faces.readiness.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects are not listed yet\n")
    }
}

async fn metrics(State(faces): State<Faces>) -> Response {
    match faces.metrics.encode() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn status(faces: &Faces, path: &str) -> StatusCode {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router(faces.clone()).oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn ready_only_when_told_and_alive_always() {
        let faces = Faces { metrics: Arc::default(), readiness: Arc::default() };
        assert_eq!(status(&faces, "/healthz").await, StatusCode::OK);
        assert_eq!(status(&faces, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        faces.readiness.needs(2);
        faces.readiness.listed();
        assert_eq!(status(&faces, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE, "one of two");
        faces.readiness.listed();
        assert_eq!(status(&faces, "/readyz").await, StatusCode::OK);
        assert_eq!(status(&faces, "/metrics").await, StatusCode::OK);
    }
}
