//! `dlq redrive`: puts dead letters back, by name or all, each job once.

use std::collections::HashSet;
use std::time::Duration;

use millrace_client::{DeadLetter, DeadLetters, Error, Trouble};

use crate::common::Common;
use crate::exit::Ended;
use crate::report::{JobReport, Jobs};
use crate::show::show;

/// How long letters are hidden while they are put back.
const HIDDEN: Duration = Duration::from_mins(5);
/// Letters that are put back before more are taken.
const AT_A_TIME: usize = 50;

/// Puts these back, or all where none are named.
pub async fn redrive(common: &Common, dead: &DeadLetters<'_>, jobs: Vec<String>) -> anyhow::Result<Ended> {
    let mut run = Run::of(jobs);
    while run.all || !run.wanted.is_empty() {
        let letters = dead.take(AT_A_TIME, HIDDEN).await?;
        if !run.put_back(dead, letters).await || run.denied.is_some() {
            break;
        }
    }
    dead.release(&run.kept).await;
    if run.again > 0 {
        eprintln!("{} more messages of jobs that were put back just now stay in {}", run.again, dead.url);
    }
    let (code, why) = match run.denied {
        Some(why) => ("NotSent", why),
        None => ("NotFound", format!("there is none in {}; `dlq list` tells what is", dead.url)),
    };
    let missing = run.wanted.iter().map(|id| JobReport::wrong(id, "NOT_SENT", code, why.clone()));
    run.reports.extend(missing);
    let jobs = Jobs(run.reports);
    show(common.format, &jobs)?;
    Ok(jobs.ended())
}

/// One run through a dead-letter queue.
#[derive(Debug, Default)]
struct Run {
    all: bool,
    /// Ids that were named and not met yet.
    wanted: HashSet<String>,
    /// Messages that were met.
    seen: HashSet<String>,
    /// Jobs that were put back. A worker refuses some of them again at once, which makes a new message of them: by message
    /// ids alone they would go round for ever.
    done: HashSet<String>,
    /// Messages of such jobs that stay.
    again: usize,
    /// Why no other message can be put back: without the rights, or without the queue.
    denied: Option<String>,
    kept: Vec<DeadLetter>,
    reports: Vec<JobReport>,
}

impl Run {
    fn of(jobs: Vec<String>) -> Self {
        let wanted: HashSet<String> = jobs.into_iter().collect();
        Self { all: wanted.is_empty(), wanted, ..Self::default() }
    }

    /// Puts back what is meant of these, and tells whether any was new: the first ones come again where looking through
    /// all takes longer than they are hidden.
    async fn put_back(&mut self, dead: &DeadLetters<'_>, letters: Vec<DeadLetter>) -> bool {
        let mut has_new = false;
        for letter in letters {
            if self.denied.is_some() {
                self.kept.push(letter);
                continue;
            }
            let is_new = self.seen.insert(letter.message_id.clone());
            let again = self.done.contains(&letter.job_id);
            has_new |= is_new && !again;
            self.again += usize::from(is_new && again);
            let named = self.wanted.remove(&letter.job_id) | self.wanted.remove(&letter.message_id);
            if !is_new || again || !(self.all || named) {
                self.kept.push(letter);
                continue;
            }
            match dead.redrive(&letter).await {
                Ok(()) => {
                    self.reports.push(JobReport::new(&letter.job_id, "SENT"));
                    self.done.insert(letter.job_id);
                }
                Err(error) => {
                    self.failed(&letter.job_id, &error);
                    self.kept.push(letter);
                }
            }
        }
        has_new
    }

    fn failed(&mut self, id: &str, error: &Error) {
        let why = error.to_string();
        if error.trouble().is_some_and(Trouble::is_for_all) {
            self.denied = Some(why.clone());
        }
        if matches!(error, Error::NotDeleted { .. }) {
            self.done.insert(id.into());
            self.reports.push(JobReport::wrong(id, "SENT", "NotDeleted", why));
        } else {
            self.reports.push(JobReport::wrong(id, "NOT_SENT", "NotSent", why));
        }
    }
}
