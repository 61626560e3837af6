//! One reading of a queue: `GetQueueAttributes`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, imds};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use tokio::sync::Semaphore;

use super::error::chain;
use super::{Depth, QueueAddress, QueueError};

/// Calls under way at the same time, for each region: at 50 ms each they read ten thousand queues in 8 s.
const CALLS: usize = 64;

/// Reads queues.
pub(crate) trait Read: Send + Sync + 'static {
    /// The depth of a queue now.
    fn read(&self, address: &QueueAddress) -> impl Future<Output = Result<Depth, QueueError>> + Send;
}

/// Reads queues with AWS's SDK and its default chain of credentials.
#[derive(Debug)]
pub(crate) struct AwsReader {
    config: SdkConfig,
    places: Mutex<HashMap<(String, Option<String>), Place>>,
}

/// A region, or another place that is asked in its stead.
#[derive(Debug, Clone)]
struct Place {
    client: Client,
    /// For calls that are under way: each has a connection of its own, which takes 30 KiB.
    calls: Arc<Semaphore>,
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
        Self { config, places: Mutex::default() }
    }

    fn place(&self, address: &QueueAddress) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.region.clone(), address.endpoint.clone());
        let place = places.entry(key).or_insert_with(|| {
            let mut config =
                aws_sdk_sqs::config::Builder::from(&self.config).region(Region::new(address.region.clone()));
            if let Some(endpoint) = &address.endpoint {
                config = config.endpoint_url(endpoint);
            }
            Place { client: Client::from_conf(config.build()), calls: Arc::new(Semaphore::new(CALLS)) }
        });
        place.clone()
    }
}

impl Read for AwsReader {
    async fn read(&self, address: &QueueAddress) -> Result<Depth, QueueError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let Place { client, calls } = self.place(address);
        // It is never closed. After a start all queues are to be read at once, and one after the other is soon enough.
        let _call = calls.acquire().await;
        let request = client.get_queue_attributes().queue_url(&address.url);
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
