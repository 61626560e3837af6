//! Messages that fail each time, among good ones: some can never run, on others the model fails however often it is tried.
//! Each ends in the dead-letter queue with a FAILED record that says why, and the good ones are not held up.

use anyhow::{Result, ensure};
use millrace_api::JobStatus;
use millrace_e2e::{Lab, Ledger, Manifest, scenario};
use serde_json::json;

const GOOD: [&str; 6] = ["a cat", "a dog", "a hen", r#"{"prompt":"a cow","seed":3}"#, "a fox", "an owl"];
/// Bodies with the field at fault; empty for the whole body.
const NEVER: [(&str, &str); 3] =
    [(r#"{"prompt":"a pig","steps":0}"#, "steps"), (r#"{"promt":"a rat"}"#, "promt"), (r#"{""#, "")];
/// The model makes NaN of this word.
const FAILING: [&str; 3] = ["z", "a lion and a z", r#"{"job_id":"zebra","prompt":"z z z"}"#];
/// The queue's maxReceiveCount.
const RECEIVES: u32 = 5;

#[tokio::test]
async fn each_is_given_up_by_name_and_holds_up_nobody() {
    scenario("poison-message", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let model = lab.spoiled_model().await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        .with("/spec/model/batch", json!({ "maxSize": 4 }))
        .replicas(2, 2);
    let consumer = lab.apply(&manifest).await?;
    let mut sent = Vec::new();
    for (poison, good) in NEVER.map(|(body, _)| body).into_iter().chain(FAILING).zip(GOOD) {
        sent.extend(queue.send(&[poison, good]).await?);
    }
    let ledger = consumer.ledger(&queue).await?;

    for body in GOOD {
        let record = ledger.record(id_of(&ledger, body)?)?;
        ensure!((record.status, record.attempt) == (JobStatus::Completed, 1), "{body}: {record:?}");
        ensure!(record.outputs.len() == 1, "{body}: {record:?}");
    }
    for (body, field) in NEVER {
        let id = id_of(&ledger, body)?;
        failed(&ledger, id, body, "InvalidInput", 1)?;
        // a worker sent it on
        let attributes = &ledger.dead(id)?.attributes;
        let attribute = |name: &str| attributes.get(name).map(String::as_str).unwrap_or_default();
        let told = [attribute("millrace-error-code"), attribute("millrace-error-field"), attribute("millrace-job-id")];
        ensure!(told == ["InvalidInput", field, id], "{body}: {attributes:?}");
    }
    for body in FAILING {
        let id = id_of(&ledger, body)?;
        failed(&ledger, id, body, "ModelError", RECEIVES)?;
        let error = ledger.record(id)?.error.clone().unwrap_or_else(|| unreachable!("it was just looked at"));
        ensure!(error.message.contains("NaN"), "{body}: {error:?}");
        // SQS moved it
        ensure!(ledger.dead(id)?.attributes.is_empty(), "{body}: {:?}", ledger.dead(id)?);
    }
    ensure!(sent.len() == ledger.records().count(), "{} messages", sent.len());
    Ok(())
}

fn id_of<'a>(ledger: &'a Ledger, body: &str) -> Result<&'a str> {
    let found = ledger.records().find(|(sent, _)| sent.body == body);
    found.map(|(sent, _)| sent.id.as_str()).ok_or_else(|| anyhow::anyhow!("{body} has no record"))
}

fn failed(ledger: &Ledger, id: &str, body: &str, code: &str, attempt: u32) -> Result<()> {
    let record = ledger.record(id)?;
    let found = record.error.as_ref().map(|error| error.code.as_str());
    ensure!((record.status, found, record.attempt) == (JobStatus::Failed, Some(code), attempt), "{body}: {record:?}");
    ensure!(record.body.as_deref() == Some(body) && record.outputs.is_empty(), "{body}: {record:?}");
    Ok(())
}
