//! `millrace-operator simulate`: a queue's trace, played through this operator's decisions or another policy's.
//!
//! trace → jobs → engine (queue, cluster, policy) → outcome → report, picture. Everything but this file's [`run`] is pure.

mod args;
mod cluster;
mod engine;
mod outcome;
mod policy;
mod queue;
mod random;
mod report;
mod setup;
mod spec;
mod svg;
mod timeline;
mod trace;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

pub use args::SimulateArgs;
use args::{Format, PolicyName};
use outcome::Outcome;
use policy::keda::{Keda, Settings};
use policy::millrace::Millrace;
use policy::ray::Ray;
use policy::wpa::Wpa;
use policy::{Policy, oracle};
use random::{Random, Stream};
use report::Report;
use setup::Setup;
use spec::SpecError;
use trace::{Spread, Trace, TraceError};

use crate::clock;
use crate::validate::Validated;

/// KEDA's own queueLength, where nothing says how many messages a worker is for.
const MESSAGES_PER_REPLICA: f64 = 5.0;
/// The target where the spec has none and none was given, in seconds: the QueueConsumer's default.
const TARGET: f64 = 60.0;
/// A first look is drawn from this time after the beginning, in seconds: the operator's slowest regular one.
const FIRST_LOOK: f64 = 10.0;

/// Why a simulation does not begin, or its result is not written.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A file that cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A trace that cannot be used.
    #[error("trace {}", file.display())]
    Trace {
        /// Which.
        file: PathBuf,
        /// Why.
        source: TraceError,
    },
    /// A QueueConsumer that cannot be used.
    #[error("spec {}", file.display())]
    Spec {
        /// Which.
        file: PathBuf,
        /// Why.
        source: SpecError,
    },
    /// A result that cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// Where to.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A result that is no JSON.
    #[error("cannot write the result as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads, simulates, prints.
pub fn run(args: &SimulateArgs) -> Result<(), SimulateError> {
    let text = read(&args.spec)?;
    let spec = spec::parse(&text).map_err(|source| SimulateError::Spec { file: args.spec.clone(), source })?;
    let text = read(&args.trace)?;
    let trace = jobs(args, &text).map_err(|source| SimulateError::Trace { file: args.trace.clone(), source })?;
    let setup = setup(args, &spec);
    let outcome = play(args, spec, &setup, &trace);
    let points = if args.svg.is_some() { args.timeline_points.max(400) } else { args.timeline_points };
    let mut report = Report::of(args.policy, &setup, &outcome, points);
    if let Some(file) = &args.svg {
        let written = std::fs::write(file, svg::draw(&report));
        written.map_err(|source| SimulateError::Write { file: file.clone(), source })?;
    }
    if args.timeline_points == 0 {
        report.timeline.clear();
    }
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => serde_json::to_string(&report)? + "\n",
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|source| SimulateError::Write { file: "the standard output".into(), source })
}

fn read(file: &Path) -> Result<String, SimulateError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    };
    read.map(|()| text).map_err(|source| SimulateError::Read { file: file.into(), source })
}

fn jobs(args: &SimulateArgs, text: &str) -> Result<Trace, TraceError> {
    let spread = Spread { step: args.step_seconds, service: args.service_seconds, service_cv: args.service_cv };
    trace::expand(&trace::parse(text)?, spread, &mut Random::new(args.seed, Stream::Trace))
}

fn setup(args: &SimulateArgs, spec: &Validated) -> Setup {
    let all = spec.spec();
    let scaling = &all.scaling;
    let target = args.target_seconds.or(scaling.target.queue_delay_seconds.map(f64::from)).unwrap_or(TARGET);
    Setup {
        seed: args.seed,
        slots: all.model.slots(),
        gpus: u32::try_from(all.worker.gpu.count).unwrap_or_default().max(1),
        replicas: args.replicas.unwrap_or(scaling.min_replicas),
        min_replicas: scaling.min_replicas,
        max_replicas: scaling.max_replicas,
        target,
        visibility: f64::from(all.queue.visibility_timeout_seconds),
        grace: all.worker.termination_grace_period_seconds as f64,
        cluster: args.cluster.clone(),
    }
}

fn play(args: &SimulateArgs, spec: Validated, setup: &Setup, trace: &Trace) -> Outcome {
    let scaling = &spec.spec().scaling;
    let bounds = (scaling.min_replicas, scaling.max_replicas);
    let per_replica = scaling.target.messages_per_replica.map_or(MESSAGES_PER_REPLICA, f64::from);
    let mut random = Random::new(args.seed, Stream::Policy);
    let first = random.unit() * FIRST_LOOK;
    let peers = &args.peers;
    let mut policy: Box<dyn Policy> = match args.policy {
        PolicyName::Oracle => return oracle::run(setup, trace),
        PolicyName::Millrace => {
            // Schedules look at the trace's own time.
            clock::begin_at(clock::of(args.start_time) + trace.begin);
            Box::new(Millrace::new(spec, setup.slots, trace.begin, first))
        }
        PolicyName::Keda => {
            let settings = Settings {
                queue_length: peers.keda_queue_length.unwrap_or(per_replica),
                cooldown: peers.keda_cooldown_seconds,
                poll_phase: peers.keda_poll_phase,
                sync_phase: peers.keda_sync_phase,
            };
            Box::new(Keda::new(settings, bounds, trace.begin, &mut random))
        }
        PolicyName::Wpa => {
            let target = peers.wpa_target.unwrap_or(per_replica);
            Box::new(Wpa::new(bounds, target, peers.wpa_seconds_per_job, trace.begin + first))
        }
        PolicyName::Ray => Box::new(Ray::new(bounds, peers.ray_target_ongoing, trace.begin + first)),
    };
    engine::run(setup, trace, policy.as_mut())
}

#[cfg(test)]
#[path = "tests/reality.rs"]
mod reality;
