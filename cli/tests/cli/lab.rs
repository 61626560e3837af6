//! A queue with its dead-letter queue, a bucket, a worker.yaml, and a stand-in for the worker that writes real records.

use std::path::PathBuf;
use std::process::{Command, Output};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::config::Credentials;
use millrace_aws_model::Model;
use serde_json::{Value, json};

pub const QUEUE: &str = "jobs";
pub const DEAD: &str = "jobs-dead";
pub const BUCKET: &str = "results";
const REGION: &str = "us-east-1";

/// One test's model and folder.
pub struct Lab {
    pub model: Model,
    pub folder: tempfile::TempDir,
    pub sqs: aws_sdk_sqs::Client,
    s3: aws_sdk_s3::Client,
    pub url: String,
    pub dead_url: String,
}

/// What the program did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Lab {
    pub async fn new() -> Self {
        let model = Model::start(7).await.unwrap();
        let dead_url = model.create_queue(DEAD, &[]).unwrap();
        let target = format!("arn:aws:sqs:{REGION}:000000000000:{DEAD}");
        let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": 1 }).to_string();
        let url = model.create_queue(QUEUE, &[("RedrivePolicy", &policy)]).unwrap();
        model.create_bucket(BUCKET).unwrap();
        let keys = Credentials::new("test", "test", None, None, "test");
        let shared = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(REGION));
        let shared = shared.endpoint_url(model.endpoint()).credentials_provider(keys).load().await;
        let path_style = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true);
        let folder = tempfile::tempdir().unwrap();
        let lab = Self {
            sqs: aws_sdk_sqs::Client::new(&shared),
            s3: aws_sdk_s3::Client::from_conf(path_style.build()),
            folder,
            url,
            dead_url,
            model,
        };
        let config = json!({
            "consumer": { "namespace": "tests", "name": "echo" },
            "queue": { "url": lab.url, "region": REGION },
            "model": { "task": "Echo" },
            "output": { "bucket": BUCKET, "prefix": "out/", "endpoint": lab.model.endpoint() },
        });
        std::fs::write(lab.path("worker.yaml"), config.to_string()).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program to its end, with the lab's worker.yaml.
    pub async fn run(&self, args: &[&str]) -> Done {
        self.run_in(&[], &[args, &["--config", "worker.yaml"]].concat()).await
    }

    /// Runs the program to its end in an environment with these variables.
    pub async fn run_in(&self, variables: &[(&str, &str)], args: &[&str]) -> Done {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
    }

    /// The program in the lab's folder, with nothing in its environment but credentials.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.args(args).current_dir(self.folder.path());
        command.env_clear().envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        command
    }

    /// Ends every job that is in the queue, as a worker would: those whose input says `fail` badly.
    pub async fn work(&self) -> usize {
        let mut ended = 0;
        loop {
            let call = self.sqs.receive_message().queue_url(&self.url).max_number_of_messages(10);
            let messages = call.send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return ended;
            }
            for message in messages {
                let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
                self.end(&body, message.message_id().unwrap()).await;
                let delete = self.sqs.delete_message().queue_url(&self.url);
                delete.receipt_handle(message.receipt_handle().unwrap()).send().await.unwrap();
                ended += 1;
            }
        }
    }

    async fn end(&self, body: &Value, message_id: &str) {
        let (job_id, input) = (millrace_api::encode_job_id(body["job_id"].as_str().unwrap()), &body["input"]);
        let fails = *input == json!("fail");
        let input_sha256 = match input {
            Value::String(text) => millrace_client::Job::text(text).input_sha256(),
            object => millrace_client::Job::new(object.clone()).input_sha256(),
        };
        let mut record = json!({
            "job_id": job_id, "message_id": message_id, "status": if fails { "FAILED" } else { "COMPLETED" },
            "consumer": "tests/echo", "attempt": 1, "worker": "w", "model": { "task": "Echo" },
            "input_sha256": input_sha256, "form": "envelope",
            "timings": { "queued_seconds": 1.0, "waited_seconds": 0.5, "inference_seconds": 2.0, "upload_seconds": 0.1, "total_seconds": 3.6 },
            "started_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:00:01Z",
        });
        if fails {
            record["error"] = json!({ "code": "ModelError", "message": "NaN" });
        } else {
            record["value"] = input.clone();
        }
        self.put(&format!("out/{job_id}.record.json"), record.to_string()).await;
    }

    /// Puts an object.
    pub async fn put(&self, key: &str, content: String) {
        let content = ByteStream::from(content.into_bytes());
        self.s3.put_object().bucket(BUCKET).key(key).body(content).send().await.unwrap();
    }

    /// Messages that can be received.
    pub fn waiting(&self, queue: &str) -> usize {
        self.model.queue(queue).unwrap().visible
    }
}
