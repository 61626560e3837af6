//! Texts become vectors: plain bodies, several inputs of one job, an object of JSON Lines; they are those that
//! `millrace-worker infer` gives, and a text that cannot be read is named.

use anyhow::{Context as _, Result, ensure};
use millrace_api::JobStatus;
use millrace_e2e::{Lab, Manifest, infer, scenario};
use serde_json::{Value, json};

const TEXTS: [&str; 4] =
    ["a lighthouse at night", "the cat and the dog", "x", "how many jobs wait in the queue, and for how long?"];
const LINES: &str = "\"a lighthouse at night\"\n{\"id\": \"b\", \"text\": \"x\"}\n";
const OBJECT: &str = "uploads/texts.jsonl";
/// How far the numbers of a vector may be apart that was made in another batch.
const CLOSE: f64 = 1e-6;

#[tokio::test]
async fn texts_become_vectors() {
    scenario("embeddings", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("texts").await?;
    let (model, folder) = lab.embedding_model().await?;
    let upload = folder.path().join("texts.jsonl");
    std::fs::write(&upload, LINES)?;
    lab.upload(&lab.name, OBJECT, &upload).await?;
    let manifest = Manifest::text_embedding(lab, "reader", &queue, &model);
    let consumer = lab.apply(&manifest).await?;

    let mut bodies: Vec<String> = TEXTS.map(str::to_owned).to_vec();
    bodies
        .push(json!({ "job_id": "several", "inputs": [TEXTS[0], { "text": TEXTS[1], "dimensions": 8 }] }).to_string());
    let source = format!("s3://{}/{OBJECT}", lab.name);
    bodies.push(json!({ "job_id": "lines", "input": { "source": source } }).to_string());
    bodies.push(json!({ "job_id": "array", "input": { "source": source, "format": "npy" } }).to_string());
    bodies.push(json!({ "job_id": "bad", "text": "cat ".repeat(200), "truncate": "error" }).to_string());
    let messages = queue.send(&bodies).await?;
    let ledger = consumer.ledger(&queue).await?;

    let by_hand = |input: &Value| infer("TextEmbedding", folder.path(), &input.to_string());
    for (message, text) in messages.iter().zip(TEXTS) {
        let record = ledger.record(message)?;
        ensure!(record.status == JobStatus::Completed && record.outputs.is_empty(), "{record:?}");
        alike(record.value.as_ref().context("no value")?, &by_hand(&json!({ "text": text }))?)?;
    }
    let several = ledger.record(&messages[4])?.value.clone().context("no value")?;
    alike(&several[0], &by_hand(&json!({ "text": TEXTS[0] }))?)?;
    alike(&several[1], &by_hand(&json!({ "text": TEXTS[1], "dimensions": 8 }))?)?;

    let file = lab.object(&format!("{}lines.jsonl", consumer.prefix())).await?;
    let lines: Vec<Value> =
        String::from_utf8(file.body)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 2 && lines[0].get("id").is_none() && lines[1]["id"] == "b", "{lines:?}");
    alike(&lines[0], &by_hand(&json!({ "text": TEXTS[0] }))?)?;
    let array = lab.object(&format!("{}array.npy", consumer.prefix())).await?;
    ensure!(array.body.starts_with(b"\x93NUMPY") && array.body.len() == 128 + 2 * 32 * 4, "{} bytes", array.body.len());

    ledger.dead(&messages[7])?;
    let error = ledger.record(&messages[7])?.error.clone().context("no error")?;
    ensure!((error.code.as_str(), error.field.as_deref()) == ("InvalidInput", Some("text")), "{error:?}");
    ensure!(error.message.contains("has 200 tokens"), "{error:?}");
    Ok(())
}

/// Whether two results are the same vector.
fn alike(found: &Value, known: &Value) -> Result<()> {
    let numbers =
        |value: &Value| -> Option<Vec<f64>> { value["embedding"].as_array()?.iter().map(Value::as_f64).collect() };
    let (one, other) = numbers(found).zip(numbers(known)).with_context(|| format!("no vector: {found}, {known}"))?;
    let close = one.len() == other.len() && one.iter().zip(&other).all(|(a, b)| (a - b).abs() <= CLOSE);
    ensure!(close && found["tokens"] == known["tokens"], "{found} is not {known}");
    Ok(())
}
