//! `millrace-bench stand-in`: what `operator-scale` has in place of SQS and of workers. Counts of any number of queues that
//! change slowly by a formula, and workers that answer `/state` and `/drain` to fit them, without a message or a job.
//!
//! Queue `q-N` is that of consumer N. Every tenth has a backlog, which changes once in a step: as much as 0 to 4 workers are
//! for. Workers of consumer N have addresses 127.64+N/256.N%256.*, all of which lead here.

mod load;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millrace_api::{Activity, DRAIN_LAPSES, DRAIN_PATH};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use self::load::{Load, Shape};

/// A worker that is told to drain is drained after this.
const DRAINS_IN: Duration = Duration::from_secs(2);
/// How often a request that waits for news is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Where it listens and what it plays.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of SQS, on 127.0.0.1.
    #[arg(long)]
    sqs_port: u16,
    /// Port of all workers.
    #[arg(long, default_value_t = 8080)]
    worker_port: u16,
    #[command(flatten)]
    shape: Shape,
}

type Answer = Response<Full<Bytes>>;

/// All of it.
struct StandIn {
    load: Load,
    started: Instant,
    /// Workers that were told to drain, and when.
    draining: Mutex<HashMap<IpAddr, Instant>>,
    /// Requests by what they asked for.
    asked: Mutex<HashMap<String, u64>>,
}

/// Serves until it is ended.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (draining, asked) = Default::default();
    let this = Arc::new(StandIn { load: Load::new(args.shape), started: Instant::now(), draining, asked });
    let sqs = TcpListener::bind((Ipv4Addr::LOCALHOST, args.sqs_port)).await.context("SQS's port")?;
    // Workers have thousands of addresses, so this is on all there are, and refuses whoever is not on this machine.
    let workers = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.worker_port)).await;
    let workers = workers.with_context(|| {
        format!(
            "something else uses port {}, which workers have: end it for the time of this measurement",
            args.worker_port
        )
    })?;
    println!("ready");
    loop {
        let (stream, of_workers) = tokio::select! {
            accepted = sqs.accept() => (accepted, false),
            accepted = workers.accept() => (accepted, true),
        };
        match stream {
            Ok((stream, peer)) if peer.ip().is_loopback() => Arc::clone(&this).serve(stream, of_workers),
            Ok(_) => {}
            // out of file descriptors, say: the next one may do
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

impl StandIn {
    fn serve(self: Arc<Self>, stream: TcpStream, of_workers: bool) {
        // small answers wait for nothing; where this fails they are late, not wrong
        let _ = stream.set_nodelay(true);
        let Ok(here) = stream.local_addr() else { return };
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let this = Arc::clone(&self);
                async move {
                    Ok::<_, hyper::Error>(if of_workers {
                        this.worker(here, &request).await
                    } else {
                        this.sqs(request).await?
                    })
                }
            });
            // a client that goes away is no error here
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }

    fn count(&self, what: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry(what.into()).or_default() += 1;
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sqs(&self, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        if request.uri().path() == "/asked" {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Ok(answer(StatusCode::OK, &json!(asked)));
        }
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let operation = target.unwrap_or_default().trim_start_matches("AmazonSQS.").to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        self.count(&format!("sqs {operation}"));
        let fields: Value = serde_json::from_slice(&body).unwrap_or_default();
        let url = fields["QueueUrl"].as_str().unwrap_or_default();
        let queue = url.rsplit_once("/q-").and_then(|(_, number)| number.parse().ok());
        Ok(match (operation.as_str(), queue) {
            ("GetQueueAttributes", Some(queue)) => {
                let (visible, in_flight) = self.load.counts(queue, self.elapsed());
                let attributes = json!({
                    "ApproximateNumberOfMessages": visible.to_string(),
                    "ApproximateNumberOfMessagesNotVisible": in_flight.to_string(),
                    "ApproximateNumberOfMessagesDelayed": "0",
                    "QueueArn": format!("arn:aws:sqs:us-east-1:000000000000:q-{queue}"),
                    "VisibilityTimeout": "120",
                });
                answer(StatusCode::OK, &json!({ "Attributes": attributes }))
            }
            ("GetQueueAttributes", None) => {
                let kind = "com.amazonaws.sqs#QueueDoesNotExist";
                answer(StatusCode::BAD_REQUEST, &json!({ "__type": kind, "message": "there is no such queue" }))
            }
            _ => answer(StatusCode::BAD_REQUEST, &json!({ "__type": "com.amazonaws.sqs#UnsupportedOperation" })),
        })
    }

    async fn worker<B>(&self, here: SocketAddr, request: &Request<B>) -> Answer {
        let ip = here.ip();
        let Some(queue) = queue_of(ip) else {
            return answer(StatusCode::NOT_FOUND, &json!("no worker has this address"));
        };
        let path = request.uri().path();
        self.count(&format!("worker {} {path}", request.method()));
        if path == DRAIN_PATH {
            let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
            if request.method() == Method::DELETE {
                draining.remove(&ip);
            } else {
                // renewed, it goes on
                draining.entry(ip).and_modify(|since| *since = renewed(*since)).or_insert_with(Instant::now);
            }
        } else if path != "/state" {
            return answer(StatusCode::NOT_FOUND, &json!("a worker that is none has /state and /drain"));
        } else if let Some((known, wait)) = hang(request.uri().query().unwrap_or_default()) {
            let until = Instant::now() + wait;
            while self.activity(queue, ip).word() == known && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
            }
        }
        let state = load::state(&ip.to_string(), self.activity(queue, ip), self.elapsed());
        match serde_json::to_value(&state) {
            Ok(state) => answer(StatusCode::OK, &state),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, &json!(error.to_string())),
        }
    }

    fn activity(&self, queue: u32, ip: IpAddr) -> Activity {
        let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        match draining.get(&ip).map(Instant::elapsed) {
            Some(since) if since > DRAIN_LAPSES => {
                draining.remove(&ip);
            }
            Some(since) if since > DRAINS_IN => return Activity::Drained,
            Some(_) => return Activity::Draining,
            None => {}
        }
        if self.load.level(queue, self.elapsed()) > 0 { Activity::Busy } else { Activity::Idle }
    }
}

