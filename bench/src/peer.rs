//! The peers: Python programs of bench/peers that do the worker's work, each in an environment of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value};
use tokio::process::Command;

use crate::aws::{Aws, Work};
use crate::process::output_or_ask_to_end;
use crate::report::Run;

const FOLDER: &str = "bench/peers";
/// Time that a peer has to start and to end, beside its work.
const AROUND: Duration = Duration::from_mins(2);
/// Time that one has which was asked to end, before it is killed.
const TO_END: &str = "--kill-after=15s";

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The loop that a Python worker begins as.
    Boto3,
    /// Celery with its SQS transport.
    Celery,
    /// A poller before a Ray Serve deployment.
    Ray,
}

/// A peer that is installed.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which.
    pub kind: Kind,
    python: PathBuf,
}

/// What a peer prints.
#[derive(Debug, serde::Deserialize)]
pub struct Answer {
    /// How it went.
    #[serde(flatten)]
    pub run: Run,
    /// Of itself, its libraries and its Python.
    pub versions: Map<String, Value>,
}

/// What a peer is given to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it puts for every message.
    pub record: PathBuf,
    /// When it stops although there is more to do.
    pub limit: Duration,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Boto3, Self::Celery, Self::Ray];

    /// Its name in results, and that of its environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boto3 => "boto3",
            Self::Celery => "celery",
            Self::Ray => "ray",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Boto3 => "boto3 loop",
            Self::Celery => "Celery, 8 threads",
            Self::Ray => "poller before Ray Serve",
        }
    }

    /// Whether it takes only messages of its own form, which it sends itself.
    pub fn fills(self) -> bool {
        self == Self::Celery
    }

    fn script(self) -> &'static str {
        match self {
            Self::Boto3 => "boto3_loop.py",
            Self::Celery => "celery_worker.py",
            Self::Ray => "ray_serve.py",
        }
    }
}

/// The Python of an environment, which is made the first time; how that goes, and why not, is told as it happens.
pub async fn python(environment: &str) -> anyhow::Result<PathBuf> {
    let install = format!("{FOLDER}/install");
    let mut command = Command::new(&install);
    let child = command.arg(environment).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let output = child.with_context(|| format!("cannot run {install}"))?.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "{install} {environment}: {}", output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    Ok(printed.lines().last().with_context(|| format!("{install} printed nothing"))?.into())
}

impl Peer {
    /// Installed, if need be.
    pub async fn install(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self { kind, python: python(kind.name()).await? })
    }

    /// Fills the queue of `work` with `messages` messages of its own form.
    pub async fn fill(&self, aws: &Aws, work: Work, messages: usize, task: &Task) -> anyhow::Result<Work> {
        let work = Work { messages, ..work };
        self.start(aws, &work, task, &["--fill"]).await?;
        Ok(work)
    }

    /// Has it take what it can of `work` off its queue.
    pub async fn run(&self, aws: &Aws, work: &Work, task: &Task) -> anyhow::Result<Answer> {
        let printed = self.start(aws, work, task, &[]).await?;
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("{} printed {printed:?}", self.kind.script()))
    }

    async fn start(&self, aws: &Aws, work: &Work, task: &Task, more: &[&str]) -> anyhow::Result<String> {
        // whether it takes too long or this program is interrupted: Ray needs a moment to end what it has started
        let mut command = Command::new("timeout");
        // no files beside its script
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // only the peer itself is told, not all that runs under it
        command.args(["--foreground", TO_END, &format!("{}s", (task.limit + AROUND).as_secs())]);
        command.arg(&self.python).arg(format!("{FOLDER}/{}", self.kind.script()));
        command.args(["--endpoint", &aws.endpoint, "--queue-url", &work.queue_url, "--bucket", &work.bucket]);
        command.args(["--messages", &work.messages.to_string(), "--seconds", &task.limit.as_secs().to_string()]);
        output_or_ask_to_end(command.arg("--record").arg(&task.record).args(more)).await
    }
}
