//! Results are found where workers put them.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use millrace_api::JobStatus;
use millrace_aws_model::{Effect, Operation, Refusal, Rule};
use millrace_client::{Client, Error, Job, Patience, Sent, Trouble};
use serde_json::json;

use crate::lab::{BUCKET, Lab};
use crate::torn::Torn;

/// Enough for a busy machine.
fn patience() -> Patience {
    Patience { first: Duration::from_millis(20), ..Patience::of(Duration::from_mins(1)) }
}

fn sent(job_id: &str) -> Sent {
    Sent { job_id: job_id.into(), message_id: "m".into(), input_sha256: "h".into(), sent_at: None, attempt: None }
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
async fn a_failure_that_a_later_message_of_the_job_met_is_its_end() {
    let lab = Lab::standard().await;
    let redriven = json!({ "status": "FAILED", "message_id": "redriven" });
    let sent_now = Sent { sent_at: Some(Timestamp::now()), ..sent("a") };
    lab.put_record("a", redriven.clone()).await;
    assert_eq!(lab.client.wait(&sent_now, patience()).await.unwrap().message_id, "redriven");
    // a job that is sent to repeat that failure has not ended by it
    let again = Sent { attempt: Some("redriven".into()), ..sent_now };
    assert_eq!(lab.client.look(&again).await.unwrap(), None);
    assert_eq!(lab.client.failure(&again).await.unwrap(), None);
}

#[tokio::test]
async fn a_failure_that_comes_while_it_is_waited_for_is_the_end() {
    let lab = Lab::standard().await;
    for first in [Some("earlier"), None] {
        let name = first.unwrap_or("none");
        if let Some(message_id) = first {
            lab.put_record(name, json!({ "status": "FAILED", "message_id": message_id })).await;
        }
        // counts looks, and does nothing
        lab.inject(vec![Rule::on(Operation::GetObject, Effect::Late(Duration::ZERO..=Duration::ZERO))]);
        let sent = sent(name);
        let failing = async {
            while lab.model.injected()[0] < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            lab.put_record(name, json!({ "status": "FAILED", "message_id": "later" })).await;
        };
        let (record, ()) = tokio::join!(lab.client.wait(&sent, patience()), failing);
        assert_eq!(record.unwrap().message_id, "later", "{first:?}");
    }
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
    assert!(error.contains("s3:ListBucket"), "{error}");
}

#[tokio::test]
async fn an_s3_that_gives_no_answer_is_told() {
    let lab = Lab::standard().await;
    let nowhere = lab.s3.config().to_builder().endpoint_url("http://127.0.0.1:9").build();
    let s3 = aws_sdk_s3::Client::from_conf(nowhere);
    let client = Client::new(lab.client.consumer().clone(), lab.sqs.clone(), s3);
    let silence = Patience { silence: Duration::ZERO, ..patience() };
    let error = client.wait(&sent("a"), silence).await.unwrap_err();
    assert_eq!(error.trouble(), Some(Trouble::Unreachable), "{error}");
    let short = Patience { timeout: Duration::ZERO, ..patience() };
    let error = client.wait(&sent("a"), short).await.unwrap_err();
    assert!(matches!(error, Error::NoResult { .. }), "{error}");
    assert!(error.to_string().contains("the last look met s3:GetObject on s3://results/out/a.record.json"), "{error}");
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
async fn a_record_that_breaks_off_is_read_again() {
    let lab = Lab::standard().await;
    lab.put_record("a", json!({})).await;
    let record = &*lab.model.objects(BUCKET).unwrap()["out/a.record.json"].body.to_vec().leak();
    let torn = Torn::serve(record, 2).await;
    let client = Client::new(lab.client.consumer().clone(), lab.sqs.clone(), torn.s3(&lab));
    assert_eq!(client.wait(&sent("a"), patience()).await.unwrap().job_id, "a");
}
