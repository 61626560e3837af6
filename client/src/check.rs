//! What can be said against a job before it is sent, so that its producer learns it now and not from a FAILED record.

use millrace_api::Task;
use serde_json::Value;

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

/// Holds one input against what `task` takes; `field` is its place in the job. The one call by which all inputs go.
pub(crate) fn check_input(_task: Task, field: &str, input: &Value) -> Result<(), InvalidJob> {
    match input {
        Value::String(text) if text.trim().is_empty() => Err(InvalidJob::new(field, "the text is blank")),
        Value::String(_) | Value::Object(_) => Ok(()),
        _ => Err(InvalidJob::new(field, "must be a text or an object such as {\"prompt\":\"…\"}")),
    }
}
