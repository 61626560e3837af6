//! The peer: bench/peers/boto3_loop.py in a Python of its own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::process::Command;

use crate::aws::{Aws, Work};
use crate::process::{ensure_file, output};
use crate::report::Run;

const SCRIPT: &str = "bench/peers/boto3_loop.py";

/// The loop, its Python and what it puts.
#[derive(Debug)]
pub struct Boto3 {
    python: PathBuf,
    record: PathBuf,
}

/// What the loop prints.
#[derive(Debug, serde::Deserialize)]
pub struct Answer {
    /// How it went.
    #[serde(flatten)]
    pub run: Run,
    /// Its version.
    pub boto3: String,
    /// Its Python's.
    pub python: String,
}

impl Boto3 {
    /// From the Python environment `environment`; `record` is a file with the body of every put.
    pub fn new(environment: &Path, record: PathBuf) -> anyhow::Result<Self> {
        let python = environment.join("bin/python");
        ensure_file(&python, "run bench/peers/install, or the whole of `make bench NAME=worker`")?;
        Ok(Self { python, record })
    }

    /// Has it take all of `work` off its queue.
    pub async fn run(&self, aws: &Aws, work: &Work) -> anyhow::Result<Answer> {
        let mut command = Command::new(&self.python);
        command.arg(SCRIPT).args(["--endpoint", &aws.endpoint, "--queue-url", &work.queue_url]);
        command.args(["--bucket", &work.bucket, "--messages", &work.messages.to_string()]);
        let printed = output(command.arg("--record").arg(&self.record).kill_on_drop(true)).await?;
        serde_json::from_str(printed.trim()).with_context(|| format!("{SCRIPT} printed {printed:?}"))
    }
}
