//! The HTTP server on loopback: tells the two services apart, and has faults strike calls as a whole.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fault::{Disturbance, Inner};
use crate::operation::{Operation, Service};
use crate::plan::Refusal;
use crate::{Shared, s3, sqs};

pub(crate) type Answer = Response<Full<Bytes>>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the model drops this connection, as its plan of faults says")]
struct Dropped;

/// A request that could be read.
#[derive(Debug)]
enum Call {
    Sqs(Box<sqs::Request>),
    S3(Box<s3::Request>),
}

/// Serves until it is dropped, and with it every connection.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // out of file descriptors, say: the next one may do
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        // small answers wait for nothing; where this fails they are late, not wrong
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            // a client that goes away, or one that is dropped, is no error here
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Answer, Dropped> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    let call = match Call::parse(head, body) {
        Ok(call) => call,
        Err(refused) => return Ok(*refused),
    };
    let strike = shared.faults.strike(call.operation(), call.name());
    match strike.call {
        None => Ok(call.perform(&shared, strike.inner).await),
        Some(Disturbance::Refuse(refusal)) => Ok(refuse(refusal, call.operation())),
        Some(Disturbance::DropBefore) => Err(Dropped),
        Some(Disturbance::Hang) => std::future::pending().await,
        Some(Disturbance::DropAfter) => {
            call.perform(&shared, strike.inner).await;
            Err(Dropped)
        }
        Some(Disturbance::Late(time)) => {
            let answer = call.perform(&shared, strike.inner).await;
            shared.clock.until(shared.clock.now() + time).await;
            Ok(answer)
        }
        Some(Disturbance::Slow(time)) => {
            // a task, for what has reached a service is done even if its client has given up
            let task = tokio::spawn(async move {
                shared.clock.until(shared.clock.now() + time).await;
                call.perform(&shared, strike.inner).await
            });
            task.await.map_err(|_| Dropped)
        }
    }
}

impl Call {
    fn parse(head: hyper::http::request::Parts, body: Bytes) -> Result<Self, Box<Answer>> {
        let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        if let Some(operation) = target.and_then(|target| target.strip_prefix("AmazonSQS.")) {
            let request = sqs::Request::parse(operation, &body);
            return request.map(|request| Self::Sqs(Box::new(request))).map_err(|error| Box::new(of_sqs(Err(error))));
        }
        let is_head = head.method == hyper::Method::HEAD;
        let request = s3::Request::parse(head, body);
        request.map(|request| Self::S3(Box::new(request))).map_err(|error| Box::new(error.answer(is_head)))
    }

    fn operation(&self) -> Operation {
        match self {
            Self::Sqs(request) => request.operation(),
            Self::S3(request) => request.operation,
        }
    }

    /// Of the queue or the object.
    fn name(&self) -> &str {
        match self {
            Self::Sqs(request) => request.queue(),
            Self::S3(request) => &request.key,
        }
    }

    async fn perform(self, shared: &Shared, faults: Inner) -> Answer {
        match self {
            Self::Sqs(request) => of_sqs(shared.sqs.perform(*request, faults).await),
            Self::S3(request) => shared.s3.perform(&request).unwrap_or_else(|error| error.answer(is_head(&request))),
        }
    }
}

fn is_head(request: &s3::Request) -> bool {
    matches!(request.operation, Operation::HeadBucket | Operation::HeadObject)
}

/// An answer in SQS's JSON protocol.
fn of_sqs(result: Result<Vec<u8>, sqs::Error>) -> Answer {
    let (status, body, query_error) = match result {
        Ok(body) => (200, body, None),
        Err(error) => {
            let (shape, query, status) = error.code.names();
            let body = serde_json::json!({ "__type": shape, "message": error.message }).to_string();
            let fault = if status < 500 { "Sender" } else { "Receiver" };
            (status, body.into_bytes(), HeaderValue::from_str(&format!("{query};{fault}")).ok())
        }
    };
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    if let Some(query_error) = query_error {
        headers.insert(HeaderName::from_static("x-amzn-query-error"), query_error);
    }
    answer
}

fn refuse(refusal: Refusal, operation: Operation) -> Answer {
    if operation.service() == Service::Sqs {
        use sqs::Code;
        let code = match refusal {
            Refusal::RequestThrottled | Refusal::SlowDown => Code::RequestThrottled,
            Refusal::InternalError | Refusal::ConditionalRequestConflict => Code::InternalError,
            Refusal::ServiceUnavailable => Code::ServiceUnavailable,
            Refusal::AccessDenied => Code::AccessDenied,
        };
        return of_sqs(Err(sqs::Error::new(code, "As the plan of faults says.")));
    }
    let (code, status) = match refusal {
        Refusal::SlowDown | Refusal::RequestThrottled => ("SlowDown", 503),
        Refusal::InternalError => ("InternalError", 500),
        Refusal::ServiceUnavailable => ("ServiceUnavailable", 503),
        Refusal::AccessDenied => ("AccessDenied", 403),
        Refusal::ConditionalRequestConflict => ("ConditionalRequestConflict", 409),
    };
    let is_head = matches!(operation, Operation::HeadBucket | Operation::HeadObject);
    s3::Error::new(code, status, "As the plan of faults says.").answer(is_head)
}
