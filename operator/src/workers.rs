//! Asks workers for their own view: `GET /state` of each that runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use millrace_api::WorkerState;
use tokio::time::{Instant, timeout_at};

use crate::build::names::{CONTAINER, PORT};

/// Time for all answers together.
const ANSWERS: Duration = Duration::from_secs(1);
/// Workers that are asked at the same time.
const CONCURRENCY: usize = 32;
/// A state with a thousand jobs is about a quarter of this.
const MAX_BYTES: usize = 1 << 20;

/// A worker pod and what it said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Worker {
    /// The pod's name.
    pub(crate) pod: String,
    /// What it said.
    pub(crate) report: Report,
}

/// What a worker said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    /// Its own view.
    State(Box<WorkerState>),
    /// It runs, and did not answer.
    Silent,
    /// Its container does not run, so it holds nothing.
    NotRunning,
}

impl Worker {
    /// Its own view, where it gave one.
    pub(crate) fn state(&self) -> Option<&WorkerState> {
        match &self.report {
            Report::State(state) => Some(state),
            Report::Silent | Report::NotRunning => None,
        }
    }

    /// Its receives come back empty although it has free slots.
    pub(crate) fn receives_nothing(&self) -> bool {
        self.state().is_some_and(|state| state.ready && !state.draining && state.empty_since.is_some())
    }

    /// It holds jobs, or that cannot be excluded.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.report {
            Report::State(state) => state.busy > 0,
            Report::Silent => true,
            Report::NotRunning => false,
        }
    }
}

/// Asks workers.
#[derive(Debug, Clone)]
pub(crate) struct WorkerClient {
    http: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
}

impl Default for WorkerClient {
    fn default() -> Self {
        Self::on_port(PORT)
    }
}

impl WorkerClient {
    fn on_port(port: u16) -> Self {
        // No connection is kept: pods come and go, and each is asked every few seconds at most.
        Self { http: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http(), port }
    }

    /// Asks all of them at once; whoever has not answered in time is silent.
    pub(crate) async fn ask(&self, pods: &[Arc<Pod>]) -> Vec<Worker> {
        let deadline = Instant::now() + ANSWERS;
        let asked = stream::iter(pods.to_vec()).map(|pod| async move {
            let report = match address(&pod) {
                None => Report::NotRunning,
                Some(ip) => match timeout_at(deadline, self.state(ip)).await {
                    Ok(Some(state)) => Report::State(Box::new(state)),
                    Ok(None) | Err(_) => Report::Silent,
                },
            };
            Worker { pod: pod.name_any(), report }
        });
        asked.buffered(CONCURRENCY).collect().await
    }

    async fn state(&self, ip: IpAddr) -> Option<WorkerState> {
        let authority = std::net::SocketAddr::new(ip, self.port).to_string();
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/state").build().ok()?;
        let answer = self.http.get(uri).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }
}

/// Where a pod whose worker runs can be asked.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|c| c.name == CONTAINER)?;
    container.state.as_ref()?.running.as_ref()?;
    status.pod_ip.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn pod(name: &str, ip: &str, state: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": { "name": name },
            "status": { "podIP": ip, "containerStatuses": [
                { "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { state: {} } }
            ] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[tokio::test]
    async fn who_runs_is_asked_and_who_does_not_answer_counts_as_busy() {
        let body = r#"{"worker":"a","ready":true,"draining":false,"capacity":4,"busy":0,"completed":3,"failed":0}"#;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/state", get(async move || body));
        tokio::spawn(async move { axum::serve(listener, app).await });

        let pods = [pod("a", "127.0.0.1", "running"), pod("b", "127.0.0.2", "waiting"), pod("c", "::1", "running")];
        let workers = WorkerClient::on_port(port).ask(&pods).await;
        assert_eq!(workers.iter().map(|w| w.pod.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(workers[0].state().map(|s| s.capacity), Some(4));
        assert_eq!(workers.iter().map(Worker::is_busy).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(workers[1].report, Report::NotRunning);
        assert_eq!(workers[2].report, Report::Silent);
    }
}
