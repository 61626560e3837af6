//! A request to S3 in path style: its operation, bucket, key and options. An option or `x-amz-` header that the model
//! does not have is refused by its name.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::chunked::unframe;
use super::error::Error;
use crate::operation::Operation;

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub operation: Operation,
    pub bucket: String,
    pub key: String,
    pub options: BTreeMap<String, String>,
    pub headers: HeaderMap,
    /// Without frames.
    pub body: Bytes,
}

/// Headers of the signature and of the SDKs, which change nothing here.
const OF_THE_CALL: [&str; 10] = [
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-decoded-content-length",
    "x-amz-trailer",
    "x-amz-checksum-type",
    "x-amz-checksum-mode",
    "x-amz-expected-bucket-owner",
];
/// Headers that a put keeps.
const OF_A_PUT: [&str; 4] = [
    "x-amz-checksum-crc32",
    "x-amz-tagging",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
];
/// Options of a listing.
const OF_A_LISTING: [&str; 7] =
    ["list-type", "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "encoding-type"];

impl Request {
    /// Reads a request.
    pub fn parse(head: Parts, body: Bytes) -> Result<Self, Error> {
        let path = head.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(Error::new("InvalidURI", 400, "Couldn't parse the specified URI.")),
        };
        let (bucket, key) = (decode(bucket)?, decode(key)?);
        let query = head.uri.query().unwrap_or_default();
        let options: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let operation = match (&head.method, bucket.is_empty(), key.is_empty()) {
            (&Method::GET, true, true) => Operation::ListBuckets,
            (&Method::PUT, false, true) => Operation::CreateBucket,
            (&Method::HEAD, false, true) => Operation::HeadBucket,
            (&Method::DELETE, false, true) => Operation::DeleteBucket,
            (&Method::GET, false, true) if options.get("list-type").is_some_and(|kind| kind == "2") => {
                Operation::ListObjectsV2
            }
            (&Method::PUT, false, false) => Operation::PutObject,
            (&Method::GET, false, false) => Operation::GetObject,
            (&Method::HEAD, false, false) => Operation::HeadObject,
            (&Method::DELETE, false, false) => Operation::DeleteObject,
            (method, ..) => return Err(Error::not_modelled(format_args!("{method} {}", head.uri))),
        };
        let request = Self { operation, bucket, key, options, headers: head.headers, body };
        request.check()?;
        request.unframed()
    }

    fn check(&self) -> Result<(), Error> {
        let is_listing = self.operation == Operation::ListObjectsV2;
        let is_known_option = |name: &str| name == "x-id" || (is_listing && OF_A_LISTING.contains(&name));
        if let Some(unknown) = self.options.keys().find(|name| !is_known_option(name)) {
            return Err(Error::not_modelled(format_args!("option {unknown} of {:?}", self.operation)));
        }
        let is_put = self.operation == Operation::PutObject;
        let is_known_header = |name: &str| {
            !name.starts_with("x-amz-")
                || OF_THE_CALL.contains(&name)
                || (is_put && (OF_A_PUT.contains(&name) || name.starts_with("x-amz-meta-")))
        };
        if let Some(unknown) = self.headers.keys().find(|name| !is_known_header(name.as_str())) {
            return Err(Error::not_modelled(format_args!("header {unknown} of {:?}", self.operation)));
        }
        let read = ["if-modified-since", "if-unmodified-since"];
        if let Some(unknown) = read.iter().find(|name| self.headers.contains_key(**name)) {
            return Err(Error::not_modelled(format_args!("header {unknown}")));
        }
        match self.header("x-amz-expected-bucket-owner") {
            Some(owner) if owner != crate::sqs::ACCOUNT => Err(Error::new("AccessDenied", 403, "Access Denied")),
            _ => Ok(()),
        }
    }

    fn unframed(mut self) -> Result<Self, Error> {
        let is_framed =
            self.header("content-encoding").is_some_and(|coding| coding.split(',').any(|c| c.trim() == "aws-chunked"))
                || self.header("x-amz-content-sha256").is_some_and(|sum| sum.starts_with("STREAMING-"));
        if is_framed {
            let unframed = unframe(&self.body)?;
            self.body = unframed.body;
            // of the others one is the signature of the trailers
            let announced = self.header("x-amz-trailer").unwrap_or_default().to_ascii_lowercase();
            for (name, value) in
                unframed.trailers.into_iter().filter(|(name, _)| announced.split(',').any(|a| a.trim() == name))
            {
                let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, value.parse()) {
                    self.headers.insert(name, value);
                }
            }
            self.check()?;
        }
        Ok(self)
    }

    /// A header, if it is there and a text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}
