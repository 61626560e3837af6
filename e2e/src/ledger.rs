//! The ledger: what became of every message that a scenario sent. It balances where each has exactly one final record or
//! lies in the dead-letter queue with a FAILED one, where the queue is left empty, and where the bucket holds nothing but
//! what the records name.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use millrace_api::{InvalidInputPolicy, JobStatus, ResultRecord};
use serde_json::Value;

use crate::{Consumer, Letter, Queue, Record, Sent};

/// Every message of a queue with what became of it, in the order in which they were sent.
#[derive(Debug)]
pub struct Ledger {
    entries: Vec<Entry>,
}

/// One message.
#[derive(Debug)]
struct Entry {
    sent: Sent,
    /// Its own, else that of the message which had its job before.
    record: Option<Record>,
    dead: Option<Letter>,
}

/// What there is to be balanced.
struct Books {
    sent: Vec<Sent>,
    records: Vec<Record>,
    dead: Vec<Letter>,
    keys: BTreeSet<String>,
    /// Messages that need no record in the dead-letter queue: their worker was killed on their last allowed receive.
    unrecorded: BTreeSet<String>,
    /// The consumer deletes messages that can never run.
    deletes_invalid: bool,
}

impl Consumer<'_> {
    /// Waits until nothing is left in the queue, and balances what its messages came to. Takes the dead letters out.
    pub async fn ledger(&self, queue: &Queue<'_>) -> Result<Ledger> {
        self.ledger_except(queue, &[]).await
    }

    /// The same, where some messages' worker was killed on their last allowed receive.
    pub async fn ledger_except(&self, queue: &Queue<'_>, killed: &[String]) -> Result<Ledger> {
        queue.await_empty().await?;
        let prefix = self.prefix();
        let books = Books {
            sent: queue.sent(),
            records: self.records().await?,
            dead: queue.take_dead().await?,
            keys: self.lab().keys(&prefix).await?.into_iter().collect(),
            unrecorded: killed.iter().cloned().collect(),
            deletes_invalid: self.get().await?.spec.queue.invalid_input == InvalidInputPolicy::Delete,
        };
        let (ledger, faults) = books.balance();
        ensure!(faults.is_empty(), "the ledger does not balance: {faults:#?}");
        Ok(ledger)
    }
}

impl Ledger {
    /// Every message is done, and none is dead.
    pub fn all_completed(&self) -> Result<()> {
        for entry in &self.entries {
            let record = entry.record.as_ref().with_context(|| format!("no record: {:?}", entry.sent))?;
            ensure!(record.is_completed() && entry.dead.is_none(), "not completed: {entry:?}");
        }
        Ok(())
    }

    /// What became of a message.
    pub fn record(&self, message_id: &str) -> Result<&ResultRecord> {
        let record = self.entry(message_id)?.record.as_ref();
        Ok(&record.with_context(|| format!("message {message_id} has no record"))?.content)
    }

    /// The version of its record.
    pub fn etag(&self, message_id: &str) -> Result<&str> {
        let record = self.entry(message_id)?.record.as_ref();
        Ok(&record.with_context(|| format!("message {message_id} has no record"))?.etag)
    }

    /// A message in the dead-letter queue.
    pub fn dead(&self, message_id: &str) -> Result<&Letter> {
        let dead = self.entry(message_id)?.dead.as_ref();
        dead.with_context(|| format!("message {message_id} is not in the dead-letter queue"))
    }

    /// All records, by message.
    pub fn records(&self) -> impl Iterator<Item = (&Sent, &ResultRecord)> {
        self.entries.iter().filter_map(|entry| Some((&entry.sent, &entry.record.as_ref()?.content)))
    }

    /// Of these messages each began when the one before was done.
    pub fn in_order(&self, group: &[String]) -> Result<()> {
        for pair in group.windows(2) {
            let (before, after) = (self.record(&pair[0])?, self.record(&pair[1])?);
            let (finished, started): (Timestamp, Timestamp) = (before.finished_at.parse()?, after.started_at.parse()?);
            ensure!(
                finished <= started,
                "{} began before {} was done: {after:?} {before:?}",
                after.job_id,
                before.job_id
            );
        }
        Ok(())
    }

