//! A proxy in front of LocalStack, run by the test itself, in which a scenario breaks SQS and S3 for its own consumer
//! alone: LocalStack is everybody's.

mod call;
mod rule;
mod serve;

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use rule::{Fault, Rule, Target};

use crate::Lab;

/// SQS and S3 as a consumer sees them that is pointed here. It ends with this value.
pub struct Proxy {
    endpoint: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

/// What all connections know.
struct Shared {
    /// What is broken now; the first rule that takes a call decides.
    rules: watch::Sender<Vec<Arc<Rule>>>,
    seen: Mutex<Seen>,
}

/// What went through.
#[derive(Debug, Default)]
struct Seen {
    calls: BTreeMap<String, usize>,
    /// Receipt handles by message id, in the order of their receives.
    handles: BTreeMap<String, Vec<String>>,
    /// The last ReceiveMessage answer that held a message.
    last_receive: Option<Value>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Lab {
    /// A proxy that passes everything through, until told otherwise.
    pub async fn proxy(&self) -> Result<Proxy> {
        let nodes: Api<Node> = self.all();
        let node = nodes.list(&ListParams::default()).await?.items.first().context("no node")?.name_any();
        let network = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
        let gateway = output("docker", &["inspect", "--format", network, &node]).await?;
        let listener = TcpListener::bind((gateway.as_str(), 0)).await.with_context(|| {
            format!("listen on {gateway}, the way from {node} to this machine (e2e/kind needs Docker on Linux)")
        })?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared { rules: watch::Sender::default(), seen: Mutex::default() });
        let serving = tokio::spawn(serve::run(listener, self.endpoint.clone(), Arc::clone(&shared)));

        // from the node, as pods' own packets come
        let health = format!("{endpoint}/_localstack/health");
        let probe = ["exec", &node, "curl", "--silent", "--fail", "--output", "/dev/null", "--max-time", "10", &health];
        output("docker", &probe).await.context("pods cannot reach this machine: does a firewall refuse them?")?;
        Ok(Proxy { endpoint, shared, serving })
    }
}

impl Proxy {
    /// Its URL, as pods reach it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Breaks something, until [`Proxy::mend`]. The rule goes on counting what it hit.
    pub fn inject(&self, rule: Rule) -> Arc<Rule> {
        eprintln!("injected: {rule}");
        let rule = Arc::new(rule);
        self.shared.rules.send_modify(|rules| rules.push(Arc::clone(&rule)));
        rule
    }

    /// Everything passes again.
    pub fn mend(&self) {
        eprintln!("mended");
        self.shared.rules.send_modify(Vec::clear);
    }

    /// How often an operation was asked for, whatever became of it.
    pub fn calls(&self, operation: &str) -> usize {
        self.shared.seen().calls.get(operation).copied().unwrap_or_default()
    }

    /// The receipt handles that workers got for a message, oldest first.
    pub fn handles(&self, message_id: &str) -> Vec<String> {
        self.shared.seen().handles.get(message_id).cloned().unwrap_or_default()
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
