//! The consumer that jobs are for: what a producer must know of it, and nothing of its pods.

use millrace_api::{ConsumerRef, OutputSpec, QueueSpec, QueueUrl, Task, WorkerConfig};
use serde_json::{Map, Value};

use crate::error::Error;

/// A consumer as its producers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Consumer {
    /// Whose results they are.
    pub name: ConsumerRef,
    /// Where jobs go.
    pub queue: QueueSpec,
    /// What is computed.
    pub task: Task,
    /// What holds for jobs that do not say otherwise.
    pub parameters: Map<String, Value>,
    /// Where results lie.
    pub output: OutputSpec,
}

impl From<&WorkerConfig> for Consumer {
    fn from(config: &WorkerConfig) -> Self {
        Self {
            name: config.consumer.clone(),
            queue: config.queue.clone(),
            task: config.model.task,
            parameters: config.model.parameters.clone(),
            output: config.output.clone(),
        }
    }
}

impl Consumer {
    /// What the keys of its results begin with.
    pub fn prefix(&self) -> String {
        self.output.prefix_for(&self.name.namespace, &self.name.name)
    }

    /// Region and endpoint of its queue, as a worker finds them: the fields, else what the URL tells.
    pub fn place(&self) -> Result<(String, Option<String>), Error> {
        let url: QueueUrl = self.queue.url.parse().map_err(|e| Error::Config(format!("queue.url: {e}")))?;
        let missing = || Error::Config("queue.region: the URL does not tell the region; set it".into());
        let region = self.queue.region.clone().or(url.region).ok_or_else(missing)?;
        Ok((region, self.queue.endpoint.clone().or(url.endpoint)))
    }
}
