//! Results are found where workers put them.

use std::time::Duration;

use futures::StreamExt;
use millrace_api::{JobStatus, RecordOutput};
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::{Error, Job, Patience, Sent};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::lab::{BUCKET, Lab};

/// Enough for a busy machine.
fn patience() -> Patience {
    Patience { first: Duration::from_millis(20), ..Patience::of(Duration::from_mins(1)) }
}

fn sent(job_id: &str) -> Sent {
    Sent { job_id: job_id.into(), message_id: "m".into(), input_sha256: "h".into() }
}

#[tokio::test]
async fn each_end_is_told_as_it_comes() {
    let lab = Lab::standard().await;
    let all = vec![sent("a"), sent("b"), sent("c")];
    let mut ends = std::pin::pin!(lab.client.wait_all(all, patience()));
    for (name, status, place) in [("b", "COMPLETED", 1), ("c", "FAILED", 2), ("a", "EXPIRED", 0)] {
        lab.put_record(name, json!({ "status": status })).await;
        let (index, end) = ends.next().await.unwrap();
        assert_eq!((index, end.unwrap().job_id.as_str()), (place, name));
    }
    assert!(ends.next().await.is_none());
}

#[tokio::test]
async fn an_earlier_failure_is_not_the_end() {
    let lab = Lab::standard().await;
    lab.put_record("a", json!({ "status": "FAILED", "message_id": "earlier" })).await;
    let short = Patience { timeout: Duration::from_millis(50), ..patience() };
    let error = lab.client.wait(&sent("a"), short).await.unwrap_err();
    assert!(matches!(error, Error::NoResult { .. }), "{error}");
    lab.put_record("a", json!({})).await;
    assert_eq!(lab.client.wait(&sent("a"), short).await.unwrap().status, JobStatus::Completed);
}

#[tokio::test]
async fn of_an_id_that_another_job_has_the_own_record_is_found() {
    let lab = Lab::standard().await;
    lab.put_record("a", json!({ "message_id": "other", "input_sha256": "other" })).await;
    let wrong = json!({ "status": "FAILED", "error": { "code": "JobIdReused", "message": "…" } });
    lab.put_record("a~m", wrong).await;
    let record = lab.client.wait(&sent("a"), patience()).await.unwrap();
    assert_eq!(record.error.unwrap().code, "JobIdReused");
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out_and_other_is_told() {
    let lab = Lab::standard().await;
    lab.put_record("a", json!({})).await;
    let refuse = |refusal| vec![Rule::on(Operation::GetObject, Effect::Refuse(refusal)).calls(1..=4)];
    lab.inject(refuse(Refusal::SlowDown));
    assert!(lab.client.wait(&sent("a"), patience()).await.is_ok());
    lab.inject(refuse(Refusal::AccessDenied));
    let error = lab.client.wait(&sent("a"), patience()).await.unwrap_err().to_string();
    assert!(error.contains("s3:GetObject on s3://results/out/a.record.json"), "{error}");
    assert!(error.contains("allow your own user or role this action"), "{error}");
}

#[tokio::test]
async fn a_record_is_found_by_the_id_as_it_was_sent_or_as_keys_have_it() {
    let lab = Lab::standard().await;
    let job = Job { id: Some("order 7/a".into()), ..Job::text("x") };
    lab.put_record(&job.key_id().unwrap(), json!({})).await;
    for id in ["order 7/a", "order%207%2Fa"] {
        assert!(lab.client.record(id).await.unwrap().is_some(), "{id}");
    }
    assert!(lab.client.record("order").await.unwrap().is_none());
    assert_eq!(lab.client.record_names("order 7").await.unwrap(), ["order%207%2Fa"]);
}

#[tokio::test]
async fn a_download_is_what_the_record_says_or_nothing() {
    let lab = Lab::standard().await;
    let put = lab.s3.put_object().bucket(BUCKET).key("out/a.txt");
    put.body(aws_sdk_s3::primitives::ByteStream::from_static(b"hello")).send().await.unwrap();
    let output = |content: &str| RecordOutput {
        uri: format!("s3://{BUCKET}/out/a.txt"),
        content_type: "text/plain".into(),
        bytes: 5,
        sha256: hex::encode(Sha256::digest(content)),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    let error = lab.client.download(&output("other"), &file).await.unwrap_err().to_string();
    assert!(error.contains("sha256") && std::fs::read_dir(folder.path()).unwrap().next().is_none(), "{error}");
    lab.client.download(&output("hello"), &file).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
}
