//! Large outputs go up in parts while they are made, and are there when their job is done; of what fails nothing stays.

use aws_sdk_s3::primitives::ByteStream;
use millrace_api::{JobStatus, ResultRecord};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::{self, CONSUMER, Lab, PREFIX};
use crate::program::{self, Signal, Worker};
use crate::stub::Stub;
use crate::wait::until_true;

/// More than two parts.
const MEBIBYTES: u64 = 20;

/// A consumer of the stub, whose answers may have so many MiB.
async fn worker(lab: &Lab, stub: &Stub, most: u64) -> Worker {
    let server = json!({ "response": { "maxMebibytes": most } });
    let settings = json!({ "model": stub.model(server), "shutdown": { "gracePeriodSeconds": 1 } });
    let mut worker = program::start(lab, "a", settings);
    worker.until_ready().await;
    worker
}

/// A job that is answered by a film of so many MiB.
fn film(job_id: &str, mebibytes: u64) -> String {
    stalled_film(job_id, mebibytes, None)
}

/// The same, which stalls at first.
fn stalled_film(job_id: &str, mebibytes: u64, stall: impl Into<Option<u32>>) -> String {
    let mut answer = json!({ "content_type": "video/mp4", "body": "x".repeat(1 << 16), "repeat": mebibytes << 4 });
    answer["stall"] = stall.into().into();
    json!({ "job_id": job_id, "input": { "answer": answer } }).to_string()
}

fn sha256(mebibytes: usize) -> String {
    hex::encode(Sha256::digest("x".repeat(mebibytes << 20)))
}

async fn unfinished(lab: &Lab) -> usize {
    lab.s3.list_multipart_uploads().bucket(&lab.name).send().await.unwrap().uploads().len()
}

fn key(lab: &Lab, record: &ResultRecord) -> String {
    record.outputs[0].uri.strip_prefix(&format!("s3://{}/", lab.name)).unwrap().to_owned()
}

#[tokio::test]
async fn a_large_answer_is_an_object_of_parts() {
    lab::with("parts", async |lab| {
        let stub = Stub::start();
        let _worker = worker(lab, &stub, MEBIBYTES).await;
        lab.send(&film("film", MEBIBYTES)).await;
        let record = lab.record("film").await;
        assert_eq!(record.status, JobStatus::Completed, "{:?}", record.error);
        let output = &record.outputs[0];
        assert_eq!((output.bytes, output.content_type.as_str()), (MEBIBYTES << 20, "video/mp4"));
        assert_eq!(output.sha256, sha256(20));
        let object = lab.object(&key(lab, &record)).await;
        assert_eq!((object.content_type.as_str(), object.metadata["job-id"].as_str()), ("video/mp4", "film"));
        assert_eq!(hex::encode(Sha256::digest(&object.body)), output.sha256);
        assert!(object.etag.contains("-3"), "three parts: {}", object.etag);
        assert_eq!(unfinished(lab).await, 0);
    })
    .await;
}

#[tokio::test]
async fn of_an_answer_that_is_too_large_nothing_stays() {
    lab::with("parts-aborted", async |lab| {
        let stub = Stub::start();
        let _worker = worker(lab, &stub, MEBIBYTES - 1).await;
        lab.send(&film("film", MEBIBYTES)).await;
        until_true("it is tried twice", async || stub.tries("film") > 1).await;
        until_true("uploads are given up", async || unfinished(lab).await == 0).await;
        let objects = lab.s3.list_objects_v2().bucket(&lab.name).prefix(format!("{PREFIX}film")).send().await.unwrap();
        let films: Vec<_> = objects.contents().iter().filter_map(|o| o.key()).filter(|k| k.ends_with("mp4")).collect();
        assert!(films.is_empty(), "{films:?}");
    })
    .await;
}

#[tokio::test]
async fn where_its_parts_are_taken_away_it_is_made_again() {
    lab::with("parts-gone", async |lab| {
        let stub = Stub::start();
        let _worker = worker(lab, &stub, MEBIBYTES).await;
        lab.send(&stalled_film("film", MEBIBYTES, 5000)).await;
        until_true("an upload is under way", async || unfinished(lab).await == 1).await;
        let uploads = lab.s3.list_multipart_uploads().bucket(&lab.name).send().await.unwrap();
        let begun = &uploads.uploads()[0];
        let abort = lab.s3.abort_multipart_upload().bucket(&lab.name);
        abort.key(begun.key().unwrap()).upload_id(begun.upload_id().unwrap()).send().await.unwrap();
        let record = lab.record("film").await;
        assert_eq!((record.status, stub.tries("film")), (JobStatus::Completed, 2), "{:?}", record.error);
        assert_eq!(record.outputs[0].sha256, sha256(20));
        assert_eq!(unfinished(lab).await, 0);
    })
    .await;
}

#[tokio::test]
async fn of_what_a_worker_that_stops_gives_up_nothing_stays() {
    lab::with("parts-stopped", async |lab| {
        let stub = Stub::start();
        let mut worker = worker(lab, &stub, MEBIBYTES).await;
        lab.send(&stalled_film("film", MEBIBYTES, 3_600_000)).await;
        until_true("an upload is under way", async || unfinished(lab).await == 1).await;
        worker.signal(Signal::Term).await;
        assert!(worker.ended().await.success(), "{}", worker.log());
        assert_eq!(unfinished(lab).await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_there_already_is_kept() {
    lab::with("parts-there", async |lab| {
        let stub = Stub::start();
        let _worker = worker(lab, &stub, MEBIBYTES).await;
        lab.send(&film("first", MEBIBYTES)).await;
        let record = lab.record("first").await;
        let first = key(lab, &record);

        // another job's
        put(lab, &first.replace("first", "second"), &json!({ "job-id": "another" })).await;
        lab.send(&film("second", MEBIBYTES)).await;
        assert_eq!(lab.record("second").await.error.unwrap().code, "OutputKeyTaken");

        // this job's, from a worker that died before it could say so
        let known = json!({ "job-id": "first", "input-sha256": record.input_sha256, "consumer": CONSUMER });
        lab.s3.delete_object().bucket(&lab.name).key(format!("{PREFIX}first.record.json")).send().await.unwrap();
        put(lab, &first, &known).await;
        lab.send(&film("first", MEBIBYTES)).await;
        let again = lab.record("first").await;
        assert_eq!((again.status, again.outputs[0].bytes), (JobStatus::Completed, 5));
        assert_eq!(again.outputs[0].sha256, hex::encode(Sha256::digest("there")));
        until_true("uploads are given up", async || unfinished(lab).await == 0).await;
    })
    .await;
}

/// Puts a small object with this metadata.
async fn put(lab: &Lab, key: &str, metadata: &Value) {
    let mut call = lab.s3.put_object().bucket(&lab.name).key(key).body(ByteStream::from_static(b"there"));
    for (name, value) in metadata.as_object().unwrap() {
        call = call.metadata(name, value.as_str().unwrap());
    }
    call.send().await.unwrap();
}
