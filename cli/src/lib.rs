//! `kubectl millrace`, and the same alone as `millrace`: submits jobs, follows them, and looks after their queue. A command
//! is a file; all that they do with AWS is `millrace-client`.

mod args;
mod ask;
mod common;
mod dlq;
mod duration;
mod earlier;
mod exit;
mod explain;
mod files;
mod follow;
mod jobs;
mod manual;
mod progress;
mod queue;
mod redrive;
mod report;
mod results;
mod show;
mod state;
mod status;
mod submit;
mod target;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::{Cli, Command};
use crate::exit::Ended;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&anyhow::Error::from(error).context("cannot start")),
    };
    match runtime.block_on(run(cli)) {
        Ok(ended) => ended.code(),
        Err(error) => exit::failed(&error),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.common.settle(&matches, &mut command)?;
    Ok(cli)
}

async fn run(cli: Cli) -> anyhow::Result<Ended> {
    let common = cli.common;
    match cli.command {
        Command::Submit(args) => submit::run(&common, args).await,
        Command::Status(args) => status::run(&common, args).await,
        Command::Results(args) => results::run(&common, args).await,
        Command::Queue(args) => queue::run(&common, args).await,
        Command::Dlq(args) => dlq::run(&common, args).await,
        Command::Explain(_) => explain::run(&common).await,
        Command::Completion(args) => manual::completion(&args),
        Command::Man(args) => manual::man(&args),
        Command::Reference => manual::reference(),
    }
}
