//! Requests to workers: `GET /state` of each that runs, and signed requests to drain.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
pub(crate) use millrace_api::DrainOrder as Order;
use millrace_api::{Activity, DRAIN_PATH, DRAIN_SIGNATURE_HEADER, DRAIN_TIME_HEADER, WorkerState};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Report, Worker};
use crate::build::names::{CONTAINER, PORT};
use crate::retire::Signer;

/// Time for all answers together.
const ANSWERS: Duration = Duration::from_secs(1);
/// Time for the answer to a request to drain: the worker may have to read its key anew.
const DRAIN_ANSWER: Duration = Duration::from_secs(2);
/// How long a worker holds a question about its next activity.
pub(super) const WAIT: Duration = Duration::from_secs(20);
/// Workers that are asked at the same time.
const CONCURRENCY: usize = 32;
/// A state with a thousand jobs is about a quarter of this.
const MAX_BYTES: usize = 1 << 20;

/// A worker did not take an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrainError {
    /// There is no key, or nobody to ask.
    #[error("it cannot be asked to drain")]
    Impossible,
    /// No answer that can be read.
    #[error("it does not answer on {DRAIN_PATH}")]
    Silent,
    /// Its image is older than the request.
    #[error("its image does not know {DRAIN_PATH}")]
    Unknown,
    /// It does not trust the request: its clock, or its copy of the public key, is another one.
    #[error("it refuses to drain with {status}: {words}")]
    Refused { status: u16, words: String },
}

/// Asks workers.
#[derive(Clone)]
pub(crate) struct WorkerClient {
    http: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
    signer: Option<Arc<Signer>>,
}

impl Default for WorkerClient {
    fn default() -> Self {
        Self::on_port(PORT)
    }
}

impl WorkerClient {
    /// One that signs what it tells workers, where there is a key.
    pub(crate) fn new(signer: Option<Signer>) -> Self {
        Self { signer: signer.map(Arc::new), ..Self::default() }
    }

    #[cfg(test)]
    pub(crate) fn signing_on_port(port: u16, signer: Signer) -> Self {
        Self { signer: Some(Arc::new(signer)), ..Self::on_port(port) }
    }

    pub(super) fn on_port(port: u16) -> Self {
        // No connection is kept: pods come and go, and each is asked every few seconds at most.
        Self { http: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http(), port, signer: None }
    }

    /// Whether workers can be asked to drain.
    pub(crate) fn signs(&self) -> bool {
        self.signer.is_some()
    }

    /// Asks all of them at once; whoever has not answered in time is silent.
    pub(crate) async fn ask(&self, pods: &[Arc<Pod>]) -> Vec<Worker> {
        let deadline = Instant::now() + ANSWERS;
        let asked = stream::iter(pods.to_vec()).map(|pod| async move {
            let report = match address(&pod) {
                None => Report::NotRunning,
                Some(ip) => match timeout_at(deadline, self.get(ip, "/state")).await {
                    Ok(Some(state)) => Report::State(Box::new(state)),
                    Ok(None) | Err(_) => Report::Silent,
                },
            };
            Worker { pod: pod.name_any(), report }
        });
        asked.buffered(CONCURRENCY).collect().await
    }

    /// A worker's state once its activity is another one, or after [`WAIT`]; at once where none is known.
    pub(super) async fn change(&self, ip: IpAddr, known: Option<Activity>) -> Option<WorkerState> {
        let path = known.map_or_else(
            || "/state".to_owned(),
            |known| format!("/state?unless={}&wait={}", known.word(), WAIT.as_secs()),
        );
        timeout(WAIT + ANSWERS, self.get(ip, &path)).await.ok()?
    }

