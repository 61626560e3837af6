//! An object, and what is asked of it: conditions and ranges.

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::ConditionalWrites;
use super::error::Error;
use super::request::Request;
use crate::clock::Moment;
use crate::sqs::hex;

/// The headers of a put that come back with every read, besides `x-amz-meta-`.
const KEPT: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-language",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
];

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its content.
    pub body: Bytes,
    /// Its version, in quotes as S3 gives it.
    pub etag: String,
    /// Its Content-Type.
    pub content_type: String,
    /// Its `x-amz-meta-` headers, without that prefix.
    pub metadata: BTreeMap<String, String>,
    /// Other headers of its put that come back with it: encryption, caching, coding.
    pub headers: BTreeMap<String, String>,
    /// Its tags, as the put wrote them.
    pub tagging: Option<String>,
    /// Its CRC-32 in Base64, where the put gave one.
    pub crc32: Option<String>,
    /// When it was put.
    pub modified: Moment,
    /// How many puts of its key succeeded, over deletions too.
    pub puts: u64,
}

impl Object {
    /// What `request` puts, if its body is as its checksums say.
    pub(crate) fn of(request: &Request, now: Moment, puts: u64) -> Result<Self, Error> {
        let digest = Md5::digest(&request.body);
        let crc32 = request.header("x-amz-checksum-crc32").map(str::to_owned);
        let computed = || BASE64_STANDARD.encode(crc32fast::hash(&request.body).to_be_bytes());
        if crc32.as_ref().is_some_and(|given| *given != computed()) {
            return Err(Error::new("BadDigest", 400, "The CRC32 you specified did not match the calculated checksum."));
        }
        if request.header("content-md5").is_some_and(|given| given != BASE64_STANDARD.encode(digest)) {
            return Err(Error::new("BadDigest", 400, "The Content-MD5 you specified did not match what we received."));
        }
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let metadata = request
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-amz-meta-")?.to_owned(), text(value))));
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned())));
        let coding = request.header("content-encoding").map(|coding| {
            // the frames came off, and are no coding of the object
            let codings = coding.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked");
            ("content-encoding".to_owned(), codings.collect::<Vec<_>>().join(","))
        });
        Ok(Self {
            // a copy: what was read is a part of a far larger buffer
            body: Bytes::copy_from_slice(&request.body),
            etag: format!("\"{}\"", hex(&digest)),
            content_type: request.header("content-type").unwrap_or("binary/octet-stream").to_owned(),
            metadata: metadata.collect(),
            headers: kept.chain(coding.filter(|(_, value)| !value.is_empty())).collect(),
            tagging: request.header("x-amz-tagging").map(str::to_owned),
            crc32,
            modified: now,
            puts,
        })
    }

    fn is(&self, etag: &str) -> bool {
        etag.trim() == "*" || etag.trim().trim_matches('"') == self.etag.trim_matches('"')
    }
}

/// Whether a put or a delete may be done, now that `there` is what the key holds.
pub(crate) fn may_write(request: &Request, there: Option<&Object>, mode: ConditionalWrites) -> Result<(), Error> {
    let (if_match, if_none_match) = (request.header("if-match"), request.header("if-none-match"));
    if if_match.is_none() && if_none_match.is_none() {
        return Ok(());
    }
    match mode {
        ConditionalWrites::Ignored => return Ok(()),
        ConditionalWrites::NotImplemented => {
            let message = "A header you provided implies functionality that is not implemented";
            return Err(Error::new("NotImplemented", 501, message));
        }
        ConditionalWrites::Honoured => {}
    }
    let is_put = request.operation == crate::Operation::PutObject;
    match (if_match, if_none_match, there) {
        (Some(_), Some(_), _) => Err(Error::not_modelled("If-Match beside If-None-Match")),
        (_, Some(etag), _) if etag != "*" || !is_put => Err(Error::not_modelled("this If-None-Match on a write")),
        (_, Some(_), Some(_)) => Err(Error::precondition("If-None-Match")),
        (Some(_), _, None) if is_put => Err(Error::no_key(&request.key)),
        (Some(_), _, None) => Err(Error::precondition("If-Match")),
        (Some(etag), _, Some(there)) if !there.is(etag) => Err(Error::precondition("If-Match")),
        _ => Ok(()),
    }
}

/// Whether a read gives the object.
pub(crate) fn may_read(request: &Request, object: &Object) -> Result<(), Error> {
    let any = |etags: &str| etags.split(',').any(|etag| object.is(etag));
    if request.header("if-match").is_some_and(|etags| !any(etags)) {
        return Err(Error::precondition("If-Match"));
    }
    if request.header("if-none-match").is_some_and(any) {
        return Err(Error::not_modified());
    }
    Ok(())
}

/// The octets that `Range` asks for; none where it asks for all of them, or in a way that S3 overlooks.
pub(crate) fn range(header: Option<&str>, length: usize) -> Result<Option<Range<usize>>, Error> {
    let Some((first, last)) = header.and_then(|text| text.strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let asked = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(last)) if first.is_empty() => length.saturating_sub(last)..length,
        _ => return Ok(None),
    };
    if asked.is_empty() {
        return Err(Error::new("InvalidRange", 416, "The requested range is not satisfiable"));
    }
    Ok(Some(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, wanted) in [
            (None, Ok(None)),
            (Some("bytes=0-3"), Ok(Some(0..4))),
            (Some("bytes=8-99"), Ok(Some(8..10))),
            (Some("bytes=8-"), Ok(Some(8..10))),
            (Some("bytes=-3"), Ok(Some(7..10))),
            (Some("bytes=-30"), Ok(Some(0..10))),
            (Some("bytes=5-2"), Ok(None)),
            (Some("lines=1-2"), Ok(None)),
            (Some("bytes=10-"), Err("InvalidRange")),
            (Some("bytes=-0"), Err("InvalidRange")),
        ] {
            assert_eq!(range(header, 10).map_err(|e| e.code), wanted, "{header:?}");
        }
    }
}
