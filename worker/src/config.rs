//! worker.yaml: read, with every unknown field and every wrong value named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_api::{DrainConfig, KeyTemplate, ModelSource, QueueUrl, Task, WorkerConfig};
use serde::Deserialize;

use crate::allow::RESERVED;
use crate::drain::DrainKey;
use crate::job::Forms;
use crate::metrics::Metrics;
use crate::state::State;
use crate::store::Bucket;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML, or a field is missing or of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Which field and why.
        message: String,
    },
    /// Fields have values that cannot work; all of them, one per line.
    #[error("{path}: {}", problems.join("; "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each with its field.
        problems: Vec<String>,
    },
}

/// A config whose derived parts are known to be good.
#[derive(Debug, Clone)]
pub struct Config {
    /// As in the file.
    pub worker: WorkerConfig,
    /// Region of the queue, from its field or its URL.
    pub queue_region: String,
    /// Endpoint of SQS, from its field or from a URL that is not AWS's own.
    pub queue_endpoint: Option<String>,
    /// The parsed key template.
    pub key_template: KeyTemplate,
    /// Every form of a message that is taken.
    pub forms: Forms,
    /// What every key begins with.
    pub prefix: String,
    /// The parsed key of who may tell the worker to drain.
    pub drain_key: Option<DrainKey>,
    /// Where it was read.
    pub path: PathBuf,
}

impl Config {
    /// The bucket that results go to.
    pub fn bucket(&self, s3: aws_sdk_s3::Client, state: &Arc<State>, metrics: &Arc<Metrics>) -> Bucket {
        let output = &self.worker.output;
        let (state, metrics) = (Arc::clone(state), Arc::clone(metrics));
        Bucket::new(s3, &output.bucket, &self.prefix, output.conditional_writes, state, metrics)
    }
}

/// Reads and checks a config file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(&text, path)
}

/// Checks a config's text; `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let syntax = |message: String| ConfigError::Syntax { path: path.into(), message };
    let mut problems = Vec::new();
    let yaml = serde_yaml::Deserializer::from_str(text);
    let worker: WorkerConfig =
        serde_ignored::deserialize(yaml, |field| problems.push(format!("{field}: unknown field")))
            .map_err(|e| syntax(e.to_string()))?;

    let (queue, model) = (&worker.queue, &worker.model);
    let url = queue.url.parse::<QueueUrl>().map_err(|e| problems.push(format!("queue.url: {e}"))).ok();
    let region = queue.region.clone().or_else(|| url.as_ref().and_then(|u| u.region.clone()));
    if region.is_none() && url.is_some() {
        problems.push("queue.region: the URL does not tell the region; set it".into());
    }
    let template = worker.output.key_template.parse::<KeyTemplate>();
    let template = template.map_err(|e| problems.push(format!("output.keyTemplate: {e}"))).ok();
    if worker.output.prefix.as_deref().is_some_and(|prefix| prefix.starts_with('/')) {
        problems.push("output.prefix: must not begin with '/'".into());
    }
    if worker.output.key_template.starts_with('/')
        || RESERVED.iter().any(|own| worker.output.key_template.ends_with(own))
    {
        problems.push("output.keyTemplate: must not begin with '/' or end in .record.json or .attempt".into());
    }
    if queue.visibility_timeout_seconds > 3600 {
        problems.push(format!(
            "queue.visibilityTimeoutSeconds: must be at most 3600, is {}",
            queue.visibility_timeout_seconds
        ));
    }
    let mut at_least = |field: &str, value: i32, least: i32| {
        if value < least {
            problems.push(format!("{field}: must be at least {least}, is {value}"));
        }
    };
    at_least("queue.visibilityTimeoutSeconds", queue.visibility_timeout_seconds, 10);
    at_least("queue.maxReceiveCount", queue.max_receive_count, 1);
    at_least("queue.retry.initialSeconds", queue.retry.initial_seconds, 0);
    at_least("queue.retry.maxSeconds", queue.retry.max_seconds, queue.retry.initial_seconds);
    at_least("model.batch.maxSize", model.batch.max_size, 1);
    at_least("model.batch.maxWaitMilliseconds", model.batch.max_wait_milliseconds, 0);
    if let Some(server) = &model.server {
        at_least("model.server.concurrency", server.concurrency, 1);
        at_least("model.server.timeoutSeconds", server.timeout_seconds, 1);
        at_least("model.server.response.maxMebibytes", server.response.max_mebibytes, 1);
    }
    if (model.task == Task::Http) != model.server.is_some() {
        problems.push("model.server: must be set exactly where model.task is Http".into());
    }
    if let Some(source) = &model.source {
        let ModelSource { hugging_face, s3, persistent_volume_claim, image } = source;
        let set = [hugging_face.is_some(), s3.is_some(), persistent_volume_claim.is_some(), image.is_some()];
        if set.iter().filter(|is| **is).count() != 1 {
            problems
                .push("model.source: exactly one of huggingFace, s3, persistentVolumeClaim, image must be set".into());
        }
    } else if model.task.needs_source() {
        problems
            .push("model.source: required for this task: one of huggingFace, s3, persistentVolumeClaim, image".into());
    }
    let drain_key = worker.drain.as_ref().map(|drain| drain.public_key.parse::<DrainKey>()).transpose();
    let drain_key = drain_key.map_err(|e| problems.push(format!("drain.publicKey: {e}"))).ok().flatten();
    let prefix = worker.output.prefix_for(&worker.consumer.namespace, &worker.consumer.name);
    let forms = Forms::new(&worker, &prefix).map_err(|more| problems.extend(more)).ok();
    match (region, template, forms) {
        (Some(queue_region), Some(key_template), Some(forms)) if problems.is_empty() => Ok(Config {
            queue_region,
            queue_endpoint: queue.endpoint.clone().or_else(|| url.and_then(|u| u.endpoint)),
            key_template,
            forms,
            prefix,
            drain_key,
            path: path.into(),
            worker,
        }),
        _ => Err(ConfigError::Invalid { path: path.into(), problems }),
    }
}

