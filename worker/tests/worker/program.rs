//! The worker's binary: started with a config, asked over HTTP, told by signals.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use millrace_api::{DRAIN_PATH, DRAIN_SIGNATURE_HEADER, DRAIN_TIME_HEADER, WorkerState, drain_text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::lab::Lab;
use crate::wait::{until, until_true};

const BINARY: &str = env!("CARGO_BIN_EXE_millrace-worker");

/// A signal, by the name that `kill` knows.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// Stop, please.
    Term,
    /// Gone at once.
    Kill,
}

/// A running `millrace-worker run`; killed when dropped, and its log printed if the test failed.
#[derive(Debug)]
pub struct Worker {
    name: String,
    port: u16,
    child: Child,
    log: PathBuf,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Header lines in lower case.
    pub head: String,
    pub body: String,
}

/// The binary as a pod would have it: no environment but `env` and a cache of its own.
fn command(lab: &Lab, name: &str, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env_clear()
        .env("POD_NAME", name)
        .env("MILLRACE_CACHE_DIR", lab.folder.path().join(format!("{name}-cache")));
    command.envs(env.iter().copied()).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// What gives a worker its credentials.
pub const CREDENTIALS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

/// Runs a subcommand to its end.
pub async fn output(lab: &Lab, args: &[&str]) -> Output {
    command(lab, "by-hand", CREDENTIALS).args(args).output().await.unwrap()
}

/// Writes a worker.yaml (JSON is YAML).
pub fn write_config(lab: &Lab, name: &str, settings: &Value) -> PathBuf {
    let path = lab.folder.path().join(format!("{name}.yaml"));
    std::fs::write(&path, settings.to_string()).unwrap();
    path
}

/// Changes settings: objects are merged, everything else is replaced.
pub fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value,
    }
}

/// What names a key as the operator's.
pub fn drained_by(key: &Ed25519KeyPair) -> Value {
    json!({ "publicKey": BASE64_STANDARD.encode(key.public_key()) })
}

/// Starts a worker with `lab.settings(changes)`.
pub fn start(lab: &Lab, name: &str, changes: Value) -> Worker {
    start_with(lab, name, changes, CREDENTIALS)
}

/// Starts a worker with a whole environment of its own.
pub fn start_with(lab: &Lab, name: &str, changes: Value, env: &[(&str, &str)]) -> Worker {
    let port = free_port();
    let mut settings = lab.settings(changes);
    settings["http"] = json!({ "port": port });
    let config = write_config(lab, name, &settings);
    let log = lab.folder.path().join(format!("{name}.log"));
    let mut run = command(lab, name, env);
    run.arg("run").arg("--config").arg(config).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    Worker { name: name.into(), port, child: run.spawn().unwrap(), log }
}

/// Below the ports that the kernel gives to outgoing connections, so that nothing takes it meanwhile.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..30_000);
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

impl Worker {
    /// GETs a page; none while nobody answers.
    pub async fn get(&self, path: &str) -> Option<Answer> {
        self.ask("GET", path, "").await
    }

    /// Tells it to drain (`POST`) or to go on (`DELETE`), as the operator does; gives the answer once there is one.
    pub async fn drain(&self, method: &str, key: &Ed25519KeyPair) -> Answer {
        until("an answer to a drain", async || {
            let milliseconds = jiff::Timestamp::now().as_millisecond();
            let signature = BASE64_STANDARD.encode(key.sign(drain_text(method, &self.name, milliseconds).as_bytes()));
            let headers = format!("{DRAIN_TIME_HEADER}: {milliseconds}\r\n{DRAIN_SIGNATURE_HEADER}: {signature}\r\n");
            self.ask(method, DRAIN_PATH, &headers).await
        })
        .await
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Option<Answer> {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let request = format!("{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n{headers}\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            let (head, body) = text.split_once("\r\n\r\n")?;
            let status = head.split_whitespace().nth(1)?.parse().ok()?;
            Some(Answer { status, head: head.to_ascii_lowercase(), body: body.into() })
        };
        tokio::time::timeout(Duration::from_secs(5), exchange).await.ok()?
    }

    /// What `/state` says, once somebody answers.
    pub async fn state(&mut self) -> WorkerState {
        let name = self.name.clone();
        let answer = until(&format!("/state of worker {name}"), async || {
            assert!(self.is_running(), "worker {name} has ended");
            self.get("/state").await
        })
        .await;
        assert_eq!(answer.status, 200);
        serde_json::from_str(&answer.body).unwrap()
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for a state.
    pub async fn until_state(&mut self, what: &str, is: impl Fn(&WorkerState) -> bool) -> WorkerState {
        let what = format!("worker {}: {what}", self.name);
        until(&what, async || Some(self.state().await).filter(&is)).await
    }

    /// Waits until it is ready.
    pub async fn until_ready(&mut self) {
        self.until_state("ready", |state| state.ready).await;
    }

    /// Waits until it holds so many jobs.
    pub async fn until_busy(&mut self, jobs: u32) -> WorkerState {
        self.until_state(&format!("busy with {jobs}"), |state| state.busy == jobs).await
    }

    /// Waits until `/state` tells a problem with this reason, and gives its message.
    pub async fn until_problem(&mut self, reason: &str) -> String {
        let has = |state: &WorkerState| state.problems.iter().any(|p| p.reason == reason);
        let state = self.until_state(&format!("problem {reason}"), has).await;
        state.problems.into_iter().find(|p| p.reason == reason).unwrap().message
    }

    /// A counter of `/metrics`: the sum of the series called `name` that have all of `labels` (`outcome="ok"`).
    pub async fn counter(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.get("/metrics").await.unwrap().body;
        let series =
            page.lines().filter(|l| l.starts_with(&format!("{name}{{")) && labels.iter().all(|x| l.contains(x)));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: Signal) {
        let flag = match signal {
            Signal::Term => "-TERM",
            Signal::Kill => "-KILL",
        };
        let pid = self.child.id().expect("a worker that still runs").to_string();
        // the shell's own kill, which every machine has
        let told = Command::new("sh").args(["-c", "kill \"$1\" \"$2\"", "kill", flag, &pid]).status().await.unwrap();
        assert!(told.success());
    }

    /// Sends a second SIGTERM, to a worker that may have ended meanwhile.
    pub async fn hurry(&mut self) {
        if self.is_running() {
            self.signal(Signal::Term).await;
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("end of worker {name}"), async || self.child.try_wait().unwrap()).await
    }

    /// Sends SIGTERM and waits until the worker knows.
    pub async fn stop(&mut self) {
        self.signal(Signal::Term).await;
        until_true("stopping", async || match self.get("/readyz").await {
            Some(answer) => answer.status == 503 && answer.body.starts_with("stopping"),
            None => !self.is_running(),
        })
        .await;
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of worker {}\n{}---", self.name, self.log());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
