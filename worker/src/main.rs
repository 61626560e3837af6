//! The worker's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use millrace_api::{Device, Precision, Task};
use millrace_worker::engines::{Loading, gpus_given};
use millrace_worker::infer::ByHand;
use millrace_worker::launch::{self, Wish};
use millrace_worker::model::text_to_image::make_model;
use millrace_worker::stop::Stop;
use millrace_worker::telemetry::{self, LogFormat, Traces};
use millrace_worker::trouble::Troubles;
use millrace_worker::{check, config, infer, run};

/// Consumes an SQS queue: receives jobs, infers in batches, puts results into S3, then deletes the messages.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written.
    #[arg(long, global = true, env = "MILLRACE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// error, warn, info, debug or trace, or a filter such as info,millrace_worker=debug.
    #[arg(long, global = true, env = "MILLRACE_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume the queue until SIGTERM.
    Run {
        /// The config, as the operator writes it.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run one job by hand, without a queue.
    Infer {
        /// The model's folder. Not for Echo.
        #[arg(long, default_value = "")]
        model: PathBuf,
        /// What to compute.
        #[arg(long)]
        task: TaskName,
        /// The input, as a message body would have it: text or a JSON object.
        #[arg(long)]
        input: String,
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
    },
    /// Say what is wrong with queue, bucket, model and permissions; changes nothing.
    Check {
        /// The config, as the operator writes it.
        #[arg(long)]
        config: PathBuf,
        /// Also put and delete one object.
        #[arg(long)]
        write: bool,
    },
    /// Write a tiny random model in the published layout, for tests and demos. Its pictures are noise.
    MakeModel {
        /// What the model is for.
        #[arg(long)]
        task: TaskName,
        /// The same seed makes the same model.
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// A new or empty folder.
        dir: PathBuf,
    },
}

impl Command {
    /// What it is going to run; none if that is no model, or a config that cannot be read, which is told later.
    fn wish(&self) -> Option<Wish> {
        let gpus = gpus_given();
        match self {
            Self::Run { config } | Self::Check { config, .. } => {
                let model = config::load(config).ok()?.worker.model;
                Some(Wish { task: model.task, device: model.device, gpus })
            }
            Self::Infer { task, device, .. } => Some(Wish { task: (*task).into(), device: (*device).into(), gpus }),
            Self::MakeModel { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TaskName {
    #[value(name = "TextToImage")]
    TextToImage,
    #[value(name = "Echo")]
    Echo,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::TextToImage => Self::TextToImage,
            TaskName::Echo => Self::Echo,
        }
    }
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

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::start(args.log_format, &args.log_level);
    if let Some(wish) = args.command.wish() {
        launch::settle(wish);
    }
    match execute(args.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config } => {
            let traces = Traces::start();
            let ended = runtime()?.block_on(async {
                let stop = Stop::on_signals()?;
                run::run(config::load(&config)?, stop).await
            });
            traces.finish();
            ended?;
        }
        Command::Check { config, write } => {
            let config = config::load(&config)?;
            if !runtime()?.block_on(check::check(config, write)) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Infer { model, task, input, output, device, variant, parameters } => {
            let parameters = serde_json::from_str(&parameters).context("--parameters: must be a JSON object")?;
            let precision = Precision::Auto;
            let how = Loading {
                dir: model,
                device: device.into(),
                precision,
                variant,
                gpus: gpus_given(),
                parameters,
                server: None,
                troubles: Troubles::default(),
            };
            infer::infer(task.into(), ByHand { how, input, output })?;
        }
        Command::MakeModel { task: TaskName::TextToImage, seed, dir } => {
            make_model(&dir, seed)?;
            println!("{}", dir.display());
        }
        Command::MakeModel { task: TaskName::Echo, .. } => anyhow::bail!("--task: Echo has no model to make"),
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
