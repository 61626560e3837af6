//! A model server that does what a job tells it to, for as often as the job says, and then answers.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::wait::until_true;

/// The path that it answers.
pub const PATH: &str = "/run";

/// What it saw, and how it stands.
#[derive(Debug, Default)]
pub struct Seen {
    /// Tries by job id.
    pub tries: HashMap<String, u32>,
    /// Requests that are under way, and the most that were.
    pub now: usize,
    pub most: usize,
    /// Requests that the other side gave up.
    pub dropped: usize,
    /// The last request's headers and body.
    pub last: Option<(HeaderMap, Bytes)>,
    /// What its health path answers, where that is not 200.
    pub sick: Option<u16>,
    /// Whether it knows no path but its health path.
    pub lost: bool,
    /// Requests that it bears at a time, where it has a limit.
    pub bears: Option<usize>,
}

/// A server that can be stopped and started again on its port.
#[derive(Debug)]
pub struct Stub {
    pub port: u16,
    pub seen: Arc<Mutex<Seen>>,
    /// Its own, so that all of its connections end with it.
    runtime: Option<Runtime>,
}

/// One request, from its first byte to its answer.
struct Visit(Arc<Mutex<Seen>>, bool);

impl Drop for Visit {
    fn drop(&mut self) {
        let mut seen = self.0.lock().unwrap();
        seen.now -= 1;
        seen.dropped += usize::from(!self.1);
    }
}

impl Stub {
    /// One that is up.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::default());
        let runtime = Some(serve(listener, Arc::clone(&seen)));
        Self { port, seen, runtime }
    }

    /// Ends it with every connection; what was under way is lost.
    pub async fn stop(&mut self) {
        self.end();
        let port = self.port;
        until_true("the server is gone", async || TcpStream::connect(("127.0.0.1", port)).is_err()).await;
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.runtime = Some(serve(listener, Arc::clone(&self.seen)));
    }

    /// How often it was asked for a job.
    pub fn tries(&self, job_id: &str) -> u32 {
        self.seen.lock().unwrap().tries.get(job_id).copied().unwrap_or_default()
    }

    /// `model` of a consumer that asks it.
    pub fn model(&self, more: Value) -> Value {
        let mut server = json!({ "port": self.port, "path": PATH });
        crate::program::merge(&mut server, more);
        json!({ "task": "Http", "server": server })
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(listener: TcpListener, seen: Arc<Mutex<Seen>>) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, Router::new().fallback(answer).with_state(seen)).await.unwrap();
    });
    runtime
}

/// A job's `answer` says what it gets: `{"status", "times", "retry_after", "milliseconds", "body", "repeat", "content_type",
/// "crash", "stall"}`. It stalls for so many milliseconds before the last of what it repeats, when it is asked for the first
/// time.
async fn answer(State(seen): State<Arc<Mutex<Seen>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let status = |code: u16| StatusCode::from_u16(code).unwrap();
    if uri.path() == "/health" {
        let sick = seen.lock().unwrap().sick;
        return sick.map_or(StatusCode::OK, status).into_response();
    }
    let job: Value = serde_json::from_slice(&body).unwrap_or_default();
    let id = headers.get("millrace-job-id").map(|id| id.to_str().unwrap().to_owned()).unwrap_or_default();
    let (tries, lost, busy, mut visit) = {
        let mut all = seen.lock().unwrap();
        let tries = all.tries.entry(id).or_default();
        *tries += 1;
        let tries = *tries;
        all.now += 1;
        all.most = all.most.max(all.now);
        all.last = Some((headers, body.clone()));
        (tries, all.lost, all.bears.is_some_and(|bears| all.now > bears), Visit(Arc::clone(&seen), false))
    };
    let told = &job["answer"];
    let milliseconds = told["milliseconds"].as_u64().unwrap_or_default();
    if !busy {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    let is_told = u64::from(tries) <= told["times"].as_u64().unwrap_or(u64::MAX);
    assert!(!(is_told && told["crash"] == true), "the connection is to end without an answer");
    visit.1 = true;
    drop(visit);
    if lost || uri.path() != PATH {
        return (StatusCode::NOT_FOUND, json!({ "detail": "Not Found" }).to_string()).into_response();
    }
    if busy {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    if !is_told || told.is_null() {
        return axum::Json(json!({ "echo": job, "tries": tries, "bytes": body.len() })).into_response();
    }
    let content = told["body"].as_str().map_or_else(|| told["body"].to_string(), str::to_owned);
    let repeat = usize::try_from(told["repeat"].as_u64().unwrap_or(1)).unwrap();
    let body = match told["stall"].as_u64().filter(|_| tries == 1) {
        None => Body::from(content.repeat(repeat)),
        Some(milliseconds) => Body::from_stream(stalling(content, repeat, Duration::from_millis(milliseconds))),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status(u16::try_from(told["status"].as_u64().unwrap_or(200)).unwrap());
    for (name, field) in [("retry-after", "retry_after"), ("content-type", "content_type")] {
        if let Some(value) = told[field].as_str() {
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    answer
}

/// All but the last one, and that after a pause.
fn stalling(content: String, repeat: usize, pause: Duration) -> impl Stream<Item = io::Result<String>> {
    let most = content.repeat(repeat - 1);
    let last = stream::once(async move {
        tokio::time::sleep(pause).await;
        Ok(content)
    });
    stream::once(async { Ok(most) }).chain(last)
}
