//! Task TextGeneration from end to end: a model from S3; prompts as plain bodies, as several of one job and as conversations
//! become texts, jobs join those that run, and one that is refused is named.

use millrace_api::JobStatus;
use millrace_worker::model::text_generation::make_model;
use serde_json::json;

use crate::lab::{BUCKET, Lab, PREFIX};
use crate::program;

#[tokio::test]
async fn prompts_become_texts_in_every_form() {
    let lab = Lab::new(5).await;
    let more = json!({ "parameters": { "max_tokens": 20 }, "batch": { "maxSize": 4 } });
    let model = lab.tiny_model("TextGeneration", make_model, more).await;
    let mut worker = program::start(&lab, "a", json!({ "model": model }));
    worker.until_ready().await;

    let plain = lab.send("a cat").await;
    let talk = json!([{ "role": "user", "content": "who is there" }]);
    lab.send(json!({ "job_id": "one", "prompt": "a lighthouse", "seed": 7 })).await;
    lab.send(json!({ "job_id": "again", "prompt": "a lighthouse", "seed": 7 })).await;
    lab.send(json!({ "job_id": "several", "prompts": ["a cat", "a dog"] })).await;
    lab.send(json!({ "job_id": "talk", "messages": talk, "max_tokens": 100 })).await;
    lab.send(json!({ "job_id": "file", "prompt": "the sea", "format": "text" })).await;
    lab.send(json!({ "job_id": "long", "prompt": " cat".repeat(300) })).await;
    lab.send(json!({ "job_id": "role", "messages": [{ "role": "judge", "content": "a" }] })).await;

    let one = lab.record(&plain).await;
    let value = one.value.unwrap();
    assert_eq!((one.status, &value["usage"]["prompt_tokens"]), (JobStatus::Completed, &json!(3)));
    assert_eq!(lab.record("one").await.value, lab.record("again").await.value);
    assert_eq!(lab.record("several").await.value.unwrap().as_array().unwrap().len(), 2);
    assert!(lab.record("talk").await.value.unwrap()["text"].is_string());
    let file = lab.record("file").await;
    assert_eq!(file.outputs[0].uri, format!("s3://{BUCKET}/{PREFIX}file.txt"));
    for (job, field, wanted) in [("long", "prompt", "has 301 tokens"), ("role", "messages", "role judge is none of")] {
        let error = lab.record(job).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("InvalidInput", Some(field)), "{}", error.message);
        assert!(error.message.contains(wanted), "{}", error.message);
    }
    lab.drained().await;
}
