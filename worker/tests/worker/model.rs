//! Models from S3: a prompt becomes a picture; a folder that is broken is named, and the repaired one is taken.

use std::path::{Path, PathBuf};

use millrace_api::{JobStatus, WorkerState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::lab::{self, CONSUMER, Lab, PREFIX};
use crate::program;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";

/// Makes the tiny model and puts it beside the results.
async fn upload_model(lab: &Lab) -> PathBuf {
    let dir = lab.folder.path().join("tiny");
    let args = ["make-model", "--task", "TextToImage", "--seed", "7", dir.to_str().unwrap()];
    let made = program::output(lab, &args).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for component in ["", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"] {
        for entry in std::fs::read_dir(dir.join(component)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                lab.upload(&key(&dir, &path), &path).await;
            }
        }
    }
    dir
}

fn key(dir: &Path, file: &Path) -> String {
    format!("tiny/{}", file.strip_prefix(dir).unwrap().display())
}

fn settings(lab: &Lab) -> Value {
    json!({
        "model": {
            "task": "TextToImage",
            "source": { "s3": { "uri": format!("s3://{}/tiny/", lab.name), "endpoint": lab.endpoint } },
            "device": "Cpu",
            "parameters": { "steps": 1, "guidance_scale": 0, "width": 64, "height": 64 },
        },
        "output": { "keyTemplate": "image_{message_id}.{extension}" },
    })
}

#[tokio::test]
async fn a_prompt_becomes_a_picture() {
    lab::with("picture", async |lab| {
        upload_model(lab).await;
        let mut worker = program::start(lab, "a", settings(lab));
        worker.until_ready().await;
        let message_id = lab.send("a cat on a mat").await;
        let record = lab.record(&message_id).await;
        assert_eq!((record.status, record.value.is_none(), record.outputs.len()), (JobStatus::Completed, true, 1));
        assert_eq!(record.model.source, format!("s3://{}/tiny/", lab.name));
        assert!(record.model.revision.is_some() && record.seed.is_some(), "{record:?}");

        let key = format!("{PREFIX}image_{message_id}.png");
        let (output, object) = (&record.outputs[0], lab.object(&key).await);
        assert_eq!(output.uri, format!("s3://{}/{key}", lab.name));
        assert_eq!((output.content_type.as_str(), object.content_type.as_str()), ("image/png", "image/png"));
        assert_eq!(output.bytes, object.body.len() as u64);
        assert_eq!(output.sha256, hex::encode(Sha256::digest(&object.body)));
        assert_eq!((object.metadata["job-id"].as_str(), &object.metadata["sha256"]), (&*message_id, &output.sha256));
        let picture = png::Decoder::new(std::io::Cursor::new(&object.body)).read_info().unwrap();
        assert_eq!((picture.info().width, picture.info().height), (64, 64));
    })
    .await;
}

