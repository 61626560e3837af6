//! Prompts and conversations become texts: plain bodies, several prompts of one job, messages; they are those that
//! `millrace-worker infer` gives, the same seed gives the same, and a prompt that is too long is named while the rest goes on.

use anyhow::{Context as _, Result, ensure};
use millrace_api::JobStatus;
use millrace_e2e::{Lab, Manifest, infer, scenario};
use serde_json::{Value, json};

#[tokio::test]
async fn prompts_become_texts() {
    scenario("text-generation", run).await;
}

async fn run(lab: &Lab) -> Result<()> {
    let queue = lab.queue("prompts").await?;
    let (model, folder) = lab.writing_model().await?;
    let manifest = Manifest::text_generation(lab, "writer", &queue, &model)
        .with("/spec/model/parameters", json!({ "max_tokens": 24 }));
    let consumer = lab.apply(&manifest).await?;

    let messages = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "who is there" }]);
    let inputs = [
        json!({ "prompt": "a lighthouse at night", "seed": 7 }),
        json!({ "prompt": "a lighthouse at night", "seed": 7 }),
        json!({ "prompts": ["the old king", "a cat"], "temperature": 0 }),
        json!({ "messages": messages, "seed": 3, "stop": ["e", "t"] }),
        json!({ "prompt": " cat".repeat(300) }),
        json!({ "prompt": "the sea", "format": "text", "seed": 1, "max_tokens": 200 }),
    ];
    let jobs = ["one", "again", "several", "talk", "bad", "file"];
    let mut bodies: Vec<String> =
        jobs.iter().zip(&inputs).map(|(job, input)| json!({ "job_id": job, "input": input }).to_string()).collect();
    bodies.push("a plain body".into());
    let sent = queue.send(&bodies).await?;
    let ledger = consumer.ledger(&queue).await?;

    let value = |index: usize| -> Result<Value> {
        let record = ledger.record(&sent[index])?;
        ensure!(record.status == JobStatus::Completed, "{record:?}");
        record.value.clone().context("no value")
    };
    for index in [0, 2, 3] {
        let mut input = inputs[index].clone();
        input["max_tokens"] = json!(24);
        let by_hand = infer("TextGeneration", folder.path(), &input.to_string())?;
        ensure!(value(index)? == by_hand, "{} is not {by_hand}", value(index)?);
    }
    ensure!(value(1)? == value(0)?, "the same seed gave {} and {}", value(0)?, value(1)?);
    ensure!(value(2)?.as_array().map(Vec::len) == Some(2), "{}", value(2)?);
    let usage = value(0)?["usage"].clone();
    ensure!(usage["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 1), "{usage}");
    let text = value(3)?["text"].as_str().context("no text")?.to_owned();
    ensure!(!text.contains(['e', 't']), "{text}");
    ensure!(value(6)?["finish_reason"].is_string(), "{}", value(6)?);

    let file = lab.object(&format!("{}file.txt", consumer.prefix())).await?;
    ensure!(String::from_utf8(file.body).is_ok() && value(5)?.get("text").is_none(), "{}", value(5)?);

    ledger.dead(&sent[4])?;
    let error = ledger.record(&sent[4])?.error.clone().context("no error")?;
    ensure!((error.code.as_str(), error.field.as_deref()) == ("InvalidInput", Some("prompt")), "{error:?}");
    ensure!(error.message.contains("has 301 tokens") && error.message.contains("reads 256"), "{error:?}");
    Ok(())
}
