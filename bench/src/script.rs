//! Measurements that are scripts: `bench/NAME/measure.py`. Their last line is the result, which is published like any other.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::report::{Extent, Machine, profile, publish};

/// How long a script that was told to end may take to clean up.
const CLEAN_UP: Duration = Duration::from_mins(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// The script's own; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Runs it from the repository's root, and publishes what it found.
pub async fn run(name: &str, args: Args) -> anyhow::Result<()> {
    let machine = Machine::look()?;
    machine.warn();
    let binary = std::env::current_exe()?;
    let binaries = binary.parent().context("this binary lies in no folder")?;
    let script = format!("bench/{name}/measure.py");
    let mut command = Command::new("python3");
    command.arg(&script).args(&args.options).env("MILLRACE_BENCH_BINARIES", binaries).env("PYTHONUNBUFFERED", "1");
    // a group of its own: Ctrl-C reaches it through this process alone, once
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut running = Running(command.spawn().with_context(|| format!("cannot run python3 {script}"))?);
    let output = running.0.stdout.take().context("its output is not a pipe")?;
    let mut lines = BufReader::new(output).lines();
    let mut last: Option<String> = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(line) = last.replace(line) {
            println!("{line}");
        }
    }
    let status = running.0.wait().await?;
    anyhow::ensure!(status.success(), "{script} ended with {status}; nothing was written");
    let last = last.unwrap_or_default();
    let Ok(mut result) = serde_json::from_str::<Map<String, Value>>(&last) else {
        // --help measures nothing
        println!("{last}");
        return Ok(());
    };
    let whole = result.remove("whole").and_then(|whole| whole.as_bool()).unwrap_or_default();
    if let Some(Value::Object(ours)) = result.get_mut("ours") {
        ours.insert("profile".into(), profile(&binary).into());
    }
    publish(name, &machine, if whole { Extent::Whole } else { Extent::Part }, result)
}

/// To be dropped before it has ended is to be told to end, and waited for: it has things of its own to clean up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if ended(&mut self.0) {
            return;
        }
        if let Some(pid) = self.0.id() {
            eprintln!("telling the measurement to end and clean up");
            // there is nobody left to tell that it failed
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
        let mut waited = Duration::ZERO;
        while !ended(&mut self.0) && waited < CLEAN_UP {
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
    }
}
