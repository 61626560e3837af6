//! millrace's own worker: the library's command line with millrace's own engines, chosen by task.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use millrace_api::Task;
use millrace_api::task::{DECLARED, input_schema, page, parameters_schema};
use millrace_worker::cli::{CheckArgs, InferArgs, Logs, Order, RunArgs, exit_code};
use millrace_worker::engines::{Use, dispatch};
use millrace_worker::handler::Handler;
use millrace_worker::launch::{self, Wish};
use millrace_worker::model::gpus_given;
use millrace_worker::model::{speech_to_text, text_embedding, text_generation, text_to_image};

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
    /// Run one job by hand, without a queue.
    Infer {
        /// What to compute.
        #[arg(long)]
        task: TaskName,
        #[command(flatten)]
        job: InferArgs,
    },
    Check(CheckArgs),
    /// Write a tiny random model in the published layout, for tests and demos. What it gives means nothing.
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
    /// Print docs/tasks.md: what jobs may say to each task.
    Tasks,
    /// Print the JSON Schema of a task's input.
    Schema {
        /// Of which task.
        #[arg(long)]
        task: TaskName,
        /// Rather that of model.parameters.
        #[arg(long)]
        parameters: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TaskName {
    #[value(name = "TextToImage")]
    TextToImage,
    #[value(name = "TextEmbedding")]
    TextEmbedding,
    #[value(name = "TextGeneration")]
    TextGeneration,
    #[value(name = "SpeechToText")]
    SpeechToText,
    #[value(name = "Echo")]
    Echo,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::TextToImage => Self::TextToImage,
            TaskName::TextEmbedding => Self::TextEmbedding,
            TaskName::TextGeneration => Self::TextGeneration,
            TaskName::SpeechToText => Self::SpeechToText,
            TaskName::Echo => Self::Echo,
        }
    }
}

fn main() -> ExitCode {
    let Args { command, logs } = Args::parse();
    logs.start();
    exit_code(execute(command))
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    let (task, order) = match command {
        Command::Run(args) => args.order()?,
        Command::Check(args) => args.order()?,
        Command::Infer { task, job } => job.order(task.into())?,
        Command::MakeModel { task, seed, dir } => {
            match task {
                TaskName::TextToImage => text_to_image::make_model(&dir, seed)?,
                TaskName::TextEmbedding => text_embedding::make_model(&dir, seed)?,
                TaskName::TextGeneration => text_generation::make_model(&dir, seed)?,
                TaskName::SpeechToText => speech_to_text::make_model(&dir, seed)?,
                TaskName::Echo => anyhow::bail!("--task: Echo has no model to make"),
            }
            println!("{}", dir.display());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Tasks => {
            print!("{}", page(&DECLARED));
            return Ok(ExitCode::SUCCESS);
        }
        Command::Schema { task, parameters } => {
            let task = Task::from(task).declaration().context("--task: has no fields of its own")?;
            let schema = if parameters { parameters_schema(task) } else { input_schema(task) };
            println!("{schema:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    launch::settle(Wish { task, device: order.device(), gpus: gpus_given() });
    let server = order.server().cloned();
    dispatch(task, server.as_ref(), CarryOut(order)).with_context(|| {
        format!("model.task: {} is served by your own worker: name its image in worker.image", task.name())
    })?
}

struct CarryOut(Order);

impl Use for CarryOut {
    type Output = anyhow::Result<ExitCode>;

    fn with<H: Handler>(self, handler: H) -> Self::Output {
        self.0.carry_out(handler)
    }
}
