//! What can go wrong for a producer, in words that name the thing, the action and the fix.

use std::error::Error as StdError;
use std::time::Duration;

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use crate::invalid::InvalidJob;

/// Codes of credentials that AWS does not accept.
const NOT_ACCEPTED: [&str; 9] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];
/// Codes of a clock that is wrong.
const SKEWED: [&str; 3] = ["RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"];
/// What the messages of other codes say of a wrong clock.
const SKEWED_WORDS: [&str; 2] = ["Signature expired", "Signature not yet current"];
/// Codes of what is not there.
const NOT_THERE: [&str; 6] = [
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
    "NoSuchBucket",
    "NoSuchKey",
    "NotFound",
    "ResourceNotFoundException",
];

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A worker would refuse the job.
    #[error(transparent)]
    Job(#[from] InvalidJob),
    /// The consumer's own description cannot be used.
    #[error("{0}")]
    Config(String),
    /// AWS did not do it.
    #[error("{action} on {what}: {detail}; {}", trouble.fix())]
    Aws {
        /// Which sort of trouble.
        trouble: Trouble,
        /// The right that the call needs: `sqs:SendMessage`.
        action: &'static str,
        /// The queue's URL or the object's.
        what: String,
        /// AWS's code and message.
        detail: String,
    },
    /// What S3 gave is not what was put there.
    #[error("{what}: {problem}")]
    Content {
        /// The object or the file.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A dead letter is in its queue again, and could not be deleted from the dead-letter queue.
    #[error("it is in its queue again, and still here, too: {cause}; then delete it, or it is sent once more")]
    NotDeleted {
        /// Why.
        cause: Box<Error>,
    },
    /// No result within the time that was given.
    #[error(
        "job {job_id} has no result after {} s; it may still come: look at the queue's depth, and at the consumer's conditions{}",
        waited.as_secs(),
        trouble.as_ref().map(|error| format!("; the last look met {error}")).unwrap_or_default()
    )]
    NoResult {
        /// The job.
        job_id: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was wrong at the last look.
        trouble: Option<Box<Error>>,
    },
}

/// Sorts of trouble with AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No credentials, or ones that AWS does not accept.
    Credentials,
    /// The credentials may not do this.
    AccessDenied,
    /// Nothing says which region it is about.
    NoRegion,
    /// This machine's clock is wrong.
    Clock,
    /// The queue, bucket or object is not there.
    NotFound,
    /// AWS asks for fewer calls.
    Throttled,
    /// No answer, or a server's error.
    Unreachable,
    /// Anything else.
    Other,
}

impl Trouble {
    /// Whether the same call may well succeed a little later.
    pub fn passes(self) -> bool {
        matches!(self, Self::Throttled | Self::Unreachable)
    }

    /// Whether every other call of this kind would meet it, too.
    pub fn is_for_all(self) -> bool {
        matches!(self, Self::Credentials | Self::AccessDenied | Self::NoRegion | Self::Clock | Self::NotFound)
    }

    /// What mends it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Credentials => {
                "give your own AWS credentials: AWS_PROFILE, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or a role; \
                 of a single sign-on, eval \"$(aws configure export-credentials --format env)\""
            }
            Self::AccessDenied => "allow your own user or role this action there",
            Self::NoRegion => "give a region: AWS_REGION, or --region where there is that option",
            Self::Clock => "set this machine's clock",
            Self::NotFound => "create it, or correct its name and region",
            Self::Throttled => "AWS asks for fewer calls; try again",
            Self::Unreachable => {
                "check the endpoint, DNS and network; a queue with an address inside the cluster needs an endpoint that is reachable from here"
            }
            Self::Other => "see AWS's message",
        }
    }
}

impl Error {
    /// The error of a call that needs the right `action` on `what`.
    pub(crate) fn aws<E>(action: &'static str, what: impl Into<String>, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        Self::Aws { trouble: trouble(error), action, what: what.into(), detail: detail(error) }
    }

    /// The same with more to say where it is this trouble.
    pub(crate) fn hinted(mut self, of: Trouble, hint: &str) -> Self {
        if let Self::Aws { trouble, detail, .. } = &mut self
            && *trouble == of
        {
            *detail = format!("{detail} {hint}");
        }
        self
    }

    /// The error of an answer that broke off while it was read.
    pub(crate) fn broken_off(action: &'static str, what: impl Into<String>, error: &(dyn StdError + 'static)) -> Self {
        Self::Aws { trouble: Trouble::Unreachable, action, what: what.into(), detail: chain(error) }
    }

    /// Which sort of trouble, where it is AWS's.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Aws { trouble, .. } => Some(*trouble),
            Self::NotDeleted { cause } => cause.trouble(),
            _ => None,
        }
    }
}

fn trouble<E: ProvideErrorMetadata + StdError + 'static>(error: &SdkError<E>) -> Trouble {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let message = error.message().unwrap_or_default();
    match (error.code().unwrap_or_default(), status) {
        (code, _) if THROTTLING_ERRORS.contains(&code) => Trouble::Throttled,
        (code, _) if SKEWED.contains(&code) => Trouble::Clock,
        _ if SKEWED_WORDS.iter().any(|words| message.contains(words)) => Trouble::Clock,
        (code, _) if NOT_ACCEPTED.contains(&code) => Trouble::Credentials,
        (code, _) if NOT_THERE.contains(&code) => Trouble::NotFound,
        (code, _) if code.starts_with("AccessDenied") => Trouble::AccessDenied,
        (_, Some(401 | 403)) => Trouble::AccessDenied,
        (_, Some(404)) => Trouble::NotFound,
        (_, Some(429 | 503)) => Trouble::Throttled,
        (_, Some(500..)) => Trouble::Unreachable,
        (_, Some(_)) => Trouble::Other,
        // without an answer the SDK tells what is missing by words alone
        (_, None) if says(error, &["missing region", "missing signing region"]) => Trouble::NoRegion,
        (_, None) if says(error, &["credential"]) => Trouble::Credentials,
        (_, None) => Trouble::Unreachable,
    }
}

fn detail<E: ProvideErrorMetadata + StdError + 'static>(error: &SdkError<E>) -> String {
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => chain(error),
    }
}

/// Whether an error or one of its sources has one of these words.
fn says(error: &(dyn StdError + 'static), words: &[&str]) -> bool {
    let told = chain(error).to_ascii_lowercase();
    words.iter().any(|word| told.contains(word))
}

/// An error with all its sources, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut next: Option<&dyn StdError> = Some(error);
    while let Some(error) = next {
        let line = error.to_string();
        if !line.is_empty() && !told.iter().any(|earlier| earlier.contains(&line)) {
            told.push(line);
        }
        next = error.source();
    }
    told.join(": ")
}
