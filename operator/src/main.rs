//! `millrace-operator`: the command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use millrace_operator::args::{Args, Command};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(run) => millrace_operator::run(*run),
        Command::Crd => print_crd(),
        Command::Replay { log } => millrace_operator::replay(&log),
        Command::Simulate(simulate) => millrace_operator::simulate(&simulate).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "millrace-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_crd() -> anyhow::Result<()> {
    let yaml = millrace_api::crd_yaml()?;
    std::io::stdout().write_all(yaml.as_bytes())?;
    Ok(())
}
