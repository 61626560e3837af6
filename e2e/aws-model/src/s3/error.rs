//! S3's errors.

use hyper::{Response, StatusCode, header};

use super::escape;
use crate::http::Answer;

/// An error of S3: its code, its status, and what a reader should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct Error {
    pub code: &'static str,
    pub status: u16,
    pub message: String,
    /// Another element of the XML.
    pub detail: Option<(&'static str, String)>,
}

impl Error {
    pub fn new(code: &'static str, status: u16, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), detail: None }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.detail = Some((name, value.into()));
        self
    }

    pub fn no_bucket(bucket: &str) -> Self {
        Self::new("NoSuchBucket", 404, "The specified bucket does not exist").with("BucketName", bucket)
    }

    pub fn no_key(key: &str) -> Self {
        Self::new("NoSuchKey", 404, "The specified key does not exist.").with("Key", key)
    }

    pub fn precondition(condition: &str) -> Self {
        let message = "At least one of the pre-conditions you specified did not hold";
        Self::new("PreconditionFailed", 412, message).with("Condition", condition)
    }

    pub fn argument(message: impl Into<String>) -> Self {
        Self::new("InvalidArgument", 400, message)
    }

    /// Something of S3 that this model does not have, by its name.
    pub fn not_modelled(what: impl std::fmt::Display) -> Self {
        Self::new("NotImplemented", 501, format!("{what} is not part of this model of S3"))
    }

    pub fn not_modified() -> Self {
        Self::new("NotModified", 304, "Not Modified")
    }

    /// As it is sent; the answer to a HEAD, and a 304, have no body.
    pub fn answer(&self, is_head: bool) -> Answer {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = self.detail.as_ref().map(|(name, value)| format!("<{name}>{}</{name}>", escape(value)));
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>{}\
             <RequestId>MODEL</RequestId></Error>",
            self.code,
            escape(&self.message),
            detail.unwrap_or_default()
        );
        let body = if is_head || status == StatusCode::NOT_MODIFIED { String::new() } else { text };
        let mut answer = Response::new(bytes::Bytes::from(body).into());
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
        answer
    }
}
