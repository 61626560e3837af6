//! What the worker tells of itself as it goes: logs always, spans of jobs where somebody collects them.

mod job_span;
mod logs;
mod traces;

pub use job_span::JobSpan;
pub use logs::{LogFormat, start};
pub use traces::Traces;
