//! One server and the sides that take their turns against it, each with a queue and a bucket of its own.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use crate::aws::{Aws, Work};
use crate::ceiling::{self, Part, SHAPES, Shape};
use crate::ours::Ours;
use crate::overhead::Overheads;
use crate::peer::{Peer, Task};
use crate::report::Run;
use crate::server::Server;
use crate::table::Table;

/// For what is left of the side before: a poll that was cut off, a process that ends.
const PAUSE: Duration = Duration::from_millis(500);
/// How long messages come in at half of what the worker can do.
const PACED_SECONDS: f64 = 5.0;
/// Messages of a try for the ceiling's shape, at most.
const TRY: usize = 2000;

/// How much is done against the server.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Messages of a run of ours, and of the ceiling's.
    pub ours: usize,
    /// Messages that a peer finds.
    pub peers: usize,
    /// How long a peer works on them, at most.
    pub limit: Duration,
}

/// A server, and what is measured against it.
#[derive(Debug)]
pub struct Arena {
    server: Server,
    aws: Aws,
    ours: Ours,
    amount: Amount,
    /// What all sides but ours put: a record that the worker wrote.
    record: Bytes,
    file: NamedTempFile,
    table: Table,
    versions: Map<String, Value>,
}

impl Arena {
    /// Warms the server up, takes a record that the worker puts, and finds the ceiling's shape.
    pub async fn new(server: Server, ours: Ours, amount: Amount) -> anyhow::Result<Self> {
        eprintln!("warming up, and looking for the shape of the ceiling");
        let aws = Aws::new(&server.endpoint);
        let first = aws.work("warm-up", amount.ours.min(100)).await?;
        ours.run(&aws, &first).await?;
        aws.verify(&first, first.messages).await?;
        let keys = aws.objects(&first.bucket).await?;
        let record = aws.object(&first.bucket, keys.first().context("the worker wrote no record")?).await?;
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), &record)?;
        let table = Table::new(best_shape(&aws, &record, amount.ours.div_ceil(2).min(TRY)).await?, record.len());
        let version = server.version.clone().map(|version| ("localstack".into(), version.into()));
        let versions = version.into_iter().collect();
        Ok(Self { server, aws, ours, amount, record, file, table, versions })
    }

    /// Every side once; another one begins in each round.
    pub async fn round(&mut self, round: usize, peers: &[Peer]) -> anyhow::Result<()> {
        let sides = 2 + peers.len();
        for turn in 0..sides {
            match (turn + round) % sides {
                0 => self.ours(round).await?,
                1 => self.ceiling(round, Part::All).await?,
                other => self.peer(round, &peers[other - 2]).await?,
            }
        }
        self.ceiling(round, Part::Puts).await?;
        self.ceiling(round, Part::Queue).await
    }

    /// Stops the server; what was measured, and the versions of what was measured.
    pub async fn stop(self) -> anyhow::Result<(Table, Map<String, Value>)> {
        self.server.stop().await?;
        Ok((self.table, self.versions))
    }

    async fn ours(&mut self, round: usize) -> anyhow::Result<()> {
        let work = self.aws.work(&format!("millrace-{round}"), self.amount.ours).await?;
        let cpu = self.before().await?;
        let measured = self.ours.run(&self.aws, &work).await?;
        let run = self.after("millrace", &work, cpu, measured.run).await?;
        self.table.ours.0.push(run);
        self.table.memory = self.table.memory.most(measured.memory);
        self.table.full_load.add(Overheads::read(&self.aws, &work).await?);

        let per_second = run.rate() / 2.0;
        let work = self.aws.empty(&format!("paced-{round}")).await?;
        let work = Work { messages: (per_second * PACED_SECONDS) as usize, ..work };
        let measured = self.ours.run_paced(&self.aws, &work, per_second).await?;
        self.aws.verify(&work, measured.run.messages).await?;
        self.aws.delete_queue(&work).await?;
        self.table.half_load.add(Overheads::read(&self.aws, &work).await?);
        Ok(())
    }

    async fn ceiling(&mut self, round: usize, part: Part) -> anyhow::Result<()> {
        let (name, messages) = (format!("{}-{round}", part.name()), self.amount.ours);
        let work = match part {
            Part::All | Part::Queue => self.aws.work(&name, messages).await?,
            Part::Puts => Work { messages, ..self.aws.empty(&name).await? },
        };
        let cpu = self.before().await?;
        let run = ceiling::run(&self.aws, &work, &self.record, self.table.shape, part).await?;
        match part {
            Part::All => {
                let run = self.after(part.name(), &work, cpu, run).await?;
                self.table.ceiling.0.push(run);
            }
            Part::Puts => {
                let run = self.after(part.name(), &work, cpu, run).await?;
                self.table.puts.0.push(run);
            }
            // there are no records to look for
            Part::Queue => {
                self.aws.delete_queue(&work).await?;
                self.table.queue.0.push(run);
            }
        }
        Ok(())
    }

    async fn peer(&mut self, round: usize, peer: &Peer) -> anyhow::Result<()> {
        let name = peer.kind.name();
        let task = Task { record: self.file.path().into(), limit: self.amount.limit };
        let queue = format!("{name}-{round}");
        let work = if peer.kind.fills() {
            peer.fill(&self.aws, self.aws.empty(&queue).await?, self.amount.peers, &task).await?
        } else {
            self.aws.work(&queue, self.amount.peers).await?
        };
        let cpu = self.before().await?;
        let answer = peer.run(&self.aws, &work, &task).await?;
        let run = self.after(name, &work, cpu, answer.run).await?;
        self.table.peers.entry(peer.kind).or_default().0.push(run);
        self.versions.extend(answer.versions);
        Ok(())
    }

    /// The CPU time that the server has used before a run.
    async fn before(&self) -> anyhow::Result<f64> {
        tokio::time::sleep(PAUSE).await;
        self.server.cpu()
    }

    /// A run that did what it says; its queue is not needed any more.
    async fn after(&self, side: &str, work: &Work, cpu: f64, run: Run) -> anyhow::Result<Run> {
        let run = Run { server_cpu_seconds: self.server.cpu()? - cpu, ..run };
        self.aws.verify(work, run.messages).await?;
        self.aws.delete_queue(work).await?;
        eprintln!("  {side:<8} {:>6.0} messages/s", run.rate());
        Ok(run)
    }
}

/// Each shape twice on a part of the work; the one with the best run is the ceiling's.
async fn best_shape(aws: &Aws, record: &Bytes, messages: usize) -> anyhow::Result<Shape> {
    let mut best: Option<(f64, Shape)> = None;
    for (n, shape) in SHAPES.into_iter().enumerate() {
        let mut rate = 0.0_f64;
        for again in 0..2 {
            let work = aws.work(&format!("shape-{n}-{again}"), messages).await?;
            let run = ceiling::run(aws, &work, record, shape, Part::All).await?;
            aws.delete_queue(&work).await?;
            rate = rate.max(run.rate());
        }
        eprintln!("  {shape:<8} {rate:>6.0} messages/s");
        if best.is_none_or(|(most, _)| rate > most) {
            best = Some((rate, shape));
        }
    }
    best.map(|(_, shape)| shape).context("no shape was tried")
}