    fn entry(&self, message_id: &str) -> Result<&Entry> {
        let found = self.entries.iter().find(|entry| entry.sent.id == message_id);
        found.with_context(|| format!("message {message_id} was not sent"))
    }
}

impl Books {
    /// The ledger, and everything that is wrong with it.
    fn balance(mut self) -> (Ledger, Vec<String>) {
        let mut faults = self.stray_objects();
        let ids: BTreeSet<String> = self.sent.iter().map(|sent| sent.id.clone()).collect();
        let jobs: BTreeSet<String> = self.sent.iter().map(job_of).collect();
        for Record { key, content, .. } in &self.records {
            if !ids.contains(&content.message_id) && !jobs.contains(&content.job_id) {
                faults.push(format!("{key} is of no message that was sent"));
            }
        }
        let mut entries = Vec::with_capacity(self.sent.len());
        for sent in std::mem::take(&mut self.sent) {
            let entry = Entry { record: self.record_of(&sent, &mut faults), dead: self.dead_letter_of(&sent), sent };
            faults.extend(self.fault_of(&entry));
            entries.push(entry);
        }
        faults.extend(self.dead.iter().map(|dead| format!("dead, and of no message that was sent: {dead:?}")));
        (Ledger { entries }, faults)
    }

    /// Objects that no record names, and those that are named and not there.
    fn stray_objects(&self) -> Vec<String> {
        let outputs = self.records.iter().flat_map(|record| &record.content.outputs);
        let outputs = outputs.filter_map(|output| output.uri.strip_prefix("s3://")?.split_once('/'));
        let named: BTreeSet<String> =
            outputs.map(|(_, key)| key.to_owned()).chain(self.records.iter().map(|r| r.key.clone())).collect();
        let nameless = self.keys.difference(&named).map(|key| format!("no record names {key}"));
        let missing = named.difference(&self.keys).map(|key| format!("a record names {key}, which is not there"));
        nameless.chain(missing).collect()
    }

    fn record_of(&self, sent: &Sent, faults: &mut Vec<String>) -> Option<Record> {
        let own: Vec<&Record> = self.records.iter().filter(|r| r.content.message_id == sent.id).collect();
        if own.len() > 1 {
            let keys: Vec<&str> = own.iter().map(|record| record.key.as_str()).collect();
            faults.push(format!("message {} has {} records: {keys:?}", sent.id, own.len()));
        }
        let job = job_of(sent);
        let of_job = || self.records.iter().find(|r| r.content.job_id == job && r.content.status.is_final());
        own.first().copied().or_else(of_job).cloned()
    }

    /// The one that SQS moved, else the one that a worker sent on: another message of the same body.
    fn dead_letter_of(&mut self, sent: &Sent) -> Option<Letter> {
        let moved = self.dead.iter().position(|dead| dead.id == sent.id);
        let found = moved.or_else(|| self.dead.iter().position(|dead| dead.body == sent.body))?;
        Some(self.dead.swap_remove(found))
    }

    fn fault_of(&self, entry: &Entry) -> Option<String> {
        let Entry { sent, record, dead } = entry;
        let status = record.as_ref().map(|record| record.content.status);
        let wrong = match (status, dead) {
            (None, None) => "lost: neither a record nor a dead letter",
            (None, Some(_)) if !self.unrecorded.contains(&sent.id) => "dead without a record",
            (Some(JobStatus::Failed), None) if !self.deletes_invalid => "FAILED, and not in the dead-letter queue",
            (Some(JobStatus::Completed | JobStatus::Expired | JobStatus::Cancelled), Some(_)) => "final, and dead too",
            _ => return None,
        };
        Some(format!("message {} ({:.80}): {wrong}", sent.id, sent.body))
    }
}

