//! A LocalStack of the measurement's own, so that nothing else uses it; its data lies in a folder that goes with it.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;

use crate::http::Http;
use crate::process::{Process, ensure_file, free_port};

/// LocalStack loads its services before it answers, which takes 5 to 20 s.
const START: Duration = Duration::from_mins(2);

/// One that runs.
#[derive(Debug)]
pub struct LocalStack {
    /// Where it listens.
    pub endpoint: String,
    /// As it tells itself.
    pub version: String,
    process: Process,
    _data: TempDir,
}

#[derive(serde::Deserialize)]
struct Health {
    version: String,
}

impl LocalStack {
    /// Starts one from a Python environment and waits until it answers.
    pub async fn start(environment: &Path) -> anyhow::Result<Self> {
        let python = environment.join("bin/python");
        ensure_file(&python, "run bench/peers/install, or the whole of `make bench NAME=worker`")?;
        let (data, port) = (tempfile::tempdir()?, free_port()?);
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
            .env("OVERRIDE_IN_DOCKER", "0")
            .env("FILESYSTEM_ROOT", data.path())
            .current_dir(data.path());
        let process = Process::start("LocalStack", &mut command, data.path().join("log"))?;
        let mut this =
            Self { endpoint: format!("http://127.0.0.1:{port}"), version: String::new(), process, _data: data };
        this.version = this.answer().await?.version;
        Ok(this)
    }

    async fn answer(&mut self) -> anyhow::Result<Health> {
        let (http, since) = (Http::default(), Instant::now());
        let url = format!("{}/_localstack/health", self.endpoint);
        while since.elapsed() < START {
            self.process.ensure_running()?;
            if let Ok(body) = http.get(&url).await {
                return Ok(serde_json::from_slice(&body)?);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(self.process.complain("did not answer within two minutes"))
    }

    /// CPU time that it has used, in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        self.process.cpu()
    }

    /// Stops it.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}
