//! What can go wrong with a call of Kubernetes or with a pass, why in one word, and when to try again.

use std::time::Duration;

use crate::apply::ApplyError;

/// Longest wait for one answer of the API server; kube itself waits for ever.
const ANSWER: Duration = Duration::from_secs(10);

/// A call of the API server failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It refused, or could not be reached.
    #[error("{}", in_words(.0))]
    Kube(#[source] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer within {} s", ANSWER.as_secs())]
    Timeout,
}

impl CallError {
    /// Whether the server understood and refused, so that the same request will fail again.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if matches!(status.code, 400..=499) && status.code != 429 && !status.is_conflict())
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_not_found())
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_already_exists())
    }

    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_conflict())
    }
}

/// The server's own sentence, without kube's debug output around it.
fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Makes a call of the API server that ends in bounded time.
pub(crate) async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(result) => result.map_err(CallError::Kube),
        Err(_) => Err(CallError::Timeout),
    }
}

/// A pass of reconcile failed. What it found is in the status all the same, where that could be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An object could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error("the status could not be written: {0}")]
    Status(#[source] CallError),
}

impl Error {
    /// Why, in one CamelCase word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.reason(),
            Self::Status(_) => "StatusNotWritten",
        }
    }

    /// When to try again after so many failures in a row.
    pub(crate) fn requeue(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Self::Apply(ApplyError::NameTaken { .. } | ApplyError::NoImageVolumes) => (5, 60),
            Self::Apply(ApplyError::Refused { .. }) => (5, 300),
            Self::Apply(ApplyError::Unavailable { .. }) | Self::Status(_) => (1, 60),
        };
        let doubled = first << failures.saturating_sub(1).min(10);
        Duration::from_secs(doubled.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_to_a_limit_and_never_stop() {
        let error = Error::Status(CallError::Timeout);
        let waits: Vec<u64> = (1..=8).map(|n| error.requeue(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(error.requeue(u32::MAX).as_secs(), 60);
        let taken = Error::Apply(ApplyError::NameTaken { kind: "Deployment", name: "sdxl".into() });
        assert_eq!((taken.requeue(1).as_secs(), taken.requeue(99).as_secs()), (5, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_an_error_in_bounded_time() {
        let silent = std::future::pending::<Result<(), kube::Error>>();
        let error = within(silent).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout) && !error.is_refusal(), "{error}");
    }
}
