//! `dlq`: looks at dead letters, and puts them back or away.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Subcommand};
use millrace_client::{DeadLetter, DeadLetters};
use serde::Serialize;

use crate::ask::sure;
use crate::common::Common;
use crate::exit::Ended;
use crate::report::{JobReport, Jobs};
use crate::show::{Tabular, brief, show};

/// How long letters are hidden from others while they are looked at, at most: they are released at once.
const LOOK: Duration = Duration::from_secs(30);
/// How long they are hidden while they are put back.
const REDRIVE: Duration = Duration::from_mins(5);
/// Letters that are put back before more are taken.
const AT_A_TIME: usize = 50;
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
            let count = client.queue_stats().await?.dead_letters.unwrap_or_default();
            sure(yes, &format!("Delete every message of {} (about {count}), for good?", dead.url))?;
            dead.purge().await?;
            eprintln!("{} is being emptied; SQS takes up to a minute", dead.url);
        }
    }
    Ok(Ended::Well)
}

/// Puts these back, or all where none are named.
async fn redrive(common: &Common, dead: &DeadLetters<'_>, jobs: Vec<String>) -> anyhow::Result<Ended> {
    let mut wanted: HashSet<String> = jobs.into_iter().collect();
    let all = wanted.is_empty();
    let (mut reports, mut kept, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    while all || !wanted.is_empty() {
        let letters = dead.take(AT_A_TIME, REDRIVE).await?;
        // the first ones come again where looking through all takes longer than they are hidden
        let has_new = letters.iter().fold(false, |has_new, letter| seen.insert(letter.message_id.clone()) | has_new);
        if !has_new {
            kept.extend(letters);
            break;
        }
        for letter in letters {
            let named = wanted.remove(&letter.job_id) | wanted.remove(&letter.message_id);
            if !all && !named {
                kept.push(letter);
                continue;
            }
            match dead.redrive(&letter).await {
                Ok(()) => reports.push(JobReport::new(&letter.job_id, "SENT")),
                Err(error) => {
                    reports.push(JobReport::wrong(&letter.job_id, "NOT_SENT", "NotSent", error.to_string()));
                    kept.push(letter);
                }
            }
        }
    }
    dead.release(&kept).await;
    let missing = wanted.iter().map(|id| {
        let message = format!("there is none in {}; `dlq list` tells what is", dead.url);
        JobReport::wrong(id, "NOT_SENT", "NotFound", message)
    });
    reports.extend(missing);
    let jobs = Jobs(reports);
    show(common.format, &jobs)?;
    Ok(jobs.ended())
}

/// A line each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Letters(Vec<DeadLetter>);

impl Tabular for Letters {
    fn heads(&self) -> Vec<&'static str> {
        vec!["JOB", "SENT", "CODE", "WHY", "BODY"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |letter: &DeadLetter| {
            let field = letter.error_field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
            vec![
                letter.job_id.clone(),
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
