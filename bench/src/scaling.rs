//! `millrace-bench scaling`: every policy on every trace of bench/traces, by `millrace-operator simulate`: how long jobs
//! wait and what that costs, beside an oracle that knows the trace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::process::output;
use crate::report::{Extent, Machine, profile, publish, rounded};

const TRACES: &str = "bench/traces";
const OURS: &str = "millrace";
const ORACLE: &str = "oracle";
const PEERS: [&str; 3] = ["keda", "wpa", "ray"];
/// The goal for GPU time, as a multiple of the oracle's.
const GPU_GOAL: f64 = 1.1;

/// What to simulate.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Each figure is the mean over so many seeds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Only these traces, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// NAME.json beside NAME.csv.
#[derive(Debug, Deserialize)]
struct Described {
    about: String,
    /// The QueueConsumer.
    spec: Value,
    /// Further options of `simulate`, without their dashes.
    options: BTreeMap<String, String>,
}

/// One simulation's result, or the mean of several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Figures {
    target: f64,
    jobs: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    over: f64,
    gpu_seconds: f64,
    least: f64,
    cold_starts: f64,
    peak: f64,
    redelivered: f64,
    busy_killed: f64,
}

impl Figures {
    fn read(report: &Value) -> anyhow::Result<Self> {
        let number = |pointer: &str| {
            report.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("simulate tells no {pointer}"))
        };
        anyhow::ensure!(number("/unserved")? == 0.0, "jobs were never done: {report}");
        Ok(Self {
            target: number("/target_seconds")?,
            jobs: number("/jobs")?,
            p50: number("/wait_seconds/p50")?,
            p95: number("/wait_seconds/p95")?,
            p99: number("/wait_seconds/p99")?,
            over: number("/over_target_share")?,
            gpu_seconds: number("/gpu_seconds")?,
            least: number("/least_gpu_seconds")?,
            cold_starts: number("/cold_starts")?,
            peak: number("/peak_replicas")?,
            redelivered: number("/redelivered")?,
            busy_killed: number("/busy_killed")?,
        })
    }

    fn mean(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| all.iter().map(figure).sum::<f64>() / all.len().max(1) as f64;
        Self {
            target: of(|f| f.target),
            jobs: of(|f| f.jobs),
            p50: of(|f| f.p50),
            p95: of(|f| f.p95),
            p99: of(|f| f.p99),
            over: of(|f| f.over),
            gpu_seconds: of(|f| f.gpu_seconds),
            least: of(|f| f.least),
            cold_starts: of(|f| f.cold_starts),
            peak: of(|f| f.peak),
            redelivered: of(|f| f.redelivered),
            busy_killed: of(|f| f.busy_killed),
        }
    }

    fn in_time(&self) -> bool {
        self.p95 <= self.target
    }

    fn json(&self) -> Value {
        json!({
            "wait_seconds": { "p50": rounded(self.p50), "p95": rounded(self.p95), "p99": rounded(self.p99) },
            "over_target_share": rounded(self.over), "gpu_hours": rounded(self.gpu_seconds / 3600.0),
            "cold_starts": rounded(self.cold_starts), "peak_replicas": rounded(self.peak),
            "redelivered": rounded(self.redelivered), "busy_killed": rounded(self.busy_killed),
        })
    }
}

/// All policies on one trace.
type Row = BTreeMap<&'static str, Figures>;

/// Which goals hold on a trace; none where the oracle cannot reach the target either.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Goals {
    p95_within_target: Option<bool>,
    gpu_to_oracle: f64,
    /// A peer that is better in waits and in GPU time at once.
    beaten_by: Option<&'static str>,
}

impl Goals {
    fn of(row: &Row) -> Option<Self> {
        let (ours, oracle) = (row.get(OURS)?, row.get(ORACLE)?);
        let better = |peer: &Figures| peer.p95 < ours.p95 && peer.gpu_seconds < ours.gpu_seconds;
        Some(Self {
            p95_within_target: oracle.in_time().then(|| ours.in_time()),
            gpu_to_oracle: ours.gpu_seconds / oracle.gpu_seconds,
            beaten_by: PEERS.into_iter().find(|name| row.get(name).is_some_and(better)),
        })
    }

    fn hold(&self) -> bool {
        self.p95_within_target != Some(false) && self.gpu_to_oracle <= GPU_GOAL && self.beaten_by.is_none()
    }
}

