//! Task SpeechToText from end to end: a model from S3; audio within messages and as objects becomes a value, a text or subtitles,
//! and what is no audio is named.

use millrace_api::JobStatus;
use millrace_worker::model::speech_to_text::make_model;
use serde_json::{Value, json};

use crate::lab::{BUCKET, Lab, PREFIX};
use crate::program;

/// A tone of FLAC, of half a second.
const TONE: &[u8] = include_bytes!("../../../bench/parity/goldens/speech/tone.flac");

#[tokio::test]
async fn audio_becomes_text_in_every_form() {
    let lab = Lab::new(5).await;
    let more = json!({ "parameters": { "language": "german" }, "batch": { "maxSize": 4 } });
    let model = lab.tiny_model("SpeechToText", make_model, more).await;
    lab.put("uploads/tone.flac", TONE.to_vec()).await;
    lab.put("uploads/text.txt", b"no sound at all".to_vec()).await;
    let settings = json!({ "queue": { "allow": { "inputBuckets": [BUCKET] } }, "model": model });
    let mut worker = program::start(&lab, "a", settings);
    worker.until_ready().await;

    let object = |name: &str| format!("s3://{BUCKET}/uploads/{name}");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, TONE);
    let plain = lab.send(encoded.as_str()).await;
    lab.send(json!({ "job_id": "object", "audio": object("tone.flac") })).await;
    lab.send(json!({ "job_id": "bare", "audio": object("tone.flac"), "timestamps": false })).await;
    lab.send(json!({ "job_id": "cues", "file": object("tone.flac"), "format": "vtt", "language": "fr" })).await;
    lab.send(json!({ "job_id": "words", "audio": object("tone.flac"), "response_format": "text" })).await;
    lab.send(json!({ "job_id": "silent", "audio": object("text.txt") })).await;
    lab.send(json!({ "job_id": "welsh", "audio": object("tone.flac"), "language": "welsh" })).await;

    let one = lab.record(&plain).await;
    let value = one.value.unwrap();
    assert_eq!((one.status, one.outputs.len()), (JobStatus::Completed, 0));
    assert_eq!((&value["language"], &value["duration"]), (&json!("de"), &json!(0.5)));
    assert!(value["segments"].is_array() && value["text"].is_string(), "{value}");
    assert_eq!(lab.record("object").await.value, Some(value));
    assert!(lab.record("bare").await.value.unwrap().get("segments").is_none());
    for (job, extension, begin) in [("cues", "vtt", "WEBVTT\n\n"), ("words", "txt", "")] {
        let record = lab.record(job).await;
        assert_eq!(record.outputs[0].uri, format!("s3://{BUCKET}/{PREFIX}{job}.{extension}"));
        let file =
            String::from_utf8(lab.model.objects(BUCKET).unwrap()[&format!("{PREFIX}{job}.{extension}")].body.to_vec())
                .unwrap();
        assert!(file.starts_with(begin) && file.ends_with('\n'), "{file}");
        assert_eq!(record.value.unwrap().get("text"), None::<&Value>);
    }
    for (job, field, wanted) in [("silent", "audio", "no audio of a kind"), ("welsh", "language", "knows de, en, fr")] {
        let error = lab.record(job).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("InvalidInput", Some(field)), "{}", error.message);
        assert!(error.message.contains(wanted), "{}", error.message);
    }
    lab.drained().await;
}
