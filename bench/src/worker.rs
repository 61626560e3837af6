//! `millrace-bench worker`: the worker with engine Echo beside its peers, all against the same server and in turns; once
//! against the model server, which is faster than any of them, and once against LocalStack, which is not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::arena::{Amount, Arena};
use crate::ours::{self, Ours};
use crate::peer::{self, Peer};
use crate::process::ensure_file;
use crate::report::{Extent, Machine, profile, publish};
use crate::server::{self, Server};
use crate::table::Table;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker. Default: the one that was built beside this program.
    #[arg(long)]
    worker: Option<PathBuf>,
    /// The model server. Default: the one that was built beside this program.
    #[arg(long)]
    aws_model: Option<PathBuf>,
    /// Only against this server.
    #[arg(long, value_enum)]
    only: Option<server::Kind>,
    /// Only beside these peers, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers_only: Option<Vec<peer::Kind>>,
    /// Runs of each side.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of a run against the model server.
    #[arg(long, default_value_t = 10_000)]
    messages: usize,
    /// Messages that a peer finds there.
    #[arg(long, default_value_t = 5000)]
    peer_messages: usize,
    /// How long a peer works on them, at most.
    #[arg(long, default_value_t = 10)]
    peer_seconds: u64,
    /// Messages of a run against LocalStack, all sides'.
    #[arg(long, default_value_t = 600)]
    localstack_messages: usize,
    /// Jobs that the worker holds at a time, as model.batch.maxSize.
    #[arg(long, default_value_t = 64)]
    slots: u32,
}

/// The same whatever the server.
#[derive(Debug)]
struct Setting {
    ours: Ours,
    rounds: usize,
    peers: Vec<Peer>,
    /// Peers that take no part, and why.
    not_measured: BTreeMap<peer::Kind, &'static str>,
    versions: Map<String, Value>,
}

/// Measures, prints, writes the result.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let least = args.messages.min(args.peer_messages).min(args.localstack_messages);
    anyhow::ensure!(args.rounds > 0 && least >= 10, "at least one round of at least ten messages");
    let own = std::env::current_exe()?;
    let worker = args.worker.clone().unwrap_or_else(|| own.with_file_name("millrace-worker"));
    let model = args.aws_model.clone().unwrap_or_else(|| own.with_file_name("millrace-aws-model"));
    ensure_file(&worker, "build it, as `make bench NAME=worker` does: cargo build --workspace --bins")?;
    let machine = Machine::look()?;
    machine.warn();
    let mut setting = Setting::new(&args, worker).await?;
    let against = |kind| args.only.is_none_or(|only| only == kind);
    let localstack = if against(server::Kind::Localstack) { Some(peer::python("localstack").await?) } else { None };
    let profile = profile(&setting.ours.binary);

    let mut result = Map::new();
    if against(server::Kind::AwsModel) {
        let limit = Duration::from_secs(args.peer_seconds);
        let amount = Amount { ours: args.messages, peers: args.peer_messages, limit };
        let (table, versions) = setting.measure(Server::model(&model).await?, amount).await?;
        table.print(server::Kind::AwsModel.title());
        setting.versions.extend(versions);
        result.extend(table.json(&profile, &setting.not_measured));
        result.insert("messages_per_run".into(), args.messages.into());
        result.insert("peer_messages_per_run".into(), args.peer_messages.into());
        result.insert("peer_seconds_at_most".into(), args.peer_seconds.into());
    }
    if let Some(python) = localstack {
        // there the loop is the fastest peer, and LocalStack itself the limit
        setting.peers.retain(|peer| peer.kind == peer::Kind::Boto3);
        let limit = Duration::from_mins(2);
        let amount = Amount { ours: args.localstack_messages, peers: args.localstack_messages, limit };
        eprintln!("starting LocalStack");
        let server = Server::localstack(&python).await?;
        let (table, versions) = setting.measure(server, amount).await?;
        table.print(server::Kind::Localstack.title());
        setting.versions.extend(versions);
        let mut json = table.json(&profile, &BTreeMap::new());
        json.insert("messages_per_run".into(), args.localstack_messages.into());
        result.insert("localstack".into(), json.into());
    }
    println!();
    result.insert("versions".into(), setting.versions.into());
    let whole = args.only.is_none() && args.peers_only.is_none();
    publish("worker", &machine, if whole { Extent::Whole } else { Extent::Part }, result)
}

impl Setting {
    /// With the peers that can be installed.
    async fn new(args: &Args, worker: PathBuf) -> anyhow::Result<Self> {
        let versions = [("millrace".into(), ours::version(&worker).await?.into())].into_iter().collect();
        let (mut peers, mut not_measured) = (Vec::new(), BTreeMap::new());
        for kind in peer::Kind::ALL {
            if args.peers_only.as_ref().is_some_and(|only| !only.contains(&kind)) {
                not_measured.insert(kind, "left out");
                continue;
            }
            match Peer::install(kind).await {
                Ok(peer) => peers.push(peer),
                Err(error) => {
                    eprintln!("warning: without {}: {error:#}", kind.title());
                    not_measured.insert(kind, "could not be installed");
                }
            }
        }
        Ok(Self {
            ours: Ours { binary: worker, slots: args.slots },
            rounds: args.rounds,
            peers,
            not_measured,
            versions,
        })
    }

    /// All rounds against one server, which is stopped in the end.
    async fn measure(&self, server: Server, amount: Amount) -> anyhow::Result<(Table, Map<String, Value>)> {
        let mut arena = Arena::new(server, self.ours.clone(), amount).await?;
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            arena.round(round, &self.peers).await?;
        }
        arena.stop().await
    }
}
