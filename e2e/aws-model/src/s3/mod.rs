//! The model of S3: its buckets behind one lock, and what each request does to them.

mod chunked;
mod error;
mod list;
mod object;
mod request;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode, header};
use jiff::fmt::rfc2822::DateTimePrinter;

pub(crate) use self::error::Error;
pub use self::object::Object;
pub(crate) use self::request::Request;

use crate::clock::{Clock, Moment};
use crate::http::Answer;
use crate::journal::{Event, Journal, Put};
use crate::operation::Operation;

/// What the store makes of `If-Match` and `If-None-Match` on writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConditionalWrites {
    /// As S3 does.
    #[default]
    Honoured,
    /// Writes as if they were not there, as some stores do.
    Ignored,
    /// Refuses them with 501, as other stores do.
    NotImplemented,
}

/// The model of S3.
#[derive(Debug)]
pub(crate) struct S3 {
    clock: Clock,
    journal: Arc<Journal>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<Arc<str>, Bucket>,
    conditional_writes: ConditionalWrites,
}

#[derive(Debug)]
struct Bucket {
    created: Moment,
    objects: BTreeMap<Arc<str>, Object>,
    /// Puts of keys that were deleted since.
    deleted: BTreeMap<Arc<str>, u64>,
}

impl S3 {
    pub fn new(clock: Clock, journal: Arc<Journal>) -> Self {
        Self { clock, journal, state: Mutex::default() }
    }

    pub fn set_conditional_writes(&self, mode: ConditionalWrites) {
        self.state().conditional_writes = mode;
    }

    /// A copy of a bucket's objects.
    pub fn objects(&self, bucket: &str) -> Option<BTreeMap<String, Object>> {
        let state = self.state();
        let objects = state.buckets.get(bucket)?.objects.iter();
        Some(objects.map(|(key, object)| (key.to_string(), object.clone())).collect())
    }

