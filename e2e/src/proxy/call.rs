//! A request as AWS would read it: service, operation, and for SQS the JSON that it asks with.

use anyhow::Result;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Sqs,
    S3,
}

/// One request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) service: Service,
    /// By AWS's name.
    pub(super) operation: String,
    pub(super) head: Parts,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let target = head.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        let (service, operation) = match target.and_then(|target| target.strip_prefix("AmazonSQS.")) {
            Some(operation) => (Service::Sqs, operation.to_owned()),
            None => (Service::S3, of_s3(&head)),
        };
        Ok(Self { service, operation, head, body })
    }

    #[cfg(test)]
    pub(super) fn of(service: Service, operation: &str) -> Self {
        let (head, ()) = Request::new(()).into_parts();
        Self { service, operation: operation.into(), head, body: Bytes::new() }
    }

    /// What an SQS call asks with; null for S3.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether a batch has an entry with this receipt handle.
    pub(super) fn names(&self, handle: &str) -> bool {
        self.json()["Entries"].as_array().is_some_and(|all| all.iter().any(|entry| entry["ReceiptHandle"] == handle))
    }
}

/// S3's operations as far as millrace calls them; anything else has its method's name.
fn of_s3(head: &Parts) -> String {
    let path = head.uri.path().trim_matches('/');
    let name = match (&head.method, path.contains('/')) {
        (&Method::PUT, true) => "PutObject",
        (&Method::GET, true) => "GetObject",
        (&Method::GET, false) => "ListObjectsV2",
        (&Method::HEAD, true) => "HeadObject",
        (&Method::DELETE, true) => "DeleteObject",
        (method, _) => method.as_str(),
    };
    name.to_owned()
}
