//! `kubectl millrace`, as somebody uses it who has the cluster's kubeconfig.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{Consumer, Lab};

/// What the program did.
#[derive(Debug)]
pub struct Told {
    /// Its exit code.
    pub code: i32,
    /// What it answered, as JSON; null where it answered nothing.
    pub answer: Value,
    /// What it said besides.
    pub said: String,
}

impl Consumer<'_> {
    /// Runs the program that was built beside these tests, about this consumer, to its end.
    pub async fn cli(&self, args: &[&str]) -> Result<Told> {
        let here = std::env::current_exe()?;
        let found = here.ancestors().map(|folder| folder.join("kubectl-millrace")).find(|file| file.is_file());
        let mut command =
            Command::new(found.context("kubectl-millrace is not built: run cargo build --workspace --bins")?);
        let Lab { name, endpoint, .. } = self.lab();
        command.args(args).args(["--namespace", name, "--consumer", self.name(), "--endpoint", endpoint, "-o", "json"]);
        command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        let shown = format!("{command:?}");
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context(shown)?;
        let answer = if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout)? };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Told { code: output.status.code().unwrap_or(-1), answer, said })
    }
}
