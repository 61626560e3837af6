//! Task TextEmbedding from end to end: a model from S3; texts as plain bodies, as several inputs and as an object of JSON Lines
//! become vectors, and one that is refused is named.

use millrace_api::JobStatus;
use millrace_worker::model::text_embedding::make_model;
use serde_json::{Value, json};

use crate::lab::{BUCKET, Lab, PREFIX};
use crate::program;

#[tokio::test]
async fn texts_become_vectors_in_every_form() {
    let lab = Lab::new(5).await;
    let model = lab.tiny_model("TextEmbedding", make_model, json!({ "parameters": { "dimensions": 8 } })).await;
    lab.put("uploads/texts.jsonl", b"\"a cat\"\n{\"id\": 7, \"text\": \"a dog\"}\n".to_vec()).await;
    let settings = json!({ "queue": { "allow": { "inputBuckets": [BUCKET] } }, "model": model });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;

    let plain = lab.send("a cat").await;
    let source = format!("s3://{BUCKET}/uploads/texts.jsonl");
    lab.send(json!({ "job_id": "several", "inputs": ["a cat", { "text": "a dog", "dimensions": 4 }] })).await;
    lab.send(json!({ "job_id": "lines", "input": { "source": source } })).await;
    lab.send(json!({ "job_id": "array", "input": { "source": source, "format": "npy" } })).await;
    lab.send(json!({ "job_id": "bad", "text": "cat ".repeat(200), "truncate": "error" })).await;
    lab.send(json!({ "job_id": "gone", "input": { "source": format!("s3://{BUCKET}/nothing.jsonl") } })).await;

    let one = lab.record(&plain).await;
    let value = one.value.unwrap();
    assert_eq!((one.status, one.outputs.len(), &value["tokens"]), (JobStatus::Completed, 0, &json!(4)));
    assert_eq!(value["embedding"].as_array().unwrap().len(), 8);
    let several = lab.record("several").await.value.unwrap();
    assert_eq!((several[0]["tokens"].as_u64(), several[1]["embedding"].as_array().unwrap().len()), (Some(4), 4));

    let lines = lab.record("lines").await;
    assert_eq!((lines.outputs[0].content_type.as_str(), lines.value), ("application/jsonl", None));
    let array = lab.record("array").await;
    assert_eq!(array.outputs[0].uri, format!("s3://{BUCKET}/{PREFIX}array.npy"));
    let objects = lab.model.objects(BUCKET).unwrap();
    let text = String::from_utf8(objects[&format!("{PREFIX}lines.jsonl")].body.to_vec()).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[1]["id"], &rows[0]["tokens"]), (2, &json!(7), &json!(4)));
    assert_eq!(objects[&format!("{PREFIX}array.npy")].body.len(), 128 + 2 * 8 * 4);

    for (job, field) in [("bad", "text"), ("gone", "source")] {
        let error = lab.record(job).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("InvalidInput", Some(field)), "{}", error.message);
    }
    lab.drained().await;
}
