//! SQS and S3 in a process, over HTTP on loopback, with AWS's semantics, a clock that can be jumped and faults on
//! demand: what a LocalStack cannot do. For tests and benchmarks only; any credentials will do.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use millrace_aws_model::{Effect, Model, Operation, Plan, Rule};
//!
//! let model = Model::start(7).await?;
//! // every tenth record is put and its answer lost
//! let lost = Rule::on(Operation::PutObject, Effect::DropAfter).named(".record.json").chance(0.1);
//! model.inject(Plan { seed: 7, rules: vec![lost] })?;
//! // … clients of `model.endpoint()` do their work …
//! assert!(model.injected()[0] > 0);
//! # Ok(())
//! # }
//! ```

mod clock;
mod fault;
mod http;
mod journal;
mod operation;
mod plan;
mod s3;
mod sqs;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

pub use crate::clock::{Clock, Moment};
pub use crate::journal::{Entry, Event, Put};
pub use crate::operation::Operation;
pub use crate::plan::{Effect, Plan, PlanError, Refusal, Rule, When};
pub use crate::s3::{ConditionalWrites, Object};
pub use crate::sqs::{MessageView, QueueView};

/// How a model is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of message ids.
    pub seed: u64,
    /// Where it listens; zero for any free port.
    pub port: u16,
    /// Whether it keeps a journal.
    pub journal: bool,
}

/// A running model. It stops when it is dropped.
#[derive(Debug)]
pub struct Model {
    endpoint: String,
    shared: Arc<Shared>,
    server: AbortHandle,
}

/// A queue or a bucket that a test or benchmark wants and that AWS would not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot make {name}: {why}")]
pub struct SetupError {
    /// Its name.
    pub name: String,
    /// AWS's code and message.
    pub why: String,
}

/// What every connection needs.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Clock,
    faults: fault::Faults,
    journal: Arc<journal::Journal>,
    sqs: sqs::Sqs,
    s3: s3::S3,
}

impl Model {
    /// Starts one on a free port, with a journal.
    pub async fn start(seed: u64) -> io::Result<Self> {
        Self::with(Settings { seed, journal: true, ..Settings::default() }).await
    }

    /// Starts one.
    pub async fn with(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let clock = Clock::new();
        let journal = Arc::new(journal::Journal::new(settings.journal));
        let shared = Arc::new(Shared {
            sqs: sqs::Sqs::new(settings.seed, endpoint.clone(), clock.clone(), Arc::clone(&journal)),
            s3: s3::S3::new(clock.clone(), Arc::clone(&journal)),
            clock,
            faults: fault::Faults::default(),
            journal,
        });
        let server = tokio::spawn(http::serve(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { endpoint, shared, server })
    }

    /// Where clients of both services find it: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a queue, which is FIFO if its name ends in `.fifo`, and gives its URL. No fault strikes this.
    pub fn create_queue(&self, name: &str, attributes: &[(&str, &str)]) -> Result<String, SetupError> {
        let made = self.shared.sqs.create_queue(name, attributes);
        made.map_err(|error| SetupError { name: name.into(), why: error.to_string() })
    }

    /// Makes a bucket. No fault strikes this.
    pub fn create_bucket(&self, name: &str) -> Result<(), SetupError> {
        let made = self.shared.s3.create_bucket(name);
        made.map_err(|error| SetupError { name: name.into(), why: error.to_string() })
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Jumps its clock ahead.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Has these faults strike from now on, and no others. The counts of calls and of faults begin anew.
    pub fn inject(&self, plan: Plan) -> Result<(), PlanError> {
        self.shared.faults.replace(plan)
    }

    /// How often each rule of the plan struck: calls, or entries, messages and counts where it strikes those.
    pub fn injected(&self) -> Vec<u64> {
        self.shared.faults.injected()
    }

    /// What S3 makes of conditional writes from now on.
    pub fn conditional_writes(&self, mode: ConditionalWrites) {
        self.shared.s3.set_conditional_writes(mode);
    }

    /// A queue as it is now, if there is one of that name.
    pub fn queue(&self, name: &str) -> Option<QueueView> {
        self.shared.sqs.view(name)
    }

    /// A bucket's objects by their keys, if there is one of that name.
    pub fn objects(&self, bucket: &str) -> Option<BTreeMap<String, Object>> {
        self.shared.s3.objects(bucket)
    }

    /// What happened so far; nothing where no journal is kept.
    pub fn journal(&self) -> Vec<Entry> {
        self.shared.journal.entries()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.server.abort();
    }
}