/// The key in a config's text. All else in it counts for workers that start with it, so it is not looked at: a newer
/// operator may have written fields that this worker does not know.
pub fn drain_key(text: &str, path: &Path) -> Result<Option<DrainKey>, ConfigError> {
    #[derive(Deserialize)]
    struct Only {
        drain: Option<DrainConfig>,
    }
    let only: Only =
        serde_yaml::from_str(text).map_err(|e| ConfigError::Syntax { path: path.into(), message: e.to_string() })?;
    let key = only.drain.map(|drain| drain.public_key.parse()).transpose();
    key.map_err(|e| ConfigError::Invalid { path: path.into(), problems: vec![format!("drain.publicKey: {e}")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
consumer: { namespace: demo, name: sdxl }
queue: { url: 'http://localstack:4566/000000000000/prompts', region: us-east-1 }
model: { task: Echo }
output: { bucket: images }
";

    fn error(text: &str) -> String {
        parse(text, Path::new("worker.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_config_has_every_default() {
        let config = parse(MINIMAL, Path::new("worker.yaml")).unwrap();
        assert_eq!(config.queue_endpoint.as_deref(), Some("http://localstack:4566"));
        assert_eq!(config.prefix, "demo/sdxl/");
        assert_eq!(config.worker.queue.visibility_timeout_seconds, 120);
        assert_eq!(config.worker.http.port, 8080);
    }

    #[test]
    fn every_wrong_value_is_named_with_its_field() {
        let table = [
            (MINIMAL.replace(", region: us-east-1", ""), "queue.region: the URL does not tell the region"),
            (
                MINIMAL.replace("bucket: images", "bucket: images, keyTemplate: '{job}'"),
                "output.keyTemplate: unknown field {job}",
            ),
            (MINIMAL.replace("task: Echo", "task: TextToImage"), "model.source: required"),
            (MINIMAL.replace("task: Echo", "task: Http"), "model.server: must be set exactly where model.task is Http"),
            (
                MINIMAL.replace("task: Echo", "task: Echo, server: { path: /run }"),
                "model.server: must be set exactly where model.task is Http",
            ),
            (
                MINIMAL.replace("task: Echo", "task: Http, server: { path: /run, concurrency: 0 }"),
                "model.server.concurrency: must be at least 1, is 0",
            ),
            (
                MINIMAL.replace("task: Echo", "task: Echo, batch: { maxSize: 0 }"),
                "model.batch.maxSize: must be at least 1, is 0",
            ),
            (MINIMAL.replace("bucket: images", "bukket: images, bucket: images"), "output.bukket: unknown field"),
            (MINIMAL.replace("bucket: images", ""), "missing field `bucket`"),
            (MINIMAL.replace("'http://localstack:4566/000000000000/prompts'", "prompts"), "queue.url: not a URL"),
            (MINIMAL.replace("bucket: images", "bucket: images, prefix: /a"), "output.prefix: must not begin with '/'"),
            (
                MINIMAL.replace("bucket: images", "bucket: images, keyTemplate: '{job_id}.record.json'"),
                "output.keyTemplate: must not begin with '/' or end in .record.json",
            ),
            (
                MINIMAL.replace("region: us-east-1", "region: us-east-1, visibilityTimeoutSeconds: 3601"),
                "queue.visibilityTimeoutSeconds: must be at most 3600, is 3601",
            ),
            (
                MINIMAL.replace("region: us-east-1", "region: us-east-1, mapping: { jobId: job_id }"),
                "queue.mapping.jobId: ",
            ),
            (format!("{MINIMAL}drain: {{ publicKey: not base64 }}"), "drain.publicKey: not base64"),
            (format!("{MINIMAL}drain: {{ publicKey: AAAA }}"), "drain.publicKey: 3 bytes, and an Ed25519 key has 32"),
            ("- a list".into(), "worker.yaml: "),
        ];
        for (text, wanted) in table {
            let found = error(&text);
            assert!(found.contains(wanted), "{found:?} does not say {wanted:?}");
        }
    }

    #[test]
    fn the_key_is_found_whatever_else_a_file_says() {
        let key = "A".repeat(43) + "=";
        let newer = format!("{MINIMAL}drain: {{ publicKey: {key}, algorithm: new }}\nmore: true");
        let path = Path::new("worker.yaml");
        assert_eq!(drain_key(&newer, path).unwrap(), Some(key.parse().unwrap()));
        assert_eq!(drain_key(MINIMAL, path).unwrap(), None);
        assert!(drain_key("drain: { publicKey: A }", path).unwrap_err().to_string().contains("drain.publicKey: "));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = MINIMAL.replace(", region: us-east-1", "").replace("task: Echo", "task: TextToImage");
        let found = error(&text);
        assert!(found.contains("queue.region") && found.contains("model.source"), "{found}");
    }
}