    pub fn create_bucket(&self, name: &str) -> Result<(), Error> {
        create(&mut self.state(), name, self.clock.now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked for.
    pub fn perform(&self, request: &Request) -> Result<Answer, Error> {
        let now = self.clock.now();
        let mut state = self.state();
        let mode = state.conditional_writes;
        match request.operation {
            Operation::ListBuckets => {
                let buckets = state.buckets.iter().map(|(name, bucket)| (name.as_ref(), bucket.created));
                return Ok(xml(list::buckets(buckets)));
            }
            Operation::CreateBucket => {
                create(&mut state, &request.bucket, now)?;
                return Ok(empty(StatusCode::OK, [(header::LOCATION, format!("/{}", request.bucket))]));
            }
            _ => {}
        }
        let Some((name, bucket)) = state.buckets.get_key_value(request.bucket.as_str()) else {
            return Err(Error::no_bucket(&request.bucket));
        };
        let name = Arc::clone(name);
        match request.operation {
            Operation::HeadBucket => return Ok(empty(StatusCode::OK, [])),
            Operation::ListObjectsV2 => return list::objects(request, &name, &bucket.objects).map(xml),
            Operation::GetObject | Operation::HeadObject => return read(request, bucket),
            Operation::DeleteBucket if !bucket.objects.is_empty() => {
                return Err(Error::new("BucketNotEmpty", 409, "The bucket you tried to delete is not empty"));
            }
            Operation::DeleteBucket => {
                state.buckets.remove(&name);
                return Ok(empty(StatusCode::NO_CONTENT, []));
            }
            _ => {}
        }
        let bucket = state.buckets.get_mut(&name).ok_or_else(|| Error::no_bucket(&name))?;
        object::may_write(request, bucket.objects.get(request.key.as_str()), mode)?;
        if request.operation == Operation::DeleteObject {
            if let Some((key, object)) = bucket.objects.remove_entry(request.key.as_str()) {
                self.journal.record(now, || Event::ObjectDeleted { bucket: name, key: Arc::clone(&key) });
                bucket.deleted.insert(key, object.puts);
            }
            return Ok(empty(StatusCode::NO_CONTENT, []));
        }
        self.put(request, &name, bucket, now)
    }

    fn put(&self, request: &Request, name: &Arc<str>, bucket: &mut Bucket, now: Moment) -> Result<Answer, Error> {
        let key: Arc<str> = request.key.as_str().into();
        if key.len() > 1024 {
            return Err(Error::new("KeyTooLongError", 400, "Your key is too long"));
        }
        let entry = bucket.objects.entry(Arc::clone(&key));
        let before = match &entry {
            Entry::Occupied(there) => there.get().puts,
            Entry::Vacant(_) => bucket.deleted.get(&key).copied().unwrap_or_default(),
        };
        let object = Object::of(request, now, before + 1)?;
        let (etag, crc32) = (object.etag.clone(), object.crc32.clone());
        let put = if matches!(entry, Entry::Occupied(_)) { Put::Replaced } else { Put::Created };
        entry.insert_entry(object);
        let answer = empty(
            StatusCode::OK,
            [(header::ETAG, etag.clone())]
                .into_iter()
                .chain(crc32.map(|sum| (HeaderName::from_static("x-amz-checksum-crc32"), sum))),
        );
        self.journal.record(now, || Event::Put { bucket: Arc::clone(name), key, etag, put });
        Ok(answer)
    }
}

fn create(state: &mut State, name: &str, now: Moment) -> Result<(), Error> {
    let is_sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if !(3..=63).contains(&name.len()) || !name.bytes().all(is_sound) {
        return Err(Error::new("InvalidBucketName", 400, "The specified bucket is not valid."));
    }
    // in this region, of all regions, S3 takes a repeat well
    let bucket = || Bucket { created: now, objects: BTreeMap::new(), deleted: BTreeMap::new() };
    state.buckets.entry(name.into()).or_insert_with(bucket);
    Ok(())
}

fn read(request: &Request, bucket: &Bucket) -> Result<Answer, Error> {
    let object = bucket.objects.get(request.key.as_str()).ok_or_else(|| Error::no_key(&request.key))?;
    object::may_read(request, object)?;
    let length = object.body.len();
    let range = object::range(request.header("range"), length)?;
    let mut headers = vec![
        (header::ETAG, object.etag.clone()),
        (header::CONTENT_TYPE, object.content_type.clone()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    if let Ok(modified) = DateTimePrinter::new().timestamp_to_rfc9110_string(&object.modified.timestamp()) {
        headers.push((header::LAST_MODIFIED, modified));
    }
    let kept = object.headers.iter().map(|(name, value)| (name.clone(), value));
    let metadata = object.metadata.iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value));
    for (name, value) in kept.chain(metadata) {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.push((name, value.clone()));
        }
    }
    let wants_sum = request.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"));
    if let Some(sum) = object.crc32.as_ref().filter(|_| wants_sum && range.is_none()) {
        headers.push((HeaderName::from_static("x-amz-checksum-crc32"), sum.clone()));
        headers.push((HeaderName::from_static("x-amz-checksum-type"), "FULL_OBJECT".to_owned()));
    }
    let (status, body) = match range {
        None => (StatusCode::OK, object.body.clone()),
        Some(range) => {
            headers.push((header::CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1)));
            (StatusCode::PARTIAL_CONTENT, object.body.slice(range))
        }
    };
    // a HEAD tells the length of what it does not send
    headers.push((header::CONTENT_LENGTH, body.len().to_string()));
    let body = if request.operation == Operation::HeadObject { Bytes::new() } else { body };
    Ok(answer(status, headers, body))
}

fn xml(text: String) -> Answer {
    answer(StatusCode::OK, [(header::CONTENT_TYPE, "application/xml".to_owned())], text.into())
}

fn empty(status: StatusCode, headers: impl IntoIterator<Item = (HeaderName, String)>) -> Answer {
    answer(status, headers, Bytes::new())
}

fn answer(status: StatusCode, given: impl IntoIterator<Item = (HeaderName, String)>, body: Bytes) -> Answer {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    }
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// Text within XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\r' => escaped.push_str("&#13;"),
            c => escaped.push(c),
        }
    }
    escaped
}
