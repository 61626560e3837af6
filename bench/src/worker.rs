//! `millrace-bench worker`: the worker with engine Echo beside the ceiling of LocalStack and a boto3 loop.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::aws::{Aws, Work};
use crate::boto3::{self, Boto3};
use crate::ceiling::{self, Part, SHAPES, Shape};
use crate::localstack::LocalStack;
use crate::ours;
use crate::process::ensure_file;
use crate::report::{Machine, Run, Runs, profile, publish, rounded};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker. Default: the one that was built beside this program.
    #[arg(long)]
    worker: Option<PathBuf>,
    /// Folder of the Python environments that bench/peers/install makes.
    #[arg(long)]
    peers: PathBuf,
    /// Messages of a run.
    #[arg(long, default_value_t = 600)]
    messages: usize,
    /// Runs of each side.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Jobs that the worker holds at a time, as model.batch.maxSize.
    #[arg(long, default_value_t = 64)]
    slots: u32,
}

/// All sides' runs.
#[derive(Debug, Default)]
struct Table {
    ours: Runs,
    ceiling: Runs,
    boto3: Runs,
    puts: Runs,
    queue: Runs,
}

struct Bench {
    localstack: LocalStack,
    aws: Aws,
    worker: PathBuf,
    slots: u32,
    messages: usize,
    boto3: Boto3,
    record: Bytes,
    shape: Shape,
}

/// Measures, prints, writes the result.
pub async fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.rounds > 0 && args.messages >= 10, "at least one round of at least ten messages");
    let own = std::env::current_exe()?;
    let worker = args.worker.unwrap_or_else(|| own.with_file_name("millrace-worker"));
    ensure_file(&worker, "build it, as `make bench NAME=worker` does: cargo build --workspace --bins")?;
    let machine = Machine::look()?;
    machine.warn();
    eprintln!("starting LocalStack");
    let localstack = LocalStack::start(&args.peers.join("localstack")).await?;
    let aws = Aws::new(&localstack.endpoint);

    eprintln!("warming up, and looking for the shape of the ceiling");
    let first = aws.work("warm-up", args.messages.min(100)).await?;
    ours::run(&aws, &first, &worker, args.slots).await?;
    aws.verify(&first).await?;
    // the others put what the worker put
    let record = aws.first_object(&first.bucket).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("record.json");
    std::fs::write(&file, &record)?;
    let boto3 = Boto3::new(&args.peers.join("boto3"), file)?;
    let shape = best_shape(&aws, &record, args.messages).await?;

    let bench = Bench { localstack, aws, worker, slots: args.slots, messages: args.messages, boto3, record, shape };
    let (mut table, mut last) = (Table::default(), None);
    for round in 1..=args.rounds {
        last = Some(bench.round(round, &mut table).await?);
    }
    let peer = last.context("no round ran")?;
    let Bench { localstack, worker, record, .. } = bench;
    let version = localstack.version.clone();
    localstack.stop().await?;

    table.print(shape);
    let profile = profile(&worker);
    let versions = json!({
        "millrace": ours::version(&worker).await?, "localstack": version,
        "boto3": peer.boto3, "python": peer.python,
    });
    let mut result = table.json(shape, &profile, versions);
    result.insert("messages_per_run".into(), args.messages.into());
    result.insert("record_bytes".into(), record.len().into());
    publish("worker", &machine, result)
}

/// Each shape twice on a part of the work; the one with the best run is the ceiling's.
async fn best_shape(aws: &Aws, record: &Bytes, messages: usize) -> anyhow::Result<Shape> {
    let mut best: Option<(f64, Shape)> = None;
    for (n, shape) in SHAPES.into_iter().enumerate() {
        let mut rate = 0.0_f64;
        for again in 0..2 {
            let work = aws.work(&format!("shape-{n}-{again}"), messages.div_ceil(2)).await?;
            let run = ceiling::run(aws, &work, record, shape, Part::All).await?;
            aws.delete_queue(&work).await?;
            rate = rate.max(run.messages as f64 / run.seconds);
        }
        eprintln!("  {shape:<8} {rate:>6.0} messages/s");
        if best.is_none_or(|(most, _)| rate > most) {
            best = Some((rate, shape));
        }
    }
    best.map(|(_, shape)| shape).context("no shape was tried")
}

impl Bench {
    /// Every side once; another one begins in each round.
    async fn round(&self, round: usize, table: &mut Table) -> anyhow::Result<boto3::Answer> {
        let mut answer = None;
        for side in 0..3 {
            match (side + round) % 3 {
                0 => {
                    let (work, cpu) = self.work("boto3", round).await?;
                    let peer = self.boto3.run(&self.aws, &work).await?;
                    self.done("boto3", &work, cpu, peer.run, &mut table.boto3).await?;
                    answer = Some(peer);
                }
                1 => {
                    let (work, cpu) = self.work("ceiling", round).await?;
                    let run = ceiling::run(&self.aws, &work, &self.record, self.shape, Part::All).await?;
                    self.done("ceiling", &work, cpu, run, &mut table.ceiling).await?;
                }
                _ => {
                    let (work, cpu) = self.work("millrace", round).await?;
                    let run = ours::run(&self.aws, &work, &self.worker, self.slots).await?;
                    self.done("millrace", &work, cpu, run, &mut table.ours).await?;
                }
            }
        }
        let work = Work { messages: self.messages, ..self.aws.empty(&format!("puts-{round}")).await? };
        let cpu = self.localstack.cpu()?;
        let run = ceiling::run(&self.aws, &work, &self.record, self.shape, Part::Puts).await?;
        self.done("puts", &work, cpu, run, &mut table.puts).await?;
        let (work, _) = self.work("queue", round).await?;
        let run = ceiling::run(&self.aws, &work, &self.record, self.shape, Part::Queue).await?;
        self.aws.delete_queue(&work).await?;
        table.queue.0.push(run);
        answer.context("boto3 had no turn")
    }

