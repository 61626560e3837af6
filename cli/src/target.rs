//! Which consumer a command is about: one of the cluster, or one that a worker.yaml describes.

use std::path::Path;

use anyhow::{Context as _, bail};
use kube::config::KubeConfigOptions;
use kube::{Api, ResourceExt as _};
use millrace_api::{ConsumerRef, QueueConsumer, WorkerConfig};
use millrace_client::{Client, Consumer};

use crate::common::Common;

/// The consumer, and how it is reached.
#[derive(Debug)]
pub struct Target {
    pub client: Client,
    /// For about how long the oldest message has waited, as far as the cluster's workers tell.
    pub oldest_seconds: Option<i64>,
}

impl Common {
    /// The consumer that the command line means.
    pub async fn target(&self) -> anyhow::Result<Target> {
        let (consumer, oldest_seconds) = if let Some(path) = &self.config {
            (in_file(path)?, None)
        } else {
            let resource = self.resource().await?;
            let queue = resource.status.as_ref().and_then(|status| status.queue);
            (described(&resource), queue.and_then(|queue| queue.oldest_message_age_seconds))
        };
        Ok(Target { client: Client::connect(consumer, self.endpoint.as_deref()).await?, oldest_seconds })
    }

    /// The QueueConsumer that the command line means.
    pub async fn resource(&self) -> anyhow::Result<QueueConsumer> {
        let (api, namespace) = self.api().await?;
        let list = format!("`kubectl get queueconsumers -n {namespace}` lists them");
        if let Some(name) = &self.consumer {
            let found =
                api.get_opt(name).await.with_context(|| format!("cannot read QueueConsumer {namespace}/{name}"))?;
            return found
                .with_context(|| format!("--consumer: there is no QueueConsumer {name} in {namespace}; {list}"));
        }
        let mut all = api.list(&kube::api::ListParams::default()).await;
        match all.as_mut().map(|all| &mut all.items) {
            Ok(items) if items.len() == 1 => Ok(items.remove(0)),
            Ok(items) if items.is_empty() => {
                bail!("there is no QueueConsumer in {namespace}: give --namespace, or --config with a worker.yaml")
            }
            Ok(items) => {
                let names: Vec<String> = items.iter().map(kube::ResourceExt::name_any).collect();
                bail!("--consumer: choose among {}", names.join(", "))
            }
            Err(error) => bail!("cannot list the QueueConsumers of {namespace}: {error}"),
        }
    }

    /// The QueueConsumers of the namespace that the command line means.
    pub async fn api(&self) -> anyhow::Result<(Api<QueueConsumer>, String)> {
        let config = match &self.context {
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                kube::Config::from_kubeconfig(&options).await.with_context(|| format!("--context {context}"))?
            }
            None => kube::Config::infer()
                .await
                .context("no cluster: set KUBECONFIG, or give --config with a worker.yaml")?,
        };
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).context("the kubeconfig cannot be used")?;
        Ok((Api::namespaced(client, &namespace), namespace))
    }
}

fn described(resource: &QueueConsumer) -> Consumer {
    Consumer {
        name: ConsumerRef { namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() },
        queue: resource.spec.queue.clone(),
        task: resource.spec.model.task,
        parameters: resource.spec.model.parameters.clone(),
        output: resource.spec.output.clone(),
    }
}

/// The consumer of a worker.yaml.
fn in_file(path: &Path) -> anyhow::Result<Consumer> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config: cannot read {}", path.display()))?;
    let config: WorkerConfig =
        serde_yaml::from_str(&text).with_context(|| format!("--config: {} is no worker.yaml", path.display()))?;
    Ok(Consumer::from(&config))
}
