//! The command line.

use clap::{Parser, Subcommand};

use crate::common::Common;
use crate::dlq::DlqArgs;
use crate::explain::ExplainArgs;
use crate::manual::{CompletionArgs, ManArgs};
use crate::queue::QueueArgs;
use crate::results::ResultsArgs;
use crate::status::StatusArgs;
use crate::submit::SubmitArgs;

/// Submits jobs to millrace's consumers, follows them, and looks after their queues.
///
/// Exit codes: 0 all is done; 1 an error; 2 the command line cannot be read; 3 jobs failed or were not sent;
/// 4 something is not there yet, or did not come in time.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Submit(SubmitArgs),
    Status(StatusArgs),
    Results(ResultsArgs),
    Queue(QueueArgs),
    Dlq(DlqArgs),
    Explain(ExplainArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
    /// Print docs/cli.md
    #[command(hide = true)]
    Reference,
}
