//! S3 event notifications, as S3 sends them to a queue and as EventBridge does: one job per object that was created.

use millrace_api::BodyFormat;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::input::kind;
use super::{Form, Job, JobHead, ObjectRef, Refusal, Source, id};
use crate::allow::Allow;
use crate::model::InvalidInput;

/// The record's error code of an object that a job of this consumer may have put.
const OUTPUT_LOOP: &str = "OutputLoop";

/// What an S3 event came to.
#[derive(Debug)]
pub enum Event {
    /// At least one.
    Jobs(Vec<Job>),
    /// Why there is nothing to do.
    Nothing(&'static str),
}

/// What a notification says of one object.
struct Created {
    /// Where it says so, for errors.
    place: String,
    object: ObjectRef,
    sequencer: Option<String>,
    event: String,
    time: Option<String>,
}

/// Whether an object is an S3 event in one of its dresses.
pub fn is_event(object: &Map<String, Value>) -> bool {
    is_test(object) || is_event_bridge(object) || records(object).is_some()
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}

/// S3 sends one when a notification is set up.
fn is_test(object: &Map<String, Value>) -> bool {
    text(object, "Event") == Some("s3:TestEvent") && object.contains_key("Bucket")
}

fn is_event_bridge(object: &Map<String, Value>) -> bool {
    text(object, "source") == Some("aws.s3") && object.contains_key("detail-type") && object.contains_key("detail")
}

/// The records of a notification; other stores than AWS's call themselves `minio:s3`, `ceph:s3`.
fn records(object: &Map<String, Value>) -> Option<&Vec<Value>> {
    let records = object.get("Records")?.as_array().filter(|list| !list.is_empty())?;
    let is_s3 = |record: &Value| record["eventSource"].as_str().is_some_and(|source| source.ends_with(":s3"));
    records.iter().all(is_s3).then_some(records)
}

/// Reads a body that `is_event`.
pub fn read(
    object: &Map<String, Value>,
    head: &mut JobHead,
    allow: &Allow,
    format: BodyFormat,
) -> Result<Event, Refusal> {
    head.form = Form::S3Event;
    if is_test(object) {
        return Ok(Event::Nothing("S3's test of a notification"));
    }
    let created = if is_event_bridge(object) { from_event_bridge(object)? } else { from_records(object)? };
    // what a console puts for a folder
    let is_folder = |c: &Created| c.object.key.ends_with('/') && c.object.size == Some(0);
    // the record of a refused event would be the next event, for ever
    let is_record = |c: &Created| allow.is_own_record(&c.object);
    let created: Vec<Created> = created.into_iter().filter(|c| !is_folder(c) && !is_record(c)).collect();
    if created.is_empty() {
        return Ok(Event::Nothing("an S3 event that tells of no new object"));
    }
    let job = |one: Created| {
        if allow.is_own_output(&one.object) {
            let message = format!(
                "{} is under this consumer's own output, so each result would be a new job; \
                 limit the bucket's notification to another prefix, or change output.prefix",
                one.object
            );
            let error = InvalidInput::field(format!("{}.object.key", one.place), message);
            return Err(Refusal { code: OUTPUT_LOOP, error });
        }
        allow.input_bucket(&format!("{}.bucket.name", one.place), &one.object.bucket)?;
        Ok(one.into_job(head.clone(), format))
    };
    Ok(Event::Jobs(created.into_iter().map(job).collect::<Result<_, _>>()?))
}

fn from_records(object: &Map<String, Value>) -> Result<Vec<Created>, InvalidInput> {
    let is_created = |(_, record): &(usize, &Value)| {
        let name = record["eventName"].as_str().unwrap_or_default();
        name.strip_prefix("s3:").unwrap_or(name).starts_with("ObjectCreated:")
    };
    let read = |(index, record): (usize, &Value)| {
        let place = format!("Records[{index}].s3");
        let of = |key: &str| record["s3"]["object"][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let (bucket, key) = bucket_and_key(&record["s3"], &place)?;
        // as a form's field is: a space is a plus
        let key = percent_decode_str(&key.replace('+', " ")).decode_utf8().map(std::borrow::Cow::into_owned);
        let key = key.map_err(|_| InvalidInput::field(format!("{place}.object.key"), "is not UTF-8 once decoded"))?;
        Ok(Created {
            object: ObjectRef {
                bucket,
                key,
                version: version(of("versionId")),
                etag: of("eTag"),
                size: size(&record["s3"]),
            },
            sequencer: of("sequencer"),
            event: record["eventName"].as_str().unwrap_or_default().into(),
            time: record["eventTime"].as_str().map(str::to_owned),
            place,
        })
    };
    records(object).into_iter().flatten().enumerate().filter(is_created).map(read).collect()
}

/// Its keys are not encoded, and its words are another's.
fn from_event_bridge(object: &Map<String, Value>) -> Result<Vec<Created>, InvalidInput> {
    let event = text(object, "detail-type").unwrap_or_default();
    if event != "Object Created" {
        return Ok(Vec::new());
    }
    let detail = &object["detail"];
    let of = |key: &str| detail["object"][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (bucket, key) = bucket_and_key(detail, "detail")?;
    Ok(vec![Created {
        place: "detail".into(),
        object: ObjectRef { bucket, key, version: version(of("version-id")), etag: of("etag"), size: size(detail) },
        sequencer: of("sequencer"),
        event: event.into(),
        time: text(object, "time").map(str::to_owned),
    }])
}

fn bucket_and_key(value: &Value, place: &str) -> Result<(String, String), InvalidInput> {
    let word = |field: &str, found: &Value| match found {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Null => Err(InvalidInput::field(format!("{place}.{field}"), "is missing")),
        Value::String(_) => Err(InvalidInput::field(format!("{place}.{field}"), "is empty")),
        other => Err(InvalidInput::field(format!("{place}.{field}"), format!("must be a text, is {}", kind(other)))),
    };
    Ok((word("bucket.name", &value["bucket"]["name"])?, word("object.key", &value["object"]["key"])?))
}

/// A bucket that has versions no longer calls an object's version `null`.
fn version(version: Option<String>) -> Option<String> {
    version.filter(|version| version != "null")
}

fn size(value: &Value) -> Option<u64> {
    value["object"]["size"].as_u64()
}

impl Created {
    /// The job of one object. Its id and hash say which content it is, so that nothing needs to be read to see that it
    /// was done; an object that is put again with the same content is the same job.
    fn into_job(self, mut head: JobHead, format: BodyFormat) -> Job {
        let object = &self.object;
        let which = object.version.as_ref().or(object.etag.as_ref()).or(self.sequencer.as_ref());
        let which = which.map(|which| format!(":{which}")).unwrap_or_default();
        id::take_made(&mut head, &format!("{}:{}{which}", object.bucket, object.key));
        let named = json!([object.bucket, object.key, object.version, object.etag]);
        head.input_sha256 = hex::encode(Sha256::digest(named.to_string()));
        let said = json!({
            "bucket": object.bucket, "key": object.key, "version": object.version, "etag": object.etag,
            "size": object.size, "event": self.event, "event_time": self.time,
        });
        if let Value::Object(said) = said {
            head.metadata.extend(said.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Job { head, source: Source::Object { object: self.object, format } }
    }
}
