//! Our side: the worker as a process of its own, configured as the operator would, with engine Echo.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::process::Command;

use crate::aws::{Aws, KEY, REGION, Work};
use crate::http::{Http, samples};
use crate::process::{Memory, Process, free_port};
use crate::report::Run;

/// How often the worker is looked at until it is ready, which is when the clock starts.
const LOOK_AT_START: Duration = Duration::from_millis(2);
/// How often afterwards: 0.5 % of a run of 4 s, and a load that does not count.
const LOOK: Duration = Duration::from_millis(20);
/// A worker that makes no progress for so long has failed.
const STALL: Duration = Duration::from_secs(30);
/// Words in the names of S3's operations; every other operation that the worker counts is of SQS.
const S3: [&str; 2] = ["Object", "Bucket"];

/// A run, and the most memory that the worker had in it.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// How it went.
    pub run: Run,
    /// The worker's.
    pub memory: Memory,
}

/// The parts of `/state` that matter here.
#[derive(Debug, serde::Deserialize)]
struct State {
    ready: bool,
    busy: usize,
    completed: usize,
    failed: usize,
    problems: Vec<Problem>,
}

#[derive(Debug, serde::Deserialize)]
struct Problem {
    reason: String,
    message: String,
}

/// A worker to be started.
#[derive(Debug, Clone)]
pub struct Ours {
    /// The program.
    pub binary: PathBuf,
    /// Jobs that it holds at a time.
    pub slots: u32,
}

impl Ours {
    /// Has a new worker take all of `work` off its queue. From ready until each message is done and deleted.
    pub async fn run(&self, aws: &Aws, work: &Work) -> anyhow::Result<Measured> {
        run(self, aws, work, std::future::ready(Ok(()))).await
    }

    /// The same while the messages come in, so many a second, from when the worker is ready.
    pub async fn run_paced(&self, aws: &Aws, work: &Work, per_second: f64) -> anyhow::Result<Measured> {
        run(self, aws, work, aws.pace(work, per_second)).await
    }
}

async fn run(
    ours: &Ours,
    aws: &Aws,
    work: &Work,
    feed: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Measured> {
    let (dir, port) = (tempfile::tempdir()?, free_port()?);
    let config = dir.path().join("worker.yaml");
    // JSON is YAML
    let text = json!({
        "consumer": { "namespace": "bench", "name": "echo" },
        "queue": { "url": work.queue_url, "region": REGION, "endpoint": aws.endpoint, "visibilityTimeoutSeconds": 120 },
        "model": { "task": "Echo", "batch": { "maxSize": ours.slots, "maxWaitMilliseconds": 0 } },
        "output": { "bucket": work.bucket, "region": REGION, "endpoint": aws.endpoint, "forcePathStyle": true },
        "http": { "port": port },
    });
    std::fs::write(&config, text.to_string())?;
    let mut command = Command::new(&ours.binary);
    command.args(["run", "--config"]).arg(&config);
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", KEY);
    for variable in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        command.env_remove(variable);
    }
    let process = Process::start("the worker", &mut command, dir.path().join("log"))?;
    let base = format!("http://127.0.0.1:{port}");
    let mut worker = Worker { process, http: Http::default(), base, memory: Memory::default() };

    worker.until(LOOK_AT_START, |state| state.ready).await.context("while it started")?;
    let (began, cpu_before) = (Instant::now(), worker.process.cpu()?);
    let done = |state: &State| state.completed + state.failed >= work.messages && state.busy == 0;
    let (end, ()) = tokio::try_join!(worker.until(LOOK, done), feed)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = worker.process.cpu()? - cpu_before;
    anyhow::ensure!(end.failed == 0, worker.process.complain(&format!("failed {} messages", end.failed)));

    let metrics = worker.http.get(&format!("{}/metrics", worker.base)).await?;
    let calls = samples(&String::from_utf8_lossy(&metrics), "millrace_worker_aws_requests_total");
    let of_sqs = calls
        .iter()
        .filter(|call| call.label("operation").is_some_and(|name| !S3.iter().any(|word| name.contains(word))));
    let sqs_calls = of_sqs.map(|call| call.value).sum::<f64>() as u64;
    let run = Run { messages: work.messages, seconds, cpu_seconds: Some(cpu_seconds), sqs_calls, ..Run::default() };
    let measured = Measured { run, memory: worker.memory };
    // it polls an empty queue by now
    worker.process.stop().await?;
    Ok(measured)
}

/// How a binary names itself.
pub async fn version(binary: &Path) -> anyhow::Result<String> {
    let text = crate::process::output(Command::new(binary).arg("--version")).await?;
    Ok(text.split_whitespace().last().unwrap_or_default().to_owned())
}

struct Worker {
    process: Process,
    http: Http,
    base: String,
    /// The most seen.
    memory: Memory,
}

impl Worker {
    /// Looks at `/state` until it is as wanted, or nothing changes any more.
    async fn until(&mut self, look: Duration, wanted: impl Fn(&State) -> bool) -> anyhow::Result<State> {
        let url = format!("{}/state", self.base);
        let (mut progress, mut since) = (0, Instant::now());
        let mut said = String::from("it did not answer");
        loop {
            // until it listens there is no answer, and whether it still runs is all that can be asked
            if let Ok(body) = self.http.get(&url).await {
                let state: State = serde_json::from_slice(&body).context("/state")?;
                self.memory = self.memory.most(self.process.memory()?);
                if wanted(&state) {
                    return Ok(state);
                }
                if state.completed > progress {
                    (progress, since) = (state.completed, Instant::now());
                }
                let problems = state.problems.iter().map(|p| format!("{}: {}", p.reason, p.message));
                said = problems.collect::<Vec<_>>().join("; ");
            } else {
                self.process.ensure_running()?;
            }
            if since.elapsed() > STALL {
                let what = format!("made no progress for {} s after {progress} messages ({said})", STALL.as_secs());
                return Err(self.process.complain(&what));
            }
            tokio::time::sleep(look).await;
        }
    }
}
