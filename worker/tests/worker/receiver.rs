//! A server that callbacks go to: keeps what came and answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wait::until;

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    headers: HeaderMap,
    pub body: String,
}

impl Call {
    /// A header that must be there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }
}

/// How a call is answered.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    /// With this status.
    Status(u16),
    /// Not at all.
    Silence,
}

#[derive(Debug, Default)]
struct Seen {
    calls: Vec<Call>,
    replies: VecDeque<Reply>,
}

/// The server; gone when dropped.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Gives these replies in turn, and 200 after them.
    pub async fn start(replies: &[Reply]) -> Self {
        let seen = Arc::new(Mutex::new(Seen { replies: replies.iter().copied().collect(), ..Seen::default() }));
        let router = Router::new().route("/done", post(take)).with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, seen, server }
    }

    /// Its URL, with this host.
    pub fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/done", self.port)
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.seen.lock().unwrap().calls.clone()
    }

    /// All calls, once there are so many.
    pub async fn until_called(&self, times: usize) -> Vec<Call> {
        until(&format!("{times} calls"), async || Some(self.calls()).filter(|calls| calls.len() >= times)).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: String) -> StatusCode {
    let reply = {
        let mut seen = seen.lock().unwrap();
        seen.calls.push(Call { headers, body });
        seen.replies.pop_front()
    };
    match reply {
        None => StatusCode::OK,
        Some(Reply::Status(status)) => StatusCode::from_u16(status).unwrap(),
        Some(Reply::Silence) => std::future::pending().await,
    }
}