/// A drain that is renewed is as far as it was, and lapses later.
fn renewed(since: Instant) -> Instant {
    let now = Instant::now();
    if now.duration_since(since) > DRAINS_IN { now.checked_sub(DRAINS_IN).unwrap_or(now) } else { since }
}

/// Whose worker has this address.
fn queue_of(ip: IpAddr) -> Option<u32> {
    let IpAddr::V4(ip) = ip else { return None };
    let [net, high, low, _] = ip.octets();
    (net == 127 && high >= 64).then(|| u32::from(high - 64) * 256 + u32::from(low))
}

/// The activity that the asker knows of, and how long it waits for another one.
fn hang(query: &str) -> Option<(String, Duration)> {
    let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let wait = field("wait").and_then(|wait| wait.parse().ok()).unwrap_or(20);
    field("unless").map(|known| (known.to_owned(), Duration::from_secs(wait)))
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/x-amz-json-1.0"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_the_consumer() {
        let of = |text: &str| queue_of(text.parse().unwrap());
        assert_eq!((of("127.64.0.9"), of("127.103.15.1")), (Some(0), Some(9_999)));
        assert_eq!((of("127.0.0.1"), of("10.64.0.1"), of("::1")), (None, None, None));
    }

    #[test]
    fn a_request_may_wait_for_another_activity() {
        assert_eq!(hang("unless=Idle&wait=5"), Some(("Idle".into(), Duration::from_secs(5))));
        assert_eq!(hang("unless=Busy"), Some(("Busy".into(), Duration::from_secs(20))));
        assert_eq!(hang(""), None);
    }
}
