//! How the program ends, for scripts.

use std::process::ExitCode;

/// What became of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// All of it is done.
    Well,
    /// Jobs failed, or were not sent.
    JobsFailed,
    /// Something is not there yet, or did not come in time.
    NotYet,
}

impl Ended {
    /// 0, 3 and 4; 1 is an error, 2 a command line that cannot be read.
    pub fn code(self) -> ExitCode {
        match self {
            Self::Well => ExitCode::SUCCESS,
            Self::JobsFailed => ExitCode::from(3),
            Self::NotYet => ExitCode::from(4),
        }
    }
}

/// Tells an error and gives its exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
