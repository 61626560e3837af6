//! AWS clients with bounded waits, and what their errors mean to a user.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use millrace_api::WorkerConfig;

/// How long one long poll asks SQS to wait.
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// How long one attempt of a call may take.
pub const ATTEMPT: Duration = Duration::from_secs(20);
/// Attempts of one call within the SDK.
pub const ATTEMPTS: u32 = 3;

/// The SDK clients of one worker. Credentials come from the SDK's default chain.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For everything but long polls.
    pub sqs: aws_sdk_sqs::Client,
    /// For long polls, which outlast the other timeouts.
    pub sqs_poll: aws_sdk_sqs::Client,
    /// For outputs and records.
    pub s3: aws_sdk_s3::Client,
}

impl Clients {
    /// Clients for the queue and output of `config`, whose region was checked by `config::load`.
    pub async fn new(config: &WorkerConfig, queue_region: &str, queue_endpoint: Option<&str>) -> Self {
        let shared = sdk_config(queue_region).await;
        let mut sqs = aws_sdk_sqs::config::Builder::from(&shared);
        sqs.set_endpoint_url(queue_endpoint.map(str::to_owned).or_else(|| shared.endpoint_url().map(str::to_owned)));
        let poll = sqs.clone().timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .read_timeout(LONG_POLL + Duration::from_secs(5))
                .operation_attempt_timeout(LONG_POLL + Duration::from_secs(8))
                .operation_timeout(LONG_POLL + Duration::from_secs(10))
                .build(),
        );
        // a poll is repeated by its own loop, which also counts and reports the failure
        let poll = poll.retry_config(RetryConfig::disabled());

        let mut s3 = aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.output.path_style());
        if let Some(region) = &config.output.region {
            s3 = s3.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &config.output.endpoint {
            s3 = s3.endpoint_url(endpoint);
        }
        Self {
            sqs: aws_sdk_sqs::Client::from_conf(sqs.build()),
            sqs_poll: aws_sdk_sqs::Client::from_conf(poll.build()),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
        }
    }
}

/// The SDK's default chain for `region`, with timeouts: without them a dead peer would hold a job for ever.
pub async fn sdk_config(region: &str) -> aws_config::SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .operation_attempt_timeout(ATTEMPT)
                .operation_timeout(ATTEMPT * ATTEMPTS)
                .build(),
        )
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(Duration::from_millis(200))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .load()
        .await
}

/// What mends missing or refused credentials, whichever service noticed.
pub const CREDENTIALS_FIX: &str =
    "give the worker's ServiceAccount a role (IRSA or Pod Identity), or set AWS credentials by worker.envFrom";

/// What an AWS error means to a user, whatever the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No credentials, or ones that AWS does not accept.
    Credentials,
    /// The credentials may not do this.
    AccessDenied,
    /// The queue, bucket or key is not there.
    NotFound,
    /// AWS asks for fewer calls.
    Throttled,
    /// No answer: DNS, connection, timeout, or a server error.
    Unreachable,
    /// Anything else.
    Other,
}

/// Sorts an SDK error.
pub fn trouble<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> Trouble {
    let status = error.raw_response().map(|r| r.status().as_u16());
    if let Some(code) = error.code() {
        if aws_runtime::retries::classifiers::THROTTLING_ERRORS.contains(&code) {
            return Trouble::Throttled;
        }
        if ["InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId"]
            .iter()
            .chain(&["ExpiredToken", "ExpiredTokenException", "InvalidToken", "IncompleteSignature"])
            .any(|c| code == *c)
        {
            return Trouble::Credentials;
        }
        if code.contains("AccessDenied") || code == "Forbidden" {
            return Trouble::AccessDenied;
        }
        if code.contains("NonExistentQueue")
            || ["QueueDoesNotExist", "NoSuchBucket", "NoSuchKey", "NotFound"].contains(&code)
        {
            return Trouble::NotFound;
        }
    }
    match (error, status) {
        (_, Some(403)) => Trouble::AccessDenied,
        (_, Some(404)) => Trouble::NotFound,
        (_, Some(429 | 503)) => Trouble::Throttled,
        (_, Some(500..)) | (SdkError::TimeoutError(_) | SdkError::ResponseError(_), _) => Trouble::Unreachable,
        (SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_), _) => {
            // the SDK has no typed error for credentials that its chain did not find
            let text = DisplayErrorContext(error).to_string().to_ascii_lowercase();
            if text.contains("credential") || text.contains("identity") {
                Trouble::Credentials
            } else {
                Trouble::Unreachable
            }
        }
        _ => Trouble::Other,
    }
}

/// The error in one line, without the SDK's nested debug text.
pub fn explain<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> String {
    if let (Some(code), message) = (error.code(), error.message().unwrap_or_default()) {
        return format!("{code}: {message}");
    }
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = source {
        let line = e.to_string();
        if !line.is_empty() && !text.contains(&line) {
            text = if text.is_empty() { line } else { format!("{text}: {line}") };
        }
        source = e.source();
    }
    text
}

/// Whether S3 refused a conditional put because the key is there, or changed. Some stores send no code.
pub fn precondition_failed<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("PreconditionFailed") || error.raw_response().is_some_and(|r| r.status().as_u16() == 412)
}

/// Whether S3 asks to repeat a conditional put that raced with another.
pub fn conflict<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("ConditionalRequestConflict")
        || error.raw_response().is_some_and(|r| r.status().as_u16() == 409)
}
