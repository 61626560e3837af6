//! Messages that can never run, among good ones: each gets a FAILED record that names its field and goes to the
//! dead-letter queue; nothing is stuck.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use millrace_api::{JobStatus, ResultRecord};
use millrace_e2e::{Lab, Manifest, Record, scenario};
use serde_json::json;

/// Body, field at fault (empty for the whole body), and words of the error.
const BAD: [(&str, &str, &str); 24] = [
    (r#"{"prompt": "a cat""#, "", "the body is not JSON"),
    ("  ", "", "the body is blank"),
    (r#"{"inputs":[]}"#, "inputs", "must have 1 to 256 entries, has 0"),
    (r#"{"inputs":"x"}"#, "inputs", "must be a list, is a text"),
    (r#"{"inputs":[1]}"#, "inputs[0]", "must be an object or a text, is a number"),
    (r#"{"inputs":["x"],"input":"y"}"#, "input", "must not stand beside inputs"),
    (r#"{"inputs":["x",{"prompt":"y","width":100}]}"#, "inputs[1].width", "the nearest are 96 and 104"),
    (r#"{"job_id":"null-input","input":null}"#, "input", "must be an object or a text, is null"),
    (r#"{"job_id":7,"prompt":"x"}"#, "job_id", "must be a text, is a number"),
    (r#"{"job_id":"","prompt":"x"}"#, "job_id", "must have 1 to 256 characters"),
    (r#"{"prompt":"x","deadline":"tomorrow"}"#, "deadline", "must be a time such as"),
    (r#"{"prompt":"x","metadata":[]}"#, "metadata", "must be an object, is a list"),
    (r#"{"prompt":"x","reply_to":"q"}"#, "reply_to", "not in queue.allow.replyQueues"),
    (r#"{"prompt":"x","priority":"high"}"#, "priority", "must be an integer"),
    (r#"{"entity_id":"e","task_name":"t","task_config":{}}"#, "timestamp", "is missing"),
    (r#"{"entity_id":[],"task_name":"t","task_config":{},"timestamp":1}"#, "entity_id", "must be a text or a number"),
    (
        r#"{"entity_id":"e","task_name":"t","task_config":3,"timestamp":1}"#,
        "task_config",
        "must be an object or a text",
    ),
    (r#"{"steps":4}"#, "prompt", "is required"),
    (r#"{"prompt":7}"#, "prompt", "must be a text, not 7"),
    (r#"{"promt":"a cat"}"#, "promt", "did you mean prompt?"),
    (r#"{"prompt":"x","width":100}"#, "width", "must be a multiple of 8, not 100"),
    (r#"{"prompt":"x","steps":151}"#, "steps", "must be an integer from 1 to 150, not 151"),
    (r#"{"prompt":"x","steps":"20"}"#, "steps", "remove the quotes"),
    (r#"{"prompt":"x","steps":1,"num_inference_steps":1}"#, "num_inference_steps", "is another name of steps"),
];

const GOOD: [&str; 4] = [
    "a cat",
    "{cat} on a mat",
    r#"{"prompt":"a dog","width":72,"seed":3}"#,
    r#"{"job_id":"two","inputs":["a hen",{"prompt":"a cow"}],"metadata":{"user":7}}"#,
];

#[tokio::test]
async fn each_is_refused_by_name_and_nothing_is_stuck() {
    scenario("bad-messages", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    tokio::try_join!(async { dead_lettered(lab).await.context("invalidInput: DeadLetter") }, async {
        deleted(lab).await.context("invalidInput: Delete")
    },)?;
    Ok(())
}

async fn dead_lettered(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let model = lab.model().await?;
    let manifest = Manifest::text_to_image(lab, "painter", &queue, &model)
        .with("/spec/model/batch", json!({ "maxSize": 4, "maxWaitMilliseconds": 20 }));
    let consumer = lab.apply(&manifest).await?;

    let long_prompt = json!({ "prompt": "a very long prompt ".repeat(300) }).to_string();
    let long_id = json!({ "prompt": "x", "job_id": "j".repeat(257) }).to_string();
    let mut bad = BAD.to_vec();
    bad.push((&long_prompt, "prompt", "tokens"));
    bad.push((&long_id, "job_id", "must have 1 to 256 characters once encoded, has 257"));
    let mut bodies: Vec<&str> = bad.iter().map(|(body, ..)| *body).collect();
    for (at, good) in GOOD.iter().enumerate() {
        bodies.insert(at * 7, good);
    }
    let messages = queue.send(&bodies).await?;
    let ledger = consumer.ledger(&queue).await?;

    let of_body: BTreeMap<&str, &str> = bodies.iter().copied().zip(messages.iter().map(String::as_str)).collect();
    for good in GOOD {
        let record = ledger.record(of_body[good])?;
        ensure!(record.status == JobStatus::Completed && !record.outputs.is_empty(), "{good}: {record:?}");
    }
    let two = ledger.record(of_body[GOOD[3]])?;
    ensure!(two.outputs.len() == 2 && two.metadata["user"] == 7, "{two:?}");
    for (body, field, words) in &bad {
        let record = ledger.record(of_body[body])?;
        failed_because(record, body, field, words).with_context(|| (*body).to_owned())?;
        let attributes = &ledger.dead(of_body[body])?.attributes;
        let attribute = |name: &str| attributes.get(name).map(String::as_str).unwrap_or_default();
        ensure!(attribute("millrace-error-code") == "InvalidInput", "{body}: {attributes:?}");
        ensure!(attribute("millrace-error-field") == *field, "{body}: {attributes:?}");
        ensure!(attribute("millrace-error-message").contains(words), "{body}: {attributes:?}");
        ensure!(attribute("millrace-job-id") == record.job_id, "{body}: {attributes:?}");
    }

    // an id that another job has
    let reused = r#"{"job_id":"two","input":"a pig"}"#;
    queue.send(&[reused]).await?;
    queue.await_empty().await?;
    let dead = queue.take_dead().await?;
    let [dead] = dead.as_slice() else { anyhow::bail!("not one message in the dead-letter queue: {dead:?}") };
    let code = dead.attributes.get("millrace-error-code").map(String::as_str);
    ensure!((dead.body.as_str(), code) == (reused, Some("JobIdReused")), "{dead:?}");
    Ok(())
}

fn failed_because(record: &ResultRecord, body: &str, field: &str, words: &str) -> Result<()> {
    let error = record.error.as_ref().context("no error in the record")?;
    ensure!(record.status == JobStatus::Failed, "{:?}", record.status);
    ensure!(record.body.as_deref() == Some(body), "another body: {:?}", record.body);
    ensure!(error.code == "InvalidInput", "{error:?}");
    ensure!(error.field.as_deref().unwrap_or_default() == field, "{error:?}");
    ensure!(error.message.contains(words), "{error:?} does not say {words:?}");
    ensure!(record.outputs.is_empty(), "outputs: {:?}", record.outputs);
    Ok(())
}

/// `invalidInput: Delete`, and job ids that come twice.
async fn deleted(lab: &Lab) -> Result<()> {
    let queue = lab.queue("echoes").await?;
    let manifest =
        Manifest::echo(lab, "echo", &queue, 10).with("/spec/queue/invalidInput", json!("Delete")).replicas(1, 1);
    let consumer = lab.apply(&manifest).await?;
    let job = r#"{"job_id":"order-1","input":"a cat"}"#;
    let first = queue.send(&[job]).await?;
    let record = consumer.await_completed(&first).await?.remove(0);
    ensure!(record.content.value == Some(json!("a cat")), "{record:?}");

    // the same job once more, another job of the same id, and one that is no job at all
    let other = r#"{"job_id":"order-1","input":"a dog"}"#;
    let later = queue.send(&[job, other, r#"{"job_id":"order-2","input":[]}"#]).await?;
    let ledger = consumer.ledger(&queue).await?;
    ensure!(later.iter().all(|message| ledger.dead(message).is_err()), "something is in the dead-letter queue");
    let records = consumer.records().await?;
    let at = |job: &str| -> Result<&Record> {
        let key = format!("{}{job}.record.json", consumer.prefix());
        records.iter().find(|r| r.key == key).with_context(|| format!("no record at {key}"))
    };
    let same = at("order-1")?;
    ensure!(same.etag == record.etag && same.content.message_id == first[0], "the job was done again: {same:?}");
    let reused = at(&format!("order-1~{}", later[1]))?;
    let error = reused.content.error.as_ref().context("no error")?;
    ensure!(reused.content.status == JobStatus::Failed && error.code == "JobIdReused", "{reused:?}");
    ensure!(error.field.as_deref() == Some("job_id") && reused.content.body.as_deref() == Some(other), "{reused:?}");
    ensure!(at("order-2")?.content.status == JobStatus::Failed, "order-2 did not fail");
    Ok(())
}