    /// Tells a worker to drain, or to take jobs again. Returns its state after that.
    pub(crate) async fn tell(&self, pod: &Pod, order: Order) -> Result<WorkerState, DrainError> {
        let (Some(signer), Some(ip)) = (&self.signer, address(pod)) else { return Err(DrainError::Impossible) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let method = order.method();
        let signature = signer.sign(method, &pod.name_any(), milliseconds);
        let uri = self.uri(ip, DRAIN_PATH).ok_or(DrainError::Impossible)?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(DRAIN_TIME_HEADER, milliseconds)
            .header(DRAIN_SIGNATURE_HEADER, signature)
            .body(Empty::new())
            .map_err(|_| DrainError::Impossible)?;
        let answered = timeout(DRAIN_ANSWER, self.send(request)).await;
        let (status, body) = answered.ok().flatten().ok_or(DrainError::Silent)?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|_| DrainError::Silent),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(DrainError::Unknown),
            status => {
                let words = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
                Err(DrainError::Refused { status: status.as_u16(), words })
            }
        }
    }

    async fn get(&self, ip: IpAddr, path: &str) -> Option<WorkerState> {
        let request = Request::builder().uri(self.uri(ip, path)?).body(Empty::new()).ok()?;
        let (status, body) = self.send(request).await?;
        status.is_success().then(|| serde_json::from_slice(&body).ok())?
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Option<(StatusCode, Bytes)> {
        let answer = self.http.request(request).await.ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.ok()?.to_bytes();
        Some((status, body))
    }

    fn uri(&self, ip: IpAddr, path: &str) -> Option<Uri> {
        let authority = std::net::SocketAddr::new(ip, self.port).to_string();
        Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()
    }
}

/// Where a pod whose worker runs can be asked.
pub(super) fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|c| c.name == CONTAINER)?;
    container.state.as_ref()?.running.as_ref()?;
    status.pod_ip.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::{HeaderMap, Method};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::retire::{drain_key, verifies};

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
    #[tokio::test]
    async fn an_order_is_signed_for_one_worker_and_one_time() {
        let (signer, public_key) = drain_key();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let check = move |method: Method, headers: HeaderMap| async move {
            let time: i64 = headers[DRAIN_TIME_HEADER].to_str().unwrap().parse().unwrap();
            let signature = STANDARD.decode(headers[DRAIN_SIGNATURE_HEADER].as_bytes()).unwrap();
            let text = millrace_api::drain_text(method.as_str(), "a", time);
            if !verifies(&public_key, &text, &signature) {
                return (StatusCode::FORBIDDEN, "the signature is wrong\n".to_owned());
            }
            let draining = method == Method::POST;
            let state = WorkerState { draining, worker: "a".into(), ..WorkerState::default() };
            (StatusCode::OK, serde_json::to_string(&state).unwrap())
        };
        let app = Router::new().route("/drain", axum::routing::post(check.clone()).delete(check));
        tokio::spawn(async move { axum::serve(listener, app).await });

        let client = WorkerClient::signing_on_port(port, signer);
        let worker = pod("a", "127.0.0.1", "running");
        assert!(client.tell(&worker, Order::Drain).await.unwrap().draining);
        assert!(!client.tell(&worker, Order::Resume).await.unwrap().draining);
        let refused = client.tell(&pod("b", "127.0.0.1", "running"), Order::Drain).await.unwrap_err();
        assert_eq!(refused.to_string(), "it refuses to drain with 403: the signature is wrong");
        let gone = client.tell(&pod("a", "::1", "running"), Order::Drain).await.unwrap_err();
        assert_eq!(gone, DrainError::Silent);
        let waiting = client.tell(&pod("a", "127.0.0.1", "waiting"), Order::Drain).await.unwrap_err();
        assert_eq!(waiting, DrainError::Impossible);
    }

    #[tokio::test]
    async fn an_older_image_knows_no_drain() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/state", get(async || "{}"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = WorkerClient::signing_on_port(port, drain_key().0);
        let answer = client.tell(&pod("a", "127.0.0.1", "running"), Order::Drain).await;
        assert_eq!(answer.unwrap_err(), DrainError::Unknown);
    }
}
