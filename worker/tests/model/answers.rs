//! Task TextGeneration from end to end: a model from S3; prompts as plain bodies, as several of one job and as conversations
//! become texts, jobs join those that run, and one that is refused is named.

use aws_sdk_s3::primitives::ByteStream;
use millrace_api::JobStatus;
use serde_json::{Value, json};

use crate::lab::{BUCKET, Lab, PREFIX};
use crate::program;

/// Makes the tiny model and puts it beside the results.
async fn upload_model(lab: &Lab) {
    let dir = lab.folder.path().join("tiny");
    millrace_worker::model::text_generation::make_model(&dir, 7).unwrap();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version_latest()
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(lab.model.endpoint())
        .force_path_style(true);
    let s3 = aws_sdk_s3::Client::from_conf(config.build());
    for file in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
        let key = format!("tiny/{}", file.file_name().unwrap().display());
        let body = ByteStream::from(std::fs::read(&file).unwrap());
        s3.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
    }
}

fn settings(lab: &Lab) -> Value {
    json!({
        "model": {
            "task": "TextGeneration",
            "source": { "s3": { "uri": format!("s3://{BUCKET}/tiny/"), "endpoint": lab.model.endpoint() } },
            "device": "Cpu",
            "parameters": { "max_tokens": 20 },
            "batch": { "maxSize": 4 },
        },
    })
}

#[tokio::test]
async fn prompts_become_texts_in_every_form() {
    let lab = Lab::new(5).await;
    upload_model(&lab).await;
    let mut worker = program::start(&lab, "a", settings(&lab));
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
