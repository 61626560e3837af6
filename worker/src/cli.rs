//! The command line of every worker: millrace's own, and those that teams build on the library.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use millrace_api::{Device, Precision, ServerSpec, Task};

use crate::config::{self, Config};
use crate::handler::Handler;
use crate::infer::{ByHand, infer};
use crate::model::{Loading, gpus_given};
use crate::stop::Stop;
use crate::telemetry::{self, LogFormat, Traces};
use crate::trouble::Troubles;
use crate::{check, run as consumer};

/// The whole of a worker's program: reads the command line, and does what it says with `handler`, for task Custom.
///
/// `handler` is a function that loads an engine, or [`Routes`](crate::Routes) to several. The exit code is that of
/// success when a consumer was told to stop and did, or a job by hand or a check went well.
pub fn run<H: Handler>(handler: H) -> ExitCode {
    let Args { command, logs } = Args::parse();
    logs.start();
    exit_code(command.order().and_then(|(task, order)| {
        ensure!(task == Task::Custom, "model.task: this worker serves Custom, not {}", task.name());
        order.carry_out(handler)
    }))
}

/// The exit code of what was done; an error is logged.
pub fn exit_code(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Consumes an SQS queue: receives jobs, infers in batches, puts results into S3, then deletes the messages.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Infer(InferArgs),
    Check(CheckArgs),
}

impl Command {
    fn order(self) -> anyhow::Result<(Task, Order)> {
        match self {
            Self::Run(args) => args.order(),
            Self::Infer(args) => args.order(Task::Custom),
            Self::Check(args) => args.order(),
        }
    }
}

/// How log lines are written, and which.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// How log lines are written.
    #[arg(long, global = true, env = "MILLRACE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// error, warn, info, debug or trace, or a filter such as info,millrace_worker=debug.
    #[arg(long, global = true, env = "MILLRACE_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

impl Logs {
    /// From now on.
    pub fn start(&self) {
        telemetry::start(self.log_format, &self.log_level);
    }
}

/// Consume the queue until SIGTERM.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The config, as the operator writes it.
    #[arg(long)]
    config: PathBuf,
}

/// Say what is wrong with queue, bucket, model and permissions; changes nothing.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The config, as the operator writes it.
    #[arg(long)]
    config: PathBuf,
    /// Also put and delete one object.
    #[arg(long)]
    write: bool,
}

/// Run one job by hand, without a queue.
#[derive(Debug, clap::Args)]
pub struct InferArgs {
    /// The model's folder, where there is a model to load.
    #[arg(long)]
    model: Option<PathBuf>,
    /// The input, as a message body would have it: text or a JSON object; - reads it from standard input.
    #[arg(long, allow_hyphen_values = true)]
    input: String,
    /// What kind of job it is, where the worker has several.
    #[arg(long)]
    route: Option<String>,
    /// Where the result goes.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, default_value = "auto")]
    device: DeviceName,
    /// Variant of the weight files, such as fp16.
    #[arg(long)]
    variant: Option<String>,
    /// The consumer's model.parameters, as a JSON object.
    #[arg(long, default_value = "{}")]
    parameters: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    Auto,
    Cpu,
    Cuda,
}

impl From<DeviceName> for Device {
    fn from(name: DeviceName) -> Self {
        match name {
            DeviceName::Auto => Self::Auto,
            DeviceName::Cpu => Self::Cpu,
            DeviceName::Cuda => Self::Cuda,
        }
    }
}

/// What a worker is to do, with all that it takes but a handler.
#[derive(Debug)]
pub enum Order {
    /// Consume the queue.
    Consume(Box<Config>),
    /// Say what is wrong.
    Check {
        /// With what.
        config: Box<Config>,
        /// Also put and delete one object.
        write: bool,
    },
    /// Run one job.
    Infer(ByHand),
}

impl RunArgs {
    /// With the task that the config names.
    pub fn order(self) -> anyhow::Result<(Task, Order)> {
        let config = Box::new(config::load(&self.config)?);
        Ok((config.worker.model.task, Order::Consume(config)))
    }
}

impl CheckArgs {
    /// With the task that the config names.
    pub fn order(self) -> anyhow::Result<(Task, Order)> {
        let config = Box::new(config::load(&self.config)?);
        Ok((config.worker.model.task, Order::Check { config, write: self.write }))
    }
}

impl InferArgs {
    /// One job of `task`.
    pub fn order(self, task: Task) -> anyhow::Result<(Task, Order)> {
        let Self { model, input, route, output, device, variant, parameters } = self;
        ensure!(model.is_some() || !task.needs_source(), "--model: required for {}: the model's folder", task.name());
        let dir = model.unwrap_or_default();
        ensure!(dir.as_os_str().is_empty() || dir.is_dir(), "--model: {} is not a folder", dir.display());
        let parameters = serde_json::from_str(&parameters).context("--parameters: must be a JSON object")?;
        let input = if input == "-" {
            let all = std::io::read_to_string(std::io::stdin()).context("--input -: cannot read standard input")?;
            all.strip_suffix('\n').map(str::to_owned).unwrap_or(all)
        } else {
            input
        };
        let (device, precision) = (device.into(), Precision::Auto);
        let troubles = Troubles::default();
        let how = Loading { dir, device, precision, variant, gpus: gpus_given(), parameters, troubles };
        Ok((task, Order::Infer(ByHand { how, input, route, output })))
    }
}

impl Order {
    /// Where the model is to run.
    pub fn device(&self) -> Device {
        match self {
            Self::Consume(config) | Self::Check { config, .. } => config.worker.model.device,
            Self::Infer(job) => job.how.device,
        }
    }

    /// The server that computes, where one does.
    pub fn server(&self) -> Option<&ServerSpec> {
        match self {
            Self::Consume(config) | Self::Check { config, .. } => config.worker.model.server.as_ref(),
            Self::Infer(_) => None,
        }
    }

    /// Does it.
    pub fn carry_out<H: Handler>(self, handler: H) -> anyhow::Result<ExitCode> {
        match self {
            Self::Consume(config) => {
                let traces = Traces::start();
                let ended = runtime()?.block_on(async {
                    let stop = Stop::on_signals()?;
                    consumer::run(handler, *config, stop).await
                });
                traces.finish();
                ended?;
            }
            Self::Check { config, write } => {
                if !runtime()?.block_on(check::check(handler, *config, write)) {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Self::Infer(job) => infer(&handler, job)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
