//! Listings of buckets and objects, as XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::Error;
use super::escape;
use super::object::Object;
use super::request::Request;
use crate::clock::Moment;

/// Most keys of one page.
const MOST: usize = 1000;
/// What `encoding-type=url` leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// All buckets.
pub(crate) fn buckets<'a>(buckets: impl Iterator<Item = (&'a str, Moment)>) -> String {
    let all = buckets.fold(String::new(), |mut xml, (name, created)| {
        let _ = write!(xml, "<Bucket><Name>{name}</Name><CreationDate>{}</CreationDate></Bucket>", date(created));
        xml
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListAllMyBucketsResult xmlns=\"{NAMESPACE}\">\
         <Owner><ID>{}</ID></Owner><Buckets>{all}</Buckets></ListAllMyBucketsResult>",
        crate::sqs::ACCOUNT
    )
}

/// A page of a bucket's objects.
pub(crate) fn objects(request: &Request, bucket: &str, objects: &BTreeMap<Arc<str>, Object>) -> Result<String, Error> {
    let prefix = request.option("prefix").unwrap_or_default();
    let delimiter = request.option("delimiter").filter(|delimiter| !delimiter.is_empty());
    let most = match request.option("max-keys").map(str::parse::<usize>) {
        None => MOST,
        Some(Ok(most)) => most.min(MOST),
        Some(Err(_)) => return Err(Error::argument("max-keys must be a number")),
    };
    let encode: fn(&str) -> String = match request.option("encoding-type") {
        None => escape,
        Some("url") => |text| utf8_percent_encode(text, ENCODED).to_string(),
        Some(other) => return Err(Error::argument(format!("{other:?} is no encoding-type: url is one"))),
    };
    let after = match request.option("continuation-token") {
        Some(token) => {
            Some(key_of(token).ok_or_else(|| Error::argument("The continuation token provided is incorrect"))?)
        }
        None => request.option("start-after").map(str::to_owned),
    };
    let from = match &after {
        Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
        _ => Bound::Included(prefix),
    };
    let mut page = Page::default();
    for (key, object) in objects.range::<str, _>((from, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        let folder = delimiter.and_then(|d| rest.find(d).map(|at| &key[..prefix.len() + at + d.len()]));
        // after a folder come keys of the same folder, which it has told already
        if folder.is_some_and(|folder| page.folder == folder || after.as_deref().is_some_and(|a| a.starts_with(folder)))
        {
            page.last.replace_range(.., key);
            continue;
        }
        if page.count == most {
            page.more = most > 0;
            break;
        }
        page.count += 1;
        page.last.replace_range(.., key);
        if let Some(folder) = folder {
            page.folder.replace_range(.., folder);
            let _ = write!(page.folders, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", encode(folder));
        } else {
            let _ = write!(
                page.keys,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag>\
                 <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                encode(key),
                date(object.modified),
                escape(&object.etag),
                object.body.len()
            );
        }
    }
    Ok(page.xml(request, bucket, prefix, delimiter, most, encode))
}

#[derive(Default)]
struct Page {
    keys: String,
    folders: String,
    count: usize,
    more: bool,
    /// The last key that it tells of, and the last folder.
    last: String,
    folder: String,
}

impl Page {
    fn xml(
        &self,
        request: &Request,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        most: usize,
        encode: fn(&str) -> String,
    ) -> String {
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"{NAMESPACE}\"><Name>{bucket}</Name>\
             <Prefix>{}</Prefix><MaxKeys>{most}</MaxKeys><KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated>",
            encode(prefix),
            self.count,
            self.more
        );
        let next = self.more.then(|| BASE64_URL_SAFE_NO_PAD.encode(&self.last));
        let told = [
            ("Delimiter", delimiter.map(encode)),
            ("StartAfter", request.option("start-after").map(encode)),
            ("EncodingType", request.option("encoding-type").map(str::to_owned)),
            ("ContinuationToken", request.option("continuation-token").map(escape)),
            ("NextContinuationToken", next),
        ];
        for (name, value) in told.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            let _ = write!(xml, "<{name}>{value}</{name}>");
        }
        xml + &self.keys + &self.folders + "</ListBucketResult>"
    }
}

/// The key that a page ended with.
fn key_of(token: &str) -> Option<String> {
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

fn date(moment: Moment) -> String {
    format!("{:.3}", moment.timestamp())
}