    /// A side's work, and the CPU time that LocalStack has used before it begins.
    async fn work(&self, side: &str, round: usize) -> anyhow::Result<(Work, f64)> {
        let work = self.aws.work(&format!("{side}-{round}"), self.messages).await?;
        // what is left of the side before: a poll that was cut off, a process that ends
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((work, self.localstack.cpu()?))
    }

    async fn done(&self, side: &str, work: &Work, cpu: f64, run: Run, runs: &mut Runs) -> anyhow::Result<()> {
        let run = Run { localstack_cpu_seconds: self.localstack.cpu()? - cpu, ..run };
        self.aws.verify(work).await?;
        self.aws.delete_queue(work).await?;
        eprintln!("  {side:<8} {:>6.0} messages/s", run.messages as f64 / run.seconds);
        runs.0.push(run);
        Ok(())
    }
}

impl Table {
    /// The two parts' ceilings one after the other, had they nothing in common.
    fn derived(&self) -> f64 {
        1.0 / (1.0 / self.puts.rate() + 1.0 / self.queue.rate())
    }

    fn print(&self, shape: Shape) {
        println!();
        let head = ["messages/s", "of ceiling", "SQS calls", "CPU ms", "LocalStack"];
        let below = ["median", "", "a message", "a message", "CPU ms"];
        for [rate, ratio, calls, cpu, localstack] in [head, below] {
            println!("{:<44} {rate:>10} {ratio:>10} {calls:>10} {cpu:>10} {localstack:>10}", "");
        }
        let line = |name: &str, runs: &Runs| {
            let ratio = format!("{:.0} %", 100.0 * runs.rate() / self.ceiling.rate());
            let (calls, cpu) = (runs.calls_per_message(), runs.cpu_milliseconds());
            let localstack = runs.localstack_cpu_milliseconds();
            println!("{name:<44} {:>10.0} {ratio:>10} {calls:>10.2} {cpu:>10.1} {localstack:>10.1}", runs.rate());
        };
        line(&format!("ceiling: receive, put, delete ({shape} at once)"), &self.ceiling);
        line("millrace-worker, engine Echo", &self.ours);
        line("boto3 loop", &self.boto3);
        println!("{:<44} {:>10.0}", "puts alone", self.puts.rate());
        println!("{:<44} {:>10.0}", "receive and delete alone", self.queue.rate());
        println!("{:<44} {:>10.0}", "both, one after the other (computed)", self.derived());
        println!();
    }

    fn json(&self, shape: Shape, profile: &str, versions: Value) -> Map<String, Value> {
        let mut ours = self.ours.json();
        ours.insert("profile".into(), profile.into());
        let mut ceiling = self.ceiling.json();
        ceiling.insert("shape".into(), json!(shape));
        ceiling.insert("puts_per_second".into(), rounded(self.puts.rate()));
        ceiling.insert("receive_delete_per_second".into(), rounded(self.queue.rate()));
        ceiling.insert("computed_from_parts".into(), rounded(self.derived()));
        let ratio = |peer: f64| rounded(self.ours.rate() / peer);
        let mut result = Map::new();
        result.insert("ours".into(), ours.into());
        result.insert("peers".into(), json!({ "boto3": self.boto3.json(), "ceiling": ceiling }));
        let ratios = json!({
            "ours_to_ceiling": ratio(self.ceiling.rate()),
            "ours_to_boto3": ratio(self.boto3.rate()),
            "ours_to_computed_ceiling": ratio(self.derived()),
        });
        result.insert("ratios".into(), ratios);
        result.insert("versions".into(), versions);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(seconds: f64) -> Runs {
        Runs(vec![Run { messages: 600, seconds, ..Run::default() }])
    }

    #[test]
    fn ratios_are_of_what_was_measured_in_the_same_run() {
        let table = Table { ours: runs(4.0), ceiling: runs(3.0), boto3: runs(6.0), puts: runs(2.0), queue: runs(1.0) };
        let json = table.json(SHAPES[0], "dev", Value::Null);
        let wanted = json!({ "ours_to_ceiling": 0.75, "ours_to_boto3": 1.5, "ours_to_computed_ceiling": 0.75 });
        assert_eq!(json["ratios"], wanted);
        assert_eq!(json["peers"]["ceiling"]["puts_per_second"], json!(300.0));
    }
}
