//! A server of SQS and S3 that the measurement starts for itself, so that nothing else uses it: the model server, which
//! is fast enough not to be the limit, or LocalStack, which people know.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::http::Http;
use crate::process::{Process, ensure_file, free_port};

/// LocalStack loads its services before it answers, which takes 5 to 20 s.
const START: Duration = Duration::from_mins(2);
/// How often a server that starts is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// millrace-aws-model: SQS and S3 in memory, in Rust.
    AwsModel,
    /// LocalStack, in Python.
    Localstack,
}

/// One that runs.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub endpoint: String,
    /// As it tells itself, if it does.
    pub version: Option<String>,
    process: Process,
    /// LocalStack's data; goes with it.
    data: TempDir,
}

impl Kind {
    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::AwsModel => "the model server",
            Self::Localstack => "LocalStack",
        }
    }
}

impl Server {
    /// Starts the model server and waits until it listens.
    pub async fn model(binary: &Path) -> anyhow::Result<Self> {
        ensure_file(binary, "build it, as `make bench NAME=worker` does: cargo build --workspace --bins")?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        command.args(["--port", &port.to_string()]);
        let mut this = Self::start("the model server", &mut command, port)?;
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            this.wait(since).await?;
        }
        Ok(this)
    }

    /// Starts LocalStack from a Python environment and waits until it answers.
    pub async fn localstack(python: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(python);
        command
            .args(["-m", "localstack.runtime.main"])
            .env("GATEWAY_LISTEN", format!("127.0.0.1:{port}"))
            .env("SERVICES", "sqs,s3")
            .env("EAGER_SERVICE_LOADING", "1")
            .env("SKIP_SSL_CERT_DOWNLOAD", "1")
            .env("DISABLE_EVENTS", "1")
            // it would ask for port 53
            .env("DNS_ADDRESS", "0")
            // in a container it would take the machine's /var/lib/localstack
            .env("OVERRIDE_IN_DOCKER", "0");
        let mut this = Self::start("LocalStack", &mut command, port)?;
        let (http, since) = (Http::default(), Instant::now());
        let url = format!("{}/_localstack/health", this.endpoint);
        loop {
            if let Ok(body) = http.get(&url).await {
                let health: Value = serde_json::from_slice(&body)?;
                this.version = health["version"].as_str().map(str::to_owned);
                return Ok(this);
            }
            this.wait(since).await?;
        }
    }

    fn start(name: &'static str, command: &mut Command, port: u16) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        command.env("FILESYSTEM_ROOT", data.path()).current_dir(data.path());
        let process = Process::start(name, command, data.path().join("log"))?;
        Ok(Self { endpoint: format!("http://127.0.0.1:{port}"), version: None, process, data })
    }

    async fn wait(&mut self, since: Instant) -> anyhow::Result<()> {
        self.process.ensure_running()?;
        if since.elapsed() > START {
            return Err(self.process.complain("did not answer within two minutes"));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    /// CPU time that it has used, in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        self.process.cpu()
    }

    /// Stops it.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await?;
        Ok(self.data.close()?)
    }
}
