//! One server's figures of `millrace-bench worker`: printed to be read, and as they stand in the result.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::ceiling::Shape;
use crate::overhead::Overheads;
use crate::peer;
use crate::process::Memory;
use crate::report::{Runs, rounded};

/// All sides' runs.
#[derive(Debug)]
pub struct Table {
    /// The worker.
    pub ours: Runs,
    /// What it adds to a message while the queue is full.
    pub full_load: Overheads,
    /// And while half as many come in as it can do.
    pub half_load: Overheads,
    /// The most that it had.
    pub memory: Memory,
    /// Each peer.
    pub peers: BTreeMap<peer::Kind, Runs>,
    /// The bare loop.
    pub ceiling: Runs,
    /// In this shape.
    pub shape: Shape,
    /// Its puts alone.
    pub puts: Runs,
    /// Its receives and deletes alone.
    pub queue: Runs,
    /// What is put for each message.
    record_bytes: usize,
}

impl Table {
    /// With nothing in it yet.
    pub fn new(shape: Shape, record_bytes: usize) -> Self {
        Self {
            ours: Runs::default(),
            full_load: Overheads::default(),
            half_load: Overheads::default(),
            memory: Memory::default(),
            peers: BTreeMap::new(),
            ceiling: Runs::default(),
            shape,
            puts: Runs::default(),
            queue: Runs::default(),
            record_bytes,
        }
    }

    /// The two parts' ceilings one after the other, had they nothing in common.
    fn derived(&self) -> f64 {
        1.0 / (1.0 / self.puts.rate() + 1.0 / self.queue.rate())
    }

    /// The fastest peer's rate.
    fn best_peer(&self) -> Option<f64> {
        self.peers.values().map(Runs::rate).max_by(f64::total_cmp)
    }

    /// For people.
    pub fn print(&self, title: &str) {
        println!("\nagainst {title}");
        let head = ["messages/s", "ours is", "SQS calls", "CPU ms", "server's"];
        let below = ["median", "so many ×", "a message", "a message", "CPU ms"];
        for [rate, ratio, calls, cpu, server] in [head, below] {
            println!("{:<52} {rate:>10} {ratio:>10} {calls:>10} {cpu:>10} {server:>10}", "");
        }
        let line = |name: &str, runs: &Runs| {
            let ratio = self.ours.rate() / runs.rate();
            let (calls, server) = (runs.calls_per_message(), runs.server_cpu_milliseconds());
            let cpu = runs.cpu_milliseconds();
            let cpu = if cpu.is_finite() { format!("{cpu:.2}") } else { "-".into() };
            println!("{name:<52} {:>10.0} {ratio:>10.2} {calls:>10.2} {cpu:>10} {server:>10.2}", runs.rate());
        };
        line("millrace-worker, engine Echo", &self.ours);
        for (kind, runs) in &self.peers {
            line(kind.title(), runs);
        }
        line(&format!("bare loop: receive, put, delete ({} at once)", self.shape), &self.ceiling);
        println!("{:<52} {:>10.0}", "  its puts alone", self.puts.rate());
        println!("{:<52} {:>10.0}", "  its receives and deletes alone", self.queue.rate());
        let mib = |kib: u64| kib as f64 / 1024.0;
        let Memory { resident, anonymous, file } = self.memory;
        for (load, overheads) in [("half load", &self.half_load), ("full load", &self.full_load)] {
            let (p50, p99) = (overheads.percentile(50), overheads.percentile(99));
            println!("overhead of a message up to its record at {load}: p50 {p50:.1} ms, p99 {p99:.1} ms");
        }
        println!(
            "resident memory of the worker: {:.1} MiB; {:.1} its own, {:.1} of its binary and libraries",
            mib(resident),
            mib(anonymous),
            mib(file)
        );
    }

    /// For the result: `ours`, `peers` and `ratios`. Those who were `not_measured` say why.
    pub fn json(&self, profile: &str, not_measured: &BTreeMap<peer::Kind, &'static str>) -> Map<String, Value> {
        let mib = |kib: u64| rounded(kib as f64 / 1024.0);
        let mut ours = self.ours.json();
        let overheads = json!({ "half_load": self.half_load.json(), "full_load": self.full_load.json() });
        ours.insert("overhead_milliseconds".into(), overheads);
        ours.insert("resident_mib".into(), mib(self.memory.resident));
        ours.insert("anonymous_mib".into(), mib(self.memory.anonymous));
        ours.insert("binary_mib".into(), mib(self.memory.file));
        ours.insert("profile".into(), profile.into());

        let mut peers = Map::new();
        let ratio = |other: f64| rounded(self.ours.rate() / other);
        let mut ratios = Map::new();
        if let Some(best) = self.best_peer() {
            ratios.insert("ours_to_best_peer".into(), ratio(best));
        }
        for (kind, runs) in &self.peers {
            peers.insert(kind.name().into(), runs.json().into());
            ratios.insert(format!("ours_to_{}", kind.name()), ratio(runs.rate()));
        }
        for (kind, why) in not_measured {
            peers.insert(kind.name().into(), json!({ "not_measured": why }));
        }
        let mut ceiling = self.ceiling.json();
        ceiling.insert("shape".into(), json!(self.shape));
        ceiling.insert("puts_per_second".into(), rounded(self.puts.rate()));
        ceiling.insert("receive_delete_per_second".into(), rounded(self.queue.rate()));
        ceiling.insert("computed_from_parts".into(), rounded(self.derived()));
        peers.insert("ceiling".into(), ceiling.into());
        ratios.insert("ours_to_ceiling".into(), ratio(self.ceiling.rate()));
        ratios.insert("ours_to_computed_ceiling".into(), ratio(self.derived()));

        let parts = [("ours", ours), ("peers", peers), ("ratios", ratios)];
        let mut result: Map<_, _> = parts.into_iter().map(|(name, part)| (name.into(), part.into())).collect();
        result.insert("record_bytes".into(), self.record_bytes.into());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceiling::SHAPES;
    use crate::peer::Kind;
    use crate::report::Run;

    fn runs(seconds: f64) -> Runs {
        Runs(vec![Run { messages: 600, seconds, ..Run::default() }])
    }

    #[test]
    fn ratios_are_of_what_was_measured_in_the_same_run() {
        let table = Table {
            ours: runs(1.0),
            ceiling: runs(0.5),
            peers: [(Kind::Boto3, runs(6.0)), (Kind::Celery, runs(9.0))].into(),
            puts: runs(0.75),
            queue: runs(0.25),
            ..Table::new(SHAPES[0], 600)
        };
        let json = table.json("dev", &[(Kind::Ray, "left out")].into());
        let wanted = json!({
            "ours_to_best_peer": 6.0, "ours_to_boto3": 6.0, "ours_to_celery": 9.0,
            "ours_to_ceiling": 0.5, "ours_to_computed_ceiling": 1.0,
        });
        assert_eq!(json["ratios"], wanted);
        assert_eq!(json["peers"]["ceiling"]["puts_per_second"], json!(800.0));
        assert_eq!(json["peers"]["ray"], json!({ "not_measured": "left out" }));
    }
}
