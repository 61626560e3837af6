//! `dlq`: looks at dead letters, and puts them back or away.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Subcommand};
use millrace_client::DeadLetter;
use serde::Serialize;

use crate::ask::sure;
use crate::common::Common;
use crate::exit::Ended;
use crate::redrive::redrive;
use crate::show::{Tabular, brief, show};

/// How long letters are hidden from others while they are looked at, at most: they are released at once.
const LOOK: Duration = Duration::from_secs(30);
/// More than any dead-letter queue that a person looks through.
const ALL: usize = 100_000;

/// Look at jobs that were given up, and put them back into their queue
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List dead letters: the job, and why a worker gave it up
    List {
        /// How many
        #[arg(long, default_value_t = 10)]
        max: usize,
    },
    /// Show one with its body and attributes
    Show {
        /// A job id, or the message id that `list` tells
        job: String,
    },
    /// Put jobs back, each as the job that it was
    Redrive(RedriveArgs),
    /// Delete all of them, for good
    Purge {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
struct RedriveArgs {
    /// Job ids, or message ids that `list` tells
    #[arg(group = "which", value_name = "JOB_ID")]
    jobs: Vec<String>,
    /// All that are there
    #[arg(long, group = "which")]
    all: bool,
    /// All, moved by SQS itself: faster for very many. Messages get new ids, so a job that goes by its message's id is
    /// another job afterwards
    #[arg(long, group = "which")]
    bulk: bool,
}

/// Runs the command.
pub async fn run(common: &Common, args: DlqArgs) -> anyhow::Result<Ended> {
    let client = common.target().await?.client;
    let dead = client.dead_letters().await?;
    match args.action {
        Action::List { max } => {
            let letters = dead.take(max, LOOK).await?;
            dead.release(&letters).await;
            show(common.format, &Letters(letters))?;
        }
        Action::Show { job } => {
            let letters = dead.take(ALL, LOOK).await?;
            dead.release(&letters).await;
            let found: Vec<DeadLetter> =
                letters.into_iter().filter(|l| l.job_id == job || l.message_id == job).collect();
            ensure!(!found.is_empty(), "there is no {job} in {}; `dlq list` tells what is", dead.url);
            show(common.format, &Whole(found))?;
        }
        Action::Redrive(RedriveArgs { bulk: true, .. }) => {
            let task = dead.redrive_all_by_sqs().await?;
            eprintln!("SQS moves them now (task {task}); they get new message ids");
        }
        Action::Redrive(RedriveArgs { jobs, .. }) => return redrive(common, &dead, jobs).await,
        Action::Purge { yes } => {
            let count = client.queue_stats().await?.dead_letters;
            let count = count.map_or_else(|| "however many".into(), |count| format!("about {count}"));
            sure(yes, &format!("Delete every message of {} ({count}), for good?", dead.url))?;
            dead.purge().await?;
            eprintln!("{} is being emptied; SQS takes up to a minute", dead.url);
        }
    }
    Ok(Ended::Well)
}

/// A line each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Letters(Vec<DeadLetter>);

impl Tabular for Letters {
    fn heads(&self) -> Vec<&'static str> {
        vec!["JOB", "MESSAGE", "SENT", "CODE", "WHY", "BODY"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |letter: &DeadLetter| {
            let field = letter.error_field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
            vec![
                letter.job_id.clone(),
                letter.message_id.clone(),
                letter.sent_at.map(|time| format!("{time:.0}")).unwrap_or_default(),
                letter.error_code.clone().unwrap_or_else(|| "moved by SQS".into()),
                brief(&format!("{field}{}", letter.error_message.as_deref().unwrap_or_default())),
                brief(&letter.body),
            ]
        };
        self.0.iter().map(row).collect()
    }
}

/// A block each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Whole(Vec<DeadLetter>);

impl Tabular for Whole {
    fn heads(&self) -> Vec<&'static str> {
        vec!["FIELD", "VALUE"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, value: Option<&str>| Some(vec![name.to_owned(), value?.to_owned()]);
        let rows = |letter: &DeadLetter| {
            let sent = letter.sent_at.map(|time| time.to_string());
            let known = [
                row("job id", Some(&letter.job_id)),
                row("message id", Some(&letter.message_id)),
                row("sent", sent.as_deref()),
                row("error code", letter.error_code.as_deref()),
                row("error field", letter.error_field.as_deref()),
                row("error", letter.error_message.as_deref()),
            ];
            let attributes =
                letter.attributes.iter().map(|(name, value)| row(&format!("attribute {name}"), Some(value)));
            let all = known.into_iter().chain(attributes).chain([row("body", Some(&letter.body))]);
            all.flatten().collect::<Vec<_>>()
        };
        self.0.iter().flat_map(rows).collect()
    }
}
