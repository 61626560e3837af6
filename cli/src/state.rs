//! What was sent of a file, kept beside it, so that a second run sends nothing twice: `jobs.jsonl.sent`, a line for each job
//! that SQS has.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_client::Sent;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// `namespace/name`: one file may go to several.
    consumer: String,
    /// Its queue's URL: another cluster may have a consumer of the same name, and a queue may be made anew elsewhere.
    queue: String,
    #[serde(flatten)]
    sent: Sent,
}

/// What was sent of one file to one consumer.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    consumer: String,
    queue: String,
    sent: HashMap<String, Sent>,
    file: File,
}

impl State {
    /// The state of `input` for `consumer` and its queue; empty where there is none yet.
    pub fn open(input: &Path, consumer: &str, queue: &str) -> anyhow::Result<Self> {
        let mut name = input.as_os_str().to_owned();
        name.push(".sent");
        let path = PathBuf::from(name);
        let why = || format!("cannot keep what was sent in {}; --no-state does without", path.display());
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(why)?,
        };
        // a line that a crash cut off is as if it were not there: its job has the same id and is computed once all the same
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let own = lines.filter(|line| line.consumer == consumer && line.queue == queue);
        let sent = own.map(|line| (line.sent.job_id.clone(), line.sent)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).with_context(why)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").with_context(why)?;
        }
        Ok(Self { path, consumer: consumer.into(), queue: queue.into(), sent, file })
    }

    /// A job that was sent before.
    pub fn get(&self, job_id: &str) -> Option<&Sent> {
        self.sent.get(job_id)
    }

    /// Keeps a job that SQS has.
    pub fn keep(&mut self, sent: &Sent) -> anyhow::Result<()> {
        let line = Line { consumer: self.consumer.clone(), queue: self.queue.clone(), sent: sent.clone() };
        let text = format!("{}\n", serde_json::to_string(&line)?);
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(job_id: &str) -> Sent {
        Sent {
            job_id: job_id.into(),
            message_id: "m".into(),
            input_sha256: "h".into(),
            sent_at: Some(jiff::Timestamp::UNIX_EPOCH),
            attempt: None,
        }
    }

    #[test]
    fn what_was_sent_is_known_to_the_next_run_for_the_same_consumer_and_queue() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("jobs.jsonl");
        let mut first = State::open(&input, "a/b", "u").unwrap();
        assert_eq!(first.get("j"), None);
        first.keep(&sent("j")).unwrap();
        // killed in the middle of a line
        first.file.write_all(b"{\"consumer\":\"a/b\",\"job").unwrap();
        let mut second = State::open(&input, "a/b", "u").unwrap();
        assert_eq!(second.get("j"), Some(&sent("j")));
        second.keep(&sent("k")).unwrap();
        let third = State::open(&input, "a/b", "u").unwrap();
        assert_eq!((third.get("j"), third.get("k")), (Some(&sent("j")), Some(&sent("k"))));
        for (consumer, queue) in [("a/c", "u"), ("a/b", "another cluster's")] {
            assert_eq!(State::open(&input, consumer, queue).unwrap().get("j"), None, "{consumer} {queue}");
        }
    }
}
