//! The millrace operator: turns QueueConsumers into worker Deployments and scales them by their queues.
//!
//! One pass of reconcile is a pipeline, a module a step:
//! `QueueConsumer` + world → `observe` → `validate` → `scale` → `retire` → `build` → `apply` → `status`.
//! Only `observe`, `apply`, `retire::carry_out`, `status` and `events` talk to a server; the rest is pure.

pub mod args;

mod apply;
mod build;
mod clock;
mod controller;
mod error;
mod events;
mod http;
mod lease;
mod memory;
mod metrics;
mod observe;
mod pod;
mod queue;
mod retire;
mod roster;
mod scale;
mod simulate;
mod start;
mod status;
mod telemetry;
mod validate;
mod workers;
mod world;

use std::io::{self, BufRead, BufReader, Write as _};
use std::path::Path;

use anyhow::Context as _;

pub use simulate::run as simulate;
pub use start::run;

/// Makes the decisions of a log again and prints them: `-` is standard input.
pub fn replay(log: &Path) -> anyhow::Result<()> {
    let lines: Box<dyn BufRead> = if log == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = std::fs::File::open(log).with_context(|| format!("{} cannot be read", log.display()))?;
        Box::new(BufReader::new(file))
    };
    // Nobody reads on only where the reader has ended, as in a pipe.
    scale::replay::replay(lines, |line| drop(writeln!(io::stdout(), "{line}")))
}
