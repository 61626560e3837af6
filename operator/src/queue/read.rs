//! One reading of a queue: `GetQueueAttributes`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, imds};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;

use super::error::chain;
use super::{Depth, QueueAddress, QueueError};

/// Reads queues.
pub(crate) trait Read: Send + Sync + 'static {
    /// The depth of a queue now.
    fn read(&self, address: &QueueAddress) -> impl Future<Output = Result<Depth, QueueError>> + Send;
}

/// Reads queues with AWS's SDK and its default chain of credentials.
#[derive(Debug)]
pub(crate) struct AwsReader {
    config: SdkConfig,
    clients: Mutex<HashMap<(String, Option<String>), Client>>,
}

impl AwsReader {
    /// Finds out how this process gets its credentials; asks for none yet.
    pub(crate) async fn from_env() -> Self {
        // Clients set the region of their queue; this one is for STS. Told, so that the SDK does not ask the instance.
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
        let region = Region::new(region.filter(|r| !r.is_empty()).unwrap_or_else(|| "us-east-1".into()));
        // Where nothing else gives credentials and there is no instance to ask, that should be known in a second.
        let second = Duration::from_secs(1);
        let instance = imds::Client::builder().connect_timeout(second).read_timeout(second).max_attempts(1).build();
        let credentials = DefaultCredentialsChain::builder().region(region.clone()).imds_client(instance).build().await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(5))
            .operation_timeout(Duration::from_secs(15))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .credentials_provider(credentials)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .load()
            .await;
        Self::new(config)
    }

    /// Reads queues with this configuration, but for region and endpoint.
    pub(crate) fn new(config: SdkConfig) -> Self {
        Self { config, clients: Mutex::default() }
    }

    fn client(&self, address: &QueueAddress) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.region.clone(), address.endpoint.clone());
        let client = clients.entry(key).or_insert_with(|| {
            let mut config =
                aws_sdk_sqs::config::Builder::from(&self.config).region(Region::new(address.region.clone()));
            if let Some(endpoint) = &address.endpoint {
                config = config.endpoint_url(endpoint);
            }
            Client::from_conf(config.build())
        });
        client.clone()
    }
}

impl Read for AwsReader {
    async fn read(&self, address: &QueueAddress) -> Result<Depth, QueueError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.client(address).get_queue_attributes().queue_url(&address.url);
        let answer = request.set_attribute_names(Some(names.to_vec())).send().await.map_err(|error| {
            tracing::debug!(queue = address.name, error = chain(&error), "SQS could not be read");
            QueueError::of(address, &error)
        })?;
        let count = |name: &QueueAttributeName| {
            let text = answer.attributes().and_then(|attributes| attributes.get(name));
            text.and_then(|text| text.parse().ok()).ok_or_else(|| QueueError::Unreachable {
                queue: address.name.clone(),
                place: address.place(),
                detail: format!("the answer holds no {}", name.as_str()),
            })
        };
        Ok(Depth { visible: count(&names[0])?, in_flight: count(&names[1])?, delayed: count(&names[2])? })
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
