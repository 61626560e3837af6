//! The proxy's connections: each request is passed on to LocalStack, or befallen by a rule.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::call::{Call, Service};
use super::{Fault, Rule, Shared};

const SQS_JSON: &str = "application/x-amz-json-1.0";

type Answer = Response<Full<Bytes>>;

/// What a connection needs.
struct Way {
    /// LocalStack's URL.
    endpoint: String,
    client: Client<HttpConnector, Full<Bytes>>,
    shared: Arc<Shared>,
}

/// Serves until it is aborted.
pub(super) async fn run(listener: TcpListener, endpoint: String, shared: Arc<Shared>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let way = Arc::new(Way { endpoint, client, shared });
    let mut connections = JoinSet::new();
    loop {
        // a connection that cannot be accepted is the client's trouble: it tries again
        let Ok((stream, _)) = listener.accept().await else { continue };
        let way = Arc::clone(&way);
        connections.spawn(async move {
            // an error is the answer "cut", or a client that went away
            let service = service_fn(|request| async { way.answer(Call::read(request).await?).await });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Way {
    /// An error cuts the connection.
    async fn answer(&self, call: Call) -> Result<Answer> {
        *self.shared.seen().calls.entry(call.operation.clone()).or_default() += 1;
        let mut rules = self.shared.rules.subscribe();
        let rule = rules.borrow_and_update().iter().find(|rule| rule.takes(&call)).cloned();
        let work = self.under(rule.as_deref(), &call);
        tokio::pin!(work);
        loop {
            tokio::select! {
                answer = &mut work => return answer,
                changed = rules.changed() => changed?,
            }
            let rule = rules.borrow_and_update().iter().find(|rule| rule.interrupts() && rule.takes(&call)).cloned();
            if let Some(rule) = rule {
                return self.under(Some(&rule), &call).await;
            }
        }
    }

    /// What becomes of a call under a rule.
    async fn under(&self, rule: Option<&Rule>, call: &Call) -> Result<Answer> {
        match rule.map(Rule::fault) {
            None => self.pass(call, call.body.clone()).await,
            Some(Fault::Cut) => bail!("cut"),
            Some(Fault::AnswerLost) => {
                self.pass(call, call.body.clone()).await?;
                bail!("the answer is lost")
            }
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(*time).await;
                self.pass(call, call.body.clone()).await
            }
            Some(Fault::Throttled) => throttled(call.service),
            Some(Fault::StaleHandle(handle)) => self.all_but(call, handle).await,
            Some(Fault::Replay) => {
                let last = self.shared.seen().last_receive.clone();
                sqs_answer(StatusCode::OK, &last.context("no message was received yet")?)
            }
        }
    }

    /// Passes a call on, and notes what it received.
    async fn pass(&self, call: &Call, body: Bytes) -> Result<Answer> {
        let path = call.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(&call.head.method).uri(format!("{}{path}", self.endpoint));
        for (name, value) in &call.head.headers {
            // the body is here as a whole, whatever was agreed on for the way here
            if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT, header::CONNECTION].contains(name) {
                request = request.header(name, value);
            }
        }
        let answer = self.client.request(request.body(Full::new(body))?).await?;
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        head.headers.remove(header::TRANSFER_ENCODING);
        head.headers.remove(header::CONNECTION);
        if call.operation == "ReceiveMessage" && head.status.is_success() {
            self.shared.note(serde_json::from_slice(&body)?);
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// A batch without the entry of a stale handle, which is answered for it.
    async fn all_but(&self, call: &Call, handle: &str) -> Result<Answer> {
        let mut asked = call.json();
        let entries = asked["Entries"].as_array_mut().ok_or_else(|| anyhow!("not a batch"))?;
        let (stale, good): (Vec<Value>, Vec<Value>) =
            std::mem::take(entries).into_iter().partition(|entry| entry["ReceiptHandle"] == handle);
        let mut answer = json!({ "Successful": [], "Failed": [] });
        if !good.is_empty() {
            *entries = good;
            let passed = self.pass(call, serde_json::to_vec(&asked)?.into()).await?;
            answer = serde_json::from_slice(&passed.into_body().collect().await?.to_bytes())?;
        }
        let failed = stale.iter().map(|entry| {
            json!({
                "Id": entry["Id"],
                "Code": "ReceiptHandleIsInvalid",
                "Message": "The receipt handle has expired",
                "SenderFault": true,
            })
        });
        let mut all: Vec<Value> = answer["Failed"].as_array().cloned().unwrap_or_default();
        all.extend(failed);
        answer["Failed"] = all.into();
        sqs_answer(StatusCode::OK, &answer)
    }
}

impl Shared {
    /// Keeps the handles of a ReceiveMessage answer.
    fn note(&self, answer: Value) {
        let mut seen = self.seen();
        let messages = answer["Messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        for message in messages {
            if let (Some(id), Some(handle)) = (message["MessageId"].as_str(), message["ReceiptHandle"].as_str()) {
                seen.handles.entry(id.to_owned()).or_default().push(handle.to_owned());
            }
        }
        if !messages.is_empty() {
            seen.last_receive = Some(answer);
        }
    }
}

fn sqs_answer(status: StatusCode, body: &Value) -> Result<Answer> {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, SQS_JSON);
    Ok(answer.body(Full::new(serde_json::to_vec(body)?.into()))?)
}

fn throttled(service: Service) -> Result<Answer> {
    match service {
        Service::Sqs => {
            let body = json!({ "__type": "com.amazonaws.sqs#RequestThrottled", "message": "Rate exceeded" });
            sqs_answer(StatusCode::BAD_REQUEST, &body)
        }
        Service::S3 => {
            let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
            let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            Ok(answer.header(header::CONTENT_TYPE, "application/xml").body(Full::new(body.into()))?)
        }
    }
}