#[tokio::test]
async fn the_phases_of_a_start_are_told() {
    lab::with("startup", async |lab| {
        upload_model(lab).await;
        let mut worker = program::start(lab, "a", settings(lab));
        worker.until_ready().await;
        let page = worker.get("/metrics").await.unwrap().body;
        let seconds = |phase: &str| -> f64 {
            let is = |line: &&str| {
                line.starts_with("millrace_worker_startup_seconds{") && line.contains(&format!("phase=\"{phase}\""))
            };
            let line = page.lines().find(is).unwrap_or_else(|| panic!("no {phase}: {page}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let phases = ["configure", "fetch", "load", "warm_up"].map(seconds);
        assert!(phases.iter().all(|seconds| *seconds > 0.0) && seconds("reach") > 0.0, "{page}");
        assert!(phases.iter().sum::<f64>() <= seconds("total"), "{page}");
        let ready = worker.log().lines().find(|line| line.contains("ready")).map(str::to_owned).unwrap();
        assert!(
            ["configure", "reach", "fetch", "load", "warm_up", "total"].iter().all(|p| ready.contains(p)),
            "{ready}"
        );
    })
    .await;
}

#[tokio::test]
async fn workers_that_share_a_cache_download_once() {
    lab::with("shared", async |lab| {
        upload_model(lab).await;
        let cache = lab.folder.path().join("shared");
        let env = [program::CREDENTIALS, &[("MILLRACE_CACHE_DIR", cache.to_str().unwrap())]].concat();
        let mut workers = ["a", "b", "c"].map(|name| program::start_with(lab, name, settings(lab), &env));
        for worker in &mut workers {
            worker.until_ready().await;
        }
        let downloads = workers.iter().filter(|worker| worker.log().contains(" downloaded in ")).count();
        assert_eq!(downloads, 1, "{}", workers.map(|worker| worker.log()).concat());
    })
    .await;
}

#[tokio::test]
async fn a_picture_from_a_picture_can_be_watched() {
    lab::with("watched", async |lab| {
        let dir = upload_model(lab).await;
        let picture = dir.join("begin.png");
        let mut encoder = png::Encoder::new(std::fs::File::create(&picture).unwrap(), 64, 64);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&[90; 64 * 64 * 3]).unwrap();
        lab.upload("begin.png", &picture).await;
        let mut settings = settings(lab);
        settings["queue"] = json!({ "allow": { "inputBuckets": [lab.name] } });
        settings["model"]["batch"] = json!({ "maxSize": 2 });
        let mut worker = program::start(lab, "a", settings);
        worker.until_ready().await;

        let image = format!("s3://{}/begin.png", lab.name);
        let long = json!({ "job_id": "long", "prompt": "a cat", "image": image, "strength": 1, "steps": 100, "preview_every_steps": 5 });
        lab.send(long).await;
        let under_way = |state: &WorkerState| {
            state.jobs.iter().any(|job| job.progress.is_some_and(|at| at.step > 0 && at.steps == 100))
        };
        worker.until_state("a job that is under way", under_way).await;
        // one that comes later joins, and is done first
        lab.send(json!({ "job_id": "short", "prompt": "a dog", "steps": 1 })).await;
        let (short, long) = (lab.record("short").await, lab.record("long").await);
        assert_eq!((short.status, long.status), (JobStatus::Completed, JobStatus::Completed));
        assert!(short.finished_at < long.finished_at, "{} and {}", short.finished_at, long.finished_at);
        let preview = lab.object(&format!("{PREFIX}long~0.preview.jpg")).await;
        assert_eq!((preview.content_type.as_str(), preview.metadata["job-id"].as_str()), ("image/jpeg", "long"));

        lab.send(json!({ "job_id": "gone", "prompt": "a cat", "image": format!("s3://{}/nothing.png", lab.name) })).await;
        let error = lab.record("gone").await.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("InvalidInput", Some("image")), "{}", error.message);
    })
    .await;
}

#[tokio::test]
async fn several_pictures_of_a_job_have_keys_of_their_own() {
    lab::with("pictures", async |lab| {
        upload_model(lab).await;
        let _worker = program::start(lab, "a", settings(lab));
        let message_id = lab.send(json!({ "job_id": "both", "inputs": ["a cat", { "prompt": "a dog" }] })).await;
        let record = lab.record("both").await;
        let keys = [0, 1].map(|index| format!("{PREFIX}image_{message_id}-{index}.png"));
        for (output, key) in record.outputs.iter().zip(&keys) {
            assert_eq!(output.uri, format!("s3://{}/{key}", lab.name));
            assert_eq!(output.sha256, hex::encode(Sha256::digest(&lab.object(key).await.body)));
        }
        assert_ne!(record.outputs[0].sha256, record.outputs[1].sha256);
        assert_eq!(record.outputs.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_taken_is_never_overwritten() {
    lab::with("taken", async |lab| {
        upload_model(lab).await;
        let mut settings = settings(lab);
        settings["output"]["keyTemplate"] = json!("{job_id}.{extension}");
        let _worker = program::start(lab, "a", settings);

        // this very job's, by an attempt that died before its record: adopted
        let ours = format!("{PREFIX}ours.png");
        let input = hex::encode(Sha256::digest(r#"{"prompt":"a cat"}"#));
        let identity =
            [("job-id", "ours"), ("input-sha256", &*input), ("consumer", CONSUMER), ("sha256", "of a picture")];
        lab.put(&ours, b"a picture", &identity).await;
        lab.send(json!({ "job_id": "ours", "prompt": "a cat" })).await;
        let record = lab.record("ours").await;
        let output = &record.outputs[0];
        assert_eq!((record.status, output.bytes, output.sha256.as_str()), (JobStatus::Completed, 9, "of a picture"));
        assert_eq!(lab.object(&ours).await.body, b"a picture");

        // the same id with another input, which got no further than its output: not this job's
        let other = format!("{PREFIX}other.png");
        lab.put(&other, b"a dog", &[("job-id", "other"), ("input-sha256", &*input), ("consumer", CONSUMER)]).await;
        lab.send(json!({ "job_id": "other", "prompt": "a dog" })).await;
        assert_eq!(lab.record("other").await.error.unwrap().code, "OutputKeyTaken");
        lab.take(&lab.dead_letters()).await;

        // somebody else's: refused, and left alone
        let theirs = format!("{PREFIX}theirs.png");
        lab.put(&theirs, b"a portrait", &[]).await;
        let body = json!({ "job_id": "theirs", "prompt": "a cat" });
        lab.send(&body).await;
        let record = lab.record("theirs").await;
        let error = record.error.unwrap();
        assert_eq!((record.status, error.code.as_str()), (JobStatus::Failed, "OutputKeyTaken"));
        assert!(error.message.contains(&theirs), "{}", error.message);
        assert_eq!(lab.take(&lab.dead_letters()).await.body(), Some(body.to_string().as_str()));
        assert_eq!(lab.object(&theirs).await.body, b"a portrait");

        // out of the way: FAILED is not final, the job sent again is a new attempt
        lab.drained().await;
        lab.s3.delete_object().bucket(&lab.name).key(&theirs).send().await.unwrap();
        lab.send(&body).await;
        lab.drained().await;
        let record = lab.record("theirs").await;
        assert_eq!((record.status, record.error, record.body), (JobStatus::Completed, None, None));
        assert_eq!(lab.object(&theirs).await.metadata["job-id"], "theirs");
    })
    .await;
}

#[tokio::test]
async fn names_the_broken_file_of_a_model_and_takes_the_repaired_one() {
    lab::with("corrupt", async |lab| {
        let dir = upload_model(lab).await;
        let whole = dir.join(WEIGHTS);
        let half = lab.folder.path().join("half");
        let bytes = std::fs::read(&whole).unwrap();
        std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
        lab.upload(&key(&dir, &whole), &half).await;

        let mut worker = program::start(lab, "a", settings(lab));
        let message = worker.until_problem("ModelCorrupt").await;
        assert!(message.contains(WEIGHTS) && message.contains("upload or download the model again"), "{message}");
        let page = worker.get("/readyz").await.unwrap();
        assert!(page.status == 503 && page.body.contains(WEIGHTS), "{page:?}");
        assert!(worker.log().contains(WEIGHTS), "{}", worker.log());

        lab.upload(&key(&dir, &whole), &whole).await;
        worker.until_ready().await;
        assert_eq!(worker.state().await.problems, []);
        assert_eq!(lab.record(&lab.send("a cat").await).await.status, JobStatus::Completed);
    })
    .await;
}

/// Has a model fail on texts with this letter: what it stands for is no number any more.
fn poison(dir: &Path, letter: &str) {
    let vocabulary: Value = serde_json::from_slice(&std::fs::read(dir.join("tokenizer/vocab.json")).unwrap()).unwrap();
    let token = usize::try_from(vocabulary[format!("{letter}</w>")].as_u64().unwrap()).unwrap();
    let file = dir.join(TEXT_ENCODER);
    let mut bytes = std::fs::read(&file).unwrap();
    let (start, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let table = header.info("text_model.embeddings.token_embedding.weight").unwrap();
    let row = (table.data_offsets.1 - table.data_offsets.0) / table.shape[0];
    let at = 8 + start + table.data_offsets.0 + token * row;
    bytes[at..at + row].fill(0xff);
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn counts_what_the_model_fails_until_a_job_ends_well() {
    lab::with("failing", async |lab| {
        let dir = upload_model(lab).await;
        poison(&dir, "z");
        lab.upload(&key(&dir, &dir.join(TEXT_ENCODER)), &dir.join(TEXT_ENCODER)).await;
        let mut settings = settings(lab);
        settings["queue"] = json!({ "retry": { "initialSeconds": 3600, "maxSeconds": 3600 } });
        let mut worker = program::start(lab, "a", settings);
        worker.until_ready().await;
        assert_eq!(worker.state().await.failing, None);

        let failed =
            |attempts| move |state: &WorkerState| state.failing.as_ref().is_some_and(|f| f.attempts == attempts);
        lab.send("z").await;
        let first = worker.until_state("an attempt failed", failed(1)).await.failing.unwrap();
        assert_eq!(first.code, "ModelError");
        assert!(first.message.contains("NaN"), "{}", first.message);
        lab.send("a z").await;
        let second = worker.until_state("two attempts failed", failed(2)).await.failing.unwrap();
        assert_eq!(second.since, first.since);

        // the producer's fault, which says nothing of the model
        lab.send(json!({ "prompt": "a cat", "steps": 0 })).await;
        lab.take(&lab.dead_letters()).await;
        assert_eq!(worker.state().await.failing, Some(second));

        assert_eq!(lab.record(&lab.send("a cat").await).await.status, JobStatus::Completed);
        worker.until_state("well", |state| state.failing.is_none()).await;
    })
    .await;
}

#[tokio::test]
async fn tells_a_model_that_is_not_there() {
    lab::with("no-model", async |lab| {
        let mut worker = program::start(lab, "a", settings(lab));
        let message = worker.until_problem("ModelNotFound").await;
        assert!(message.contains(&format!("s3://{}/tiny/", lab.name)), "{message}");
    })
    .await;
}
