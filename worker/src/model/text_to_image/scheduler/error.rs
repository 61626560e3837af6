//! Why a scheduler cannot do what a job or a model asks.

/// Refused by a scheduler; each is for another field of a job, or for the model's own config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum SchedulerError {
    /// No scheduler has this name.
    #[error("{name:?} is not supported; supported are {}", super::kind::Kind::list())]
    Unknown {
        /// As the job or the model wrote it.
        name: String,
    },
    /// A setting of scheduler_config.json that is not built here, or not for this class.
    #[error("{key} is {value}; {class} is supported only with {supported}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// The scheduler it is for.
        class: &'static str,
        /// What would do.
        supported: String,
    },
    /// The betas give no noise levels.
    #[error("its betas are not all between 0 and 1, so they give no noise levels")]
    Betas,
    /// So many steps, or so few, cannot be taken.
    #[error("must be from {least} to {most} with {class} and this model, not {steps}")]
    Steps {
        /// What was asked for.
        steps: usize,
        /// The fewest that can be.
        least: usize,
        /// The most.
        most: usize,
        /// The scheduler.
        class: &'static str,
    },
}