/// Simulates, prints, writes the result.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let machine = Machine::look()?;
    let bench = std::env::current_exe()?;
    let operator = bench.with_file_name("millrace-operator");
    let mut names = names()?;
    let extent = if args.only.is_empty() { Extent::Whole } else { Extent::Part };
    for only in &args.only {
        anyhow::ensure!(names.contains(only), "there is no trace {only}: choose among {}", names.join(", "));
    }
    names.retain(|name| args.only.is_empty() || args.only.contains(name));
    let mut rows = BTreeMap::new();
    for name in &names {
        let described = describe(name)?;
        let row = trace(&operator, name, &described, args.seeds).await?;
        print(name, &described.about, &row);
        rows.insert(name.clone(), row);
    }
    summarize(&rows);
    let version = output(Command::new(&operator).arg("--version")).await?;
    let mut result = json(&rows, args.seeds, &profile(&bench));
    result.insert("versions".into(), json!({ "operator": version.trim() }));
    publish("scaling", &machine, extent, result)
}

fn names() -> anyhow::Result<Vec<String>> {
    let folder =
        std::fs::read_dir(TRACES).with_context(|| format!("cannot read {TRACES}: run this in the checkout"))?;
    let mut names = Vec::new();
    for entry in folder {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "csv") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn describe(name: &str) -> anyhow::Result<Described> {
    let path = Path::new(TRACES).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Every policy on one trace.
async fn trace(operator: &Path, name: &str, described: &Described, seeds: u64) -> anyhow::Result<Row> {
    let spec = tempfile::NamedTempFile::new()?;
    std::fs::write(spec.path(), described.spec.to_string())?;
    let policies = [OURS].into_iter().chain(PEERS).chain([ORACLE]);
    let runs = policies.flat_map(|policy| (1..=seeds).map(move |seed| (policy, seed)));
    let csv = PathBuf::from(format!("{TRACES}/{name}.csv"));
    let runs = futures::stream::iter(runs).map(|(policy, seed)| {
        let mut command = Command::new(operator);
        command.arg("simulate").arg("--trace").arg(&csv).arg("--spec").arg(spec.path());
        command.args(["--policy", policy, "--seed", &seed.to_string(), "--format", "json", "--timeline-points", "0"]);
        command.args(described.options.iter().map(|(option, value)| format!("--{option}={value}")));
        async move {
            let report: Value = serde_json::from_str(&output(&mut command).await?)?;
            let figures = Figures::read(&report).with_context(|| format!("policy {policy}, seed {seed}"))?;
            anyhow::Ok((policy, figures))
        }
    });
    let runs: Vec<_> = runs
        .buffered(std::thread::available_parallelism()?.get())
        .try_collect()
        .await
        .with_context(|| format!("trace {name}"))?;
    let mut all: BTreeMap<&'static str, Vec<Figures>> = BTreeMap::new();
    for (policy, figures) in runs {
        all.entry(policy).or_default().push(figures);
    }
    Ok(all.into_iter().map(|(policy, figures)| (policy, Figures::mean(&figures))).collect())
}

/// For people.
fn print(name: &str, about: &str, row: &Row) {
    let Some(oracle) = row.get(ORACLE) else { return };
    println!("\n{name}: {about}");
    println!("  {:.0} jobs, target {:.0} s, work {:.2} GPU hours", oracle.jobs, oracle.target, oracle.least / 3600.0);
    println!(
        "  {:<10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>7} {:>6} {:>7}",
        "", "p95 wait", "p99 wait", "over", "GPU h", "x oracle", "starts", "most", "killed"
    );
    for policy in [OURS].into_iter().chain(PEERS).chain([ORACLE]) {
        let Some(f) = row.get(policy) else { continue };
        println!(
            "  {policy:<10} {:>7.1} s {:>7.1} s {:>7.2} % {:>9.2} {:>8.2} {:>7.0} {:>6.0} {:>7.0}",
            f.p95,
            f.p99,
            100.0 * f.over,
            f.gpu_seconds / 3600.0,
            f.gpu_seconds / oracle.gpu_seconds,
            f.cold_starts,
            f.peak,
            f.busy_killed,
        );
    }
}

fn summarize(rows: &BTreeMap<String, Row>) {
    println!("\n{:<12} {:>14} {:>18}   beaten on both by", "goals", "p95 <= target", "GPU <= 1.1 oracle");
    for (name, row) in rows {
        let Some(goals) = Goals::of(row) else { continue };
        let p95 = match goals.p95_within_target {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "oracle neither",
        };
        let gpu = if goals.gpu_to_oracle <= GPU_GOAL { "yes" } else { "NO" };
        let gpu = format!("{gpu}, {:.2}", goals.gpu_to_oracle);
        println!("{name:<12} {p95:>14} {gpu:>18}   {}", goals.beaten_by.unwrap_or("none"));
    }
    println!();
}

fn json(rows: &BTreeMap<String, Row>, seeds: u64, profile: &str) -> Map<String, Value> {
    let of = |policy: &str| -> Map<String, Value> {
        rows.iter().filter_map(|(name, row)| Some((name.clone(), row.get(policy)?.json()))).collect()
    };
    let mut peers: Map<String, Value> = PEERS.into_iter().map(|peer| (peer.to_owned(), of(peer).into())).collect();
    peers.insert(ORACLE.into(), of(ORACLE).into());
    let (mut ratios, mut goals) = (Map::new(), Map::new());
    for (name, row) in rows {
        let (Some(oracle), Some(held)) = (row.get(ORACLE), Goals::of(row)) else { continue };
        let ratio = |f: &Figures| {
            json!({
                "p95_to_target": rounded(f.p95 / f.target), "gpu_to_oracle": rounded(f.gpu_seconds / oracle.gpu_seconds),
                "gpu_to_work": rounded(f.gpu_seconds / f.least),
            })
        };
        ratios.insert(name.clone(), row.iter().map(|(policy, f)| ((*policy).to_owned(), ratio(f))).collect());
        let told = json!({
            "p95_within_target": held.p95_within_target, "gpu_within_1.1_of_oracle": held.gpu_to_oracle <= GPU_GOAL,
            "beaten_on_both_by": held.beaten_by, "hold": held.hold(),
        });
        goals.insert(name.clone(), told);
    }
    let hold = rows.values().filter_map(Goals::of).all(|goals| goals.hold());
    let parts = [
        ("ours", json!({ "traces": of(OURS), "seeds": seeds, "profile": profile })),
        ("peers", peers.into()),
        ("ratios", ratios.into()),
        ("goals", json!({ "hold": hold, "traces": goals })),
    ];
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(of: [(&'static str, f64, f64); 3]) -> Row {
        let figures = |p95, gpu_seconds| Figures { target: 60.0, p95, gpu_seconds, least: 1.0, ..Figures::default() };
        of.into_iter().map(|(name, p95, gpu)| (name, figures(p95, gpu))).collect()
    }

    #[test]
    fn goals_are_told_as_they_are() {
        for (ours, oracle, keda, in_time, within, beaten) in [
            ((50.0, 100.0), (60.0, 100.0), (70.0, 50.0), Some(true), true, None),
            ((61.0, 111.0), (60.0, 100.0), (70.0, 50.0), Some(false), false, None),
            ((61.0, 100.0), (62.0, 100.0), (55.0, 99.0), None, true, Some("keda")),
            ((61.0, 100.0), (62.0, 100.0), (55.0, 101.0), None, true, None),
        ] {
            let row = row([(OURS, ours.0, ours.1), (ORACLE, oracle.0, oracle.1), ("keda", keda.0, keda.1)]);
            let goals = Goals::of(&row).unwrap();
            assert_eq!((goals.p95_within_target, goals.beaten_by), (in_time, beaten));
            assert_eq!(goals.gpu_to_oracle <= GPU_GOAL, within);
        }
    }

    #[test]
    fn the_result_has_the_shape_of_all_results() {
        let rows = [("t".to_owned(), row([(OURS, 30.0, 150.0), (ORACLE, 20.0, 100.0), ("keda", 90.0, 400.0)]))].into();
        let json = Value::Object(json(&rows, 5, "dev"));
        assert_eq!(
            json["ratios"]["t"]["keda"],
            json!({ "p95_to_target": 1.5, "gpu_to_oracle": 4.0, "gpu_to_work": 400.0 })
        );
        assert_eq!(json["goals"]["hold"], json!(false));
        assert_eq!(json["ours"]["traces"]["t"]["wait_seconds"]["p95"], json!(30.0));
        assert!(json["peers"]["oracle"]["t"].is_object());
    }

    #[test]
    fn a_report_of_simulate_is_read() {
        let report = json!({
            "target_seconds": 60.0, "jobs": 3, "wait_seconds": { "p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0 },
            "over_target_share": 0.5, "gpu_seconds": 7200.0, "least_gpu_seconds": 3600.0, "cold_starts": 1,
            "peak_replicas": 2, "redelivered": 0, "busy_killed": 0, "unserved": 0,
        });
        let figures = Figures::read(&report).unwrap();
        assert_eq!(Figures::mean(&[figures, figures]), figures);
        assert!(Figures::read(&json!({ "unserved": 1 })).is_err());
    }
}
