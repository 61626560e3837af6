//! The AWS clients of one producer.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use tokio::sync::OnceCell;

use crate::consumer::Consumer;
use crate::error::Error;

/// How long one attempt of a call may take: longer than a long poll.
const ATTEMPT: Duration = Duration::from_secs(28);
/// Attempts of one call within the SDK.
const ATTEMPTS: u32 = 4;

/// A producer's side of one consumer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) consumer: Consumer,
    /// Most bytes of a message on this queue, once it was asked for.
    pub(crate) limit: OnceCell<usize>,
}

impl Client {
    /// Connects by the SDK's default chain of credentials. `endpoint` goes before the consumer's own endpoints: for a
    /// consumer whose addresses are those of its cluster.
    pub async fn connect(consumer: Consumer, endpoint: Option<&str>) -> Result<Self, Error> {
        let (region, queue_endpoint) = consumer.place()?;
        let shared = shared(Some(region)).await;
        let over =
            |own: Option<String>| endpoint.map(str::to_owned).or(own).or(shared.endpoint_url().map(str::to_owned));
        let mut sqs = aws_sdk_sqs::config::Builder::from(&shared);
        sqs.set_endpoint_url(over(queue_endpoint));
        let output = &consumer.output;
        let path_style = output.path_style() || endpoint.is_some();
        let mut s3 = aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style);
        s3.set_endpoint_url(over(output.endpoint.clone()));
        if let Some(region) = &output.region {
            s3.set_region(Some(Region::new(region.clone())));
        }
        let (sqs, s3) = (aws_sdk_sqs::Client::from_conf(sqs.build()), aws_sdk_s3::Client::from_conf(s3.build()));
        Ok(Self::new(consumer, sqs, s3))
    }

    /// With clients of one's own: other credentials, other timeouts.
    pub fn new(consumer: Consumer, sqs: aws_sdk_sqs::Client, s3: aws_sdk_s3::Client) -> Self {
        Self { sqs, s3, consumer, limit: OnceCell::new() }
    }

    /// Whose producer it is.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }
}

/// SQS for whoever has no consumer yet, by the SDK's default chain of credentials; the region is the environment's own
/// where none is given.
pub async fn connect_sqs(region: Option<String>, endpoint: Option<&str>) -> aws_sdk_sqs::Client {
    let shared = shared(region).await;
    let mut sqs = aws_sdk_sqs::config::Builder::from(&shared);
    sqs.set_endpoint_url(endpoint.or(shared.endpoint_url()).map(str::to_owned));
    aws_sdk_sqs::Client::from_conf(sqs.build())
}

async fn shared(region: Option<String>) -> aws_config::SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(ATTEMPT * ATTEMPTS)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    loader.load().await
}
