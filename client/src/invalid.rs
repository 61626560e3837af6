//! What is wrong with a job before it is sent.

/// Why a worker would refuse a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidJob {
    /// The field at fault.
    pub field: String,
    /// What is accepted.
    pub message: String,
}

impl InvalidJob {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