/// The job that a message asks for, as far as scenarios name jobs.
fn job_of(sent: &Sent) -> String {
    let body: BTreeMap<String, Value> = serde_json::from_str(&sent.body).unwrap_or_default();
    body.get("job_id").and_then(Value::as_str).unwrap_or(&sent.id).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent(id: &str, body: &str) -> Sent {
        Sent { id: id.into(), body: body.into() }
    }

    fn record(job: &str, message: &str, status: &str, output: Option<&str>) -> Record {
        let outputs: Vec<Value> = output
            .iter()
            .map(|key| json!({ "uri": format!("s3://b/{key}"), "content_type": "", "bytes": 1, "sha256": "" }))
            .collect();
        let content = serde_json::from_value(json!({
            "job_id": job, "message_id": message, "status": status, "consumer": "n/c", "outputs": outputs, "attempt": 1,
            "worker": "w", "model": { "task": "Echo" }, "input_sha256": "", "form": "text",
            "timings": { "queued_seconds": 0, "waited_seconds": 0, "inference_seconds": 0, "upload_seconds": 0,
                "total_seconds": 0 },
            "started_at": "", "finished_at": "",
        }));
        Record { key: format!("p/{job}.record.json"), etag: String::new(), content: content.unwrap() }
    }

    fn dead(id: &str, body: &str) -> Letter {
        Letter { id: id.into(), body: body.into(), attributes: BTreeMap::new() }
    }

    /// Balanced: one done with an output, one done by another message of its job, one FAILED and dead.
    fn books() -> Books {
        Books {
            sent: vec![sent("1", "a"), sent("2", r#"{"job_id":"j"}"#), sent("3", r#"{"job_id":"j"}"#), sent("4", "{")],
            records: vec![
                record("1", "1", "COMPLETED", Some("p/1.png")),
                record("j", "2", "COMPLETED", None),
                record("4", "4", "FAILED", None),
            ],
            dead: vec![dead("new", "{")],
            keys: ["p/1.png", "p/1.record.json", "p/j.record.json", "p/4.record.json"].map(str::to_owned).into(),
            unrecorded: BTreeSet::new(),
            deletes_invalid: false,
        }
    }

    #[test]
    fn it_balances() {
        let (ledger, faults) = books().balance();
        assert_eq!(faults, [""; 0]);
        assert_eq!(ledger.record("3").unwrap().job_id, "j");
        assert_eq!(ledger.dead("4").unwrap().id, "new");
        assert!(ledger.all_completed().is_err());
    }

    #[test]
    fn each_imbalance_is_named() {
        type Spoil = fn(&mut Books);
        let table: [(Spoil, &str); 9] = [
            (|books| books.sent.push(sent("5", "e")), "message 5 (e): lost"),
            (|books| books.dead.clear(), "message 4 ({): FAILED, and not in the dead-letter queue"),
            (|books| books.dead.push(dead("1", "a")), "message 1 (a): final, and dead too"),
            (|books| books.dead.push(dead("9", "z")), "dead, and of no message that was sent"),
            (|books| drop(books.records.remove(2)), "message 4 ({): dead without a record"),
            (|books| drop(books.sent.remove(0)), "p/1.record.json is of no message that was sent"),
            (|books| books.keys.extend(["p/x".to_owned()]), "no record names p/x"),
            (|books| books.keys.retain(|key| key != "p/1.png"), "a record names p/1.png, which is not there"),
            (|books| books.records.push(record("j2", "1", "COMPLETED", None)), "message 1 has 2 records"),
        ];
        for (spoil, words) in table {
            let mut books = books();
            spoil(&mut books);
            let (_, faults) = books.balance();
            assert!(faults.iter().any(|fault| fault.contains(words)), "{words}: {faults:?}");
        }
    }

    #[test]
    fn what_a_scenario_excepts_is_none() {
        let mut killed = books();
        killed.records.remove(2);
        killed.keys.remove("p/4.record.json");
        killed.unrecorded.insert("4".into());
        assert_eq!(killed.balance().1, [""; 0]);
        let mut deleted = books();
        deleted.dead.clear();
        deleted.deletes_invalid = true;
        assert_eq!(deleted.balance().1, [""; 0]);
    }
}
