//! Asks before what cannot be taken back.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};

/// Goes on only if the user says yes. Where nobody can be asked, only if `yes` was said on the command line.
pub fn sure(yes: bool, question: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody can be asked here: give --yes. {question}");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush().context("cannot ask")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("cannot read the answer")?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was done");
    }
    Ok(())
}
