//! What every measurement ends with: a table to read, one JSON line, and the same in bench/results with the commit.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

const RESULTS: &str = "bench/results";

/// One side doing the work once.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
pub struct Run {
    /// How many messages.
    pub messages: usize,
    /// In what time.
    pub seconds: f64,
    /// CPU time of this side, without the server's; none where it has several processes.
    pub cpu_seconds: Option<f64>,
    /// The server's meanwhile.
    #[serde(default)]
    pub server_cpu_seconds: f64,
    /// Calls of SQS.
    pub sqs_calls: u64,
    /// Messages that were received and not done when it had to stop.
    #[serde(default)]
    pub unfinished: usize,
}

impl Run {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

/// One side's runs.
#[derive(Debug, Clone, Default)]
pub struct Runs(pub Vec<Run>);

impl Runs {
    /// Messages a second: the median over the runs.
    pub fn rate(&self) -> f64 {
        self.median(Run::rate)
    }

    /// The median over the runs of some figure.
    pub fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        let mut all: Vec<_> = self.0.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match all.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => all[middle],
            _ => f64::midpoint(all[middle - 1], all[middle]),
        }
    }

    /// Calls of SQS for one message.
    pub fn calls_per_message(&self) -> f64 {
        self.median(|run| run.sqs_calls as f64 / run.messages as f64)
    }

    /// CPU time of this side for one message, in milliseconds; NaN if it was not told.
    pub fn cpu_milliseconds(&self) -> f64 {
        self.median(|run| 1000.0 * run.cpu_seconds.unwrap_or(f64::NAN) / run.messages as f64)
    }

    /// CPU time of the server for one message of this side, in milliseconds.
    pub fn server_cpu_milliseconds(&self) -> f64 {
        self.median(|run| 1000.0 * run.server_cpu_seconds / run.messages as f64)
    }

    /// Messages received and not done at the end of a run.
    pub fn unfinished(&self) -> f64 {
        self.median(|run| run.unfinished as f64)
    }

    /// For the result; every run's rate is there, so that the spread can be seen.
    pub fn json(&self) -> Map<String, Value> {
        let rounds: Vec<_> = self.0.iter().map(|run| rounded(run.rate())).collect();
        let mut map = Map::new();
        map.insert("messages_per_second".into(), rounded(self.rate()));
        map.insert("rounds".into(), rounds.into());
        map.insert("sqs_calls_per_message".into(), rounded(self.calls_per_message()));
        let cpu = self.cpu_milliseconds();
        if cpu.is_finite() {
            map.insert("cpu_milliseconds_per_message".into(), rounded(cpu));
        }
        map.insert("server_cpu_milliseconds_per_message".into(), rounded(self.server_cpu_milliseconds()));
        if self.unfinished() > 0.0 {
            map.insert("received_but_not_done".into(), rounded(self.unfinished()));
        }
        map
    }
}

/// Three decimals are more than any of these figures is worth.
pub fn rounded(figure: f64) -> Value {
    json!((figure * 1000.0).round() / 1000.0)
}

/// Cargo's profile of a binary, by the folder that it lies in.
pub fn profile(binary: &Path) -> String {
    let folder = binary.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    if folder == "debug" { "dev".into() } else { folder.into_owned() }
}

/// The machine, and how busy it was with other things when this began.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    cores: usize,
    cpu: String,
    memory_gib: u64,
    load_at_start: f64,
}

impl Machine {
    /// This one, now.
    pub fn look() -> anyhow::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let after = |text: &str, word: &str| {
            let line = text.lines().find(|line| line.starts_with(word))?.split_once(':')?.1;
            Some(line.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let load = read("/proc/loadavg")?;
        let load = load.split_whitespace().next().and_then(|first| first.parse().ok());
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: after(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
            memory_gib: kib.div_ceil(1024 * 1024),
            load_at_start: load.unwrap_or_default(),
        })
    }

    /// Says so if the machine has other work: then the figures say little.
    pub fn warn(&self) {
        if self.load_at_start > 0.5 * self.cores as f64 {
            eprintln!(
                "warning: load {} on {} cores before anything began; something else runs here, and these figures will say little",
                self.load_at_start, self.cores
            );
        }
    }
}

/// Whether a result may take the place of the one in bench/results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All that this measurement has.
    Whole,
    /// Some of it was left out, as asked.
    Part,
}

/// Adds what a reader must know to trust a result, writes a whole one to bench/results, and prints it as the last line.
pub fn publish(name: &str, machine: &Machine, extent: Extent, result: Map<String, Value>) -> anyhow::Result<()> {
    let mut whole = Map::new();
    whole.insert("bench".into(), name.into());
    whole.extend(result);
    whole.insert("machine".into(), serde_json::to_value(machine)?);
    whole.insert("commit".into(), git(&["rev-parse", "HEAD"])?.into());
    // results of earlier runs are no change of what is measured
    let changes = git(&["status", "--porcelain", "--", ":/", ":!/bench/results"])?;
    whole.insert("dirty".into(), (!changes.is_empty()).into());
    whole.insert("date".into(), jiff::Timestamp::now().strftime("%Y-%m-%d").to_string().into());
    let whole = Value::Object(whole);

    let path = Path::new(RESULTS).join(format!("{name}.json"));
    if extent == Extent::Part {
        eprintln!("{} stays as it is: this was only a part of the measurement", path.display());
    } else {
        std::fs::create_dir_all(RESULTS)?;
        let text = serde_json::to_string_pretty(&whole)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{whole}");
    Ok(())
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    let output = command.args(arguments).output().context("git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "git {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(seconds: &[f64]) -> Runs {
        let run = |seconds: &f64| Run {
            messages: 600,
            seconds: *seconds,
            cpu_seconds: Some(1.2),
            server_cpu_seconds: 1.8,
            sqs_calls: 120,
            unfinished: 0,
        };
        Runs(seconds.iter().map(run).collect())
    }

    #[test]
    fn a_side_is_as_fast_as_its_median_run() {
        assert!((runs(&[6.0, 2.0, 3.0]).rate() - 200.0).abs() < 1e-9);
        assert!((runs(&[6.0, 2.0]).rate() - 200.0).abs() < 1e-9);
        assert!(Runs::default().rate().is_nan());
    }

    #[test]
    fn a_result_tells_every_round() {
        let json = Value::Object(runs(&[6.0, 2.0, 3.0]).json());
        let wanted = json!({
            "messages_per_second": 200.0, "rounds": [100.0, 300.0, 200.0],
            "sqs_calls_per_message": 0.2, "cpu_milliseconds_per_message": 2.0,
            "server_cpu_milliseconds_per_message": 3.0,
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn what_was_not_told_is_not_in_a_result() {
        let run = Run { messages: 10, seconds: 2.0, unfinished: 90, ..Run::default() };
        let json = Runs(vec![run]).json();
        assert!(!json.contains_key("cpu_milliseconds_per_message"));
        assert_eq!(json["received_but_not_done"], json!(90.0));
    }

    #[test]
    fn the_profile_is_told_by_the_folder() {
        assert_eq!(profile(Path::new("target/debug/millrace-worker")), "dev");
        assert_eq!(profile(Path::new("target/release/millrace-worker")), "release");
    }
}
