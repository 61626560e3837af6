//! Why a queue's depth is not known, with the fix.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::get_queue_attributes::GetQueueAttributesError;
use millrace_api::reason;

use super::QueueAddress;

/// Why a queue's depth is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueueError {
    /// No answer came yet.
    #[error("the queue was not read yet")]
    NotReadYet,
    /// The last answer is too old.
    #[error("the queue was last read {seconds} s ago, which says nothing about now")]
    Stale { seconds: u64 },
    /// There is no such queue.
    #[error("queue {queue} does not exist at {place}: create it, or correct spec.queue (url, region, endpoint)")]
    NotFound { queue: String, place: String },
    /// The operator may not read it.
    #[error(
        "SQS refuses the operator to read queue {queue}: {detail}. Grant sqs:GetQueueAttributes on the queue to the operator's IAM role"
    )]
    AccessDenied { queue: String, detail: String },
    /// The operator has no credentials that AWS accepts.
    #[error(
        "the operator has no AWS credentials that work for queue {queue}: {detail}. Give its ServiceAccount an IAM role (IRSA or EKS Pod Identity), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials { queue: String, detail: String },
    /// Too many calls.
    #[error("SQS throttles reading queue {queue}: {detail}. It is asked less often until it answers again")]
    Throttled { queue: String, detail: String },
    /// Nobody answered, or something that is not SQS did.
    #[error(
        "SQS at {place} could not be asked for queue {queue}: {detail}. Check spec.queue.endpoint, DNS and the network"
    )]
    Unreachable { queue: String, place: String, detail: String },
}

impl QueueError {
    /// Why, in one CamelCase word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotReadYet => reason::NOT_READ_YET,
            Self::NotFound { .. } => reason::QUEUE_NOT_FOUND,
            Self::AccessDenied { .. } => reason::QUEUE_ACCESS_DENIED,
            Self::Credentials { .. } => reason::CREDENTIALS_MISSING,
            Self::Throttled { .. } => reason::QUEUE_THROTTLED,
            Self::Stale { .. } | Self::Unreachable { .. } => reason::QUEUE_UNREACHABLE,
        }
    }

    /// Whether somebody must change something before the queue can be read.
    pub(crate) fn needs_a_change(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::AccessDenied { .. } | Self::Credentials { .. })
    }

    /// What an error of the SDK means for this queue.
    pub(super) fn of(address: &QueueAddress, error: &SdkError<GetQueueAttributesError>) -> Self {
        let queue = address.name.clone();
        if let Some(error) = credentials_error(error) {
            return Self::Credentials { queue, detail: with_causes(error) };
        }
        if error.as_service_error().is_some_and(GetQueueAttributesError::is_queue_does_not_exist) {
            return Self::NotFound { queue, place: address.place() };
        }
        let code = error.code().unwrap_or_default();
        // Some answers carry the older protocol's prefix: AWS.SimpleQueueService.NonExistentQueue.
        let word = code.rsplit('.').next().unwrap_or_default();
        let detail = match error.message() {
            Some(message) if !message.is_empty() => message.trim_end_matches('.').to_owned(),
            _ if code.is_empty() => with_causes(error),
            _ => code.to_owned(),
        };
        match word {
            "NonExistentQueue" | "QueueDoesNotExist" => Self::NotFound { queue, place: address.place() },
            "AccessDenied" | "AccessDeniedException" => Self::AccessDenied { queue, detail },
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "MissingAuthenticationToken"
            | "InvalidSecurity"
            | "IncompleteSignature" => Self::Credentials { queue, detail },
            _ if word.contains("Throttl") || status(error) == Some(429) => Self::Throttled { queue, detail },
            _ if status(error) == Some(403) => Self::AccessDenied { queue, detail },
            _ => Self::Unreachable { queue, place: address.place(), detail },
        }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// The SDK hides a lack of credentials among the causes of a failed dispatch.
fn credentials_error(error: &SdkError<GetQueueAttributesError>) -> Option<&(dyn std::error::Error + 'static)> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<CredentialsError>().is_some() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// The whole chain of an error, for the log.
pub(super) fn chain(error: &SdkError<GetQueueAttributesError>) -> String {
    DisplayErrorContext(error).to_string()
}
