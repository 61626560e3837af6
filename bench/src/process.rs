//! Child processes: their logs kept to be quoted when one fails, their CPU time and memory read from /proc.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// Clock ticks of /proc in a second: USER_HZ, which is the same on every Linux.
const TICKS: f64 = 100.0;
/// Lines of a log that an error quotes.
const QUOTED: usize = 15;

/// A child that is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in `log`.
    pub fn start(name: &'static str, command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {:?}", command.as_std()))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        Ok(Self { name, child, pid, log })
    }

    /// An error with the end of its log, if it is not running any more.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.complain(&format!("ended ({status})"))),
        }
    }

    /// An error about it, with the end of its log.
    pub fn complain(&self, what: &str) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(QUOTED)..].join("\n");
        anyhow::anyhow!("{} {what}; its log ends:\n{end}", self.name)
    }

    /// CPU time that it has used, in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        cpu(self.pid)
    }

    /// Its memory, in KiB.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        Ok(Memory {
            resident: memory(self.pid, "VmRSS")?,
            anonymous: memory(self.pid, "RssAnon")?,
            file: memory(self.pid, "RssFile")?,
        })
    }

    /// Kills it and waits until it is gone.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot stop {}", self.name))
    }
}

/// Resident memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub resident: u64,
    /// What it holds itself.
    pub anonymous: u64,
    /// Pages of files that were touched: its binary and libraries.
    pub file: u64,
}

impl Memory {
    /// The most of both, part by part.
    pub fn most(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            anonymous: self.anonymous.max(other.anonymous),
            file: self.file.max(other.file),
        }
    }
}

/// CPU time that all threads of a process have used, in seconds.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat).map(|ticks| ticks / TICKS).with_context(|| format!("{path}: not as expected"))
}

/// User and system time of a line of /proc/PID/stat. The name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<f64>().ok()? + system.parse::<f64>().ok()?)
}

/// Memory of a process, in KiB, by the words of /proc/PID/status: VmRSS, RssAnon, RssFile.
pub fn memory(pid: u32, word: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kib(&status, word).with_context(|| format!("{path} has no {word}"))
}

fn kib(status: &str, word: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The process of a binary called `binary` whose environment has `variable` (NAME=value): one in a pod, seen from the
/// machine that the node's containers run on.
pub fn find(binary: &str, variable: &str) -> Option<u32> {
    let is_it = |pid: &u32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        let named = exe.is_ok_and(|exe| exe.file_name().is_some_and(|name| name == binary));
        let environment = || std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        named && environment().split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_it)
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A command's output, or an error that quotes what it said.
pub async fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{:?}", command.as_std());
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {shown}"))?;
    succeeded(&shown, &output)
}

/// The same for a command with processes of its own to end: when this is dropped it is asked to end, not killed.
pub async fn output_or_ask_to_end(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{:?}", command.as_std());
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let running = AskToEnd(child.id());
    let output = child.wait_with_output().await;
    running.ended();
    succeeded(&shown, &output?)
}

/// Sends SIGTERM when it is dropped.
struct AskToEnd(Option<u32>);

impl AskToEnd {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for AskToEnd {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // there is nobody left to tell that it failed
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
    }
}

fn succeeded(shown: &str, output: &Output) -> anyhow::Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{shown}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails with what to run if a file is not there.
pub fn ensure_file(path: &Path, fix: &str) -> anyhow::Result<()> {
    anyhow::ensure!(path.is_file(), "{} is not there: {fix}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_past_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10 18446744073709551615";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_read_by_its_word() {
        let status = "Name:\tx\nVmRSS:\t   18432 kB\nRssAnon:\t    4096 kB\n";
        assert_eq!((kib(status, "VmRSS"), kib(status, "RssAnon"), kib(status, "Vm")), (Some(18432), Some(4096), None));
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(memory(std::process::id(), "VmRSS").unwrap() > 0);
    }
}
