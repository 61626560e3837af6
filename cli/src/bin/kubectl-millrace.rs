//! `kubectl millrace`: kubectl finds it by its name.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace_cli::main()
}
