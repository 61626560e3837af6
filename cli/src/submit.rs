//! `submit`: sends jobs, and with --wait sees them through.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::StreamExt as _;
use millrace_client::{Client, Consumer, Error, Job, Patience, Sent, is_traceparent};

use crate::common::Common;
use crate::exit::Ended;
use crate::jobs::Given;
use crate::report::{JobReport, Jobs};
use crate::show::{Format, show};
use crate::state::State;
use crate::{duration, earlier, files, follow, jobs, progress};

/// A table has no more rows than this; of more jobs it shows those that did not end well.
const MOST_ROWS: usize = 20;

/// Send jobs: one on the command line, or a file with one a line
///
/// A line of a file is a text, or a JSON object: the task's fields, with job_id, priority, deadline, metadata and the like
/// beside them. A job without an id gets one made of its input, so that a second run names it alike; what was sent is kept
/// in FILE.sent, and a second run sends only the rest.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct SubmitArgs {
    /// A text: the job's main field
    #[arg(long, group = "what", value_name = "TEXT")]
    prompt: Option<String>,
    /// The job as JSON: {"prompt":"a cat","steps":20}
    #[arg(long, group = "what", value_name = "JSON")]
    input: Option<String>,
    /// A file with one job a line; - is standard input
    #[arg(short, long, group = "what", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The id of a single job; by default another one each time
    #[arg(long, conflicts_with = "file", value_name = "ID")]
    job_id: Option<String>,
    /// Put before every job id of the file: the same file once more, as new jobs
    #[arg(long, requires = "file", default_value = "", hide_default_value = true, value_name = "TEXT")]
    id_prefix: String,
    /// Priority of jobs that name none
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Hide the jobs so long before a worker can take them: 90s, up to 15m
    #[arg(long, value_parser = duration::parse, value_name = "TIME")]
    delay: Option<Duration>,
    /// Message group, on a FIFO queue
    #[arg(long)]
    group: Option<String>,
    /// The trace that the jobs belong to (W3C); by default the environment's TRACEPARENT, where that is one
    #[arg(long)]
    traceparent: Option<String>,
    /// Wait until they have ended
    #[arg(short, long)]
    wait: bool,
    /// Longest that --wait waits
    #[arg(long, value_parser = duration::parse, default_value = "1h", value_name = "TIME")]
    timeout: Duration,
    /// Wait, and download the results into this folder
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Send those again that an earlier run sent and that FAILED
    #[arg(long, requires = "file")]
    retry_failed: bool,
    /// Keep no FILE.sent, and heed none
    #[arg(long, requires = "file", conflicts_with = "retry_failed")]
    no_state: bool,
}

impl SubmitArgs {
    fn given(&self) -> anyhow::Result<Vec<Given>> {
        let single = |job, place: &str| vec![Given { job, place: place.into() }];
        let mut list = match (&self.prompt, &self.input, &self.file) {
            (Some(prompt), _, _) => single(Job::text(prompt), "--prompt"),
            (_, Some(input), _) => single(jobs::parse(input).context("--input")?, "--input"),
            (_, _, Some(file)) => jobs::read(file)?,
            (None, None, None) => Vec::new(),
        };
        if self.file.is_some() {
            jobs::name(&mut list, &self.id_prefix)?;
        }
        // a malformed one of the environment is none, as it is to a worker
        let around = || std::env::var("TRACEPARENT").ok().filter(|context| is_traceparent(context));
        let trace = self.traceparent.clone().or_else(around);
        for Given { job, .. } in &mut list {
            if self.file.is_none() {
                // asked for once more by hand, it is meant to be computed once more
                let id = self.job_id.clone().or(job.id.take());
                job.id = Some(id.unwrap_or_else(random_id));
                job.attempt = Some(random_id());
            }
            if job.priority == 0 {
                job.priority = self.priority;
            }
            job.delay = self.delay.unwrap_or_default();
            job.group.clone_from(&self.group);
            job.traceparent.clone_from(&trace);
        }
        Ok(list)
    }

    fn state(&self, consumer: &Consumer) -> anyhow::Result<Option<State>> {
        match &self.file {
            Some(file) if !self.no_state && file.as_os_str() != "-" => {
                State::open(file, &consumer.name.to_string(), &consumer.queue.url).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// What is known of each job, in the order in which they were given.
type Places = Vec<Result<Sent, Error>>;

/// Runs the command.
pub async fn run(common: &Common, args: SubmitArgs) -> anyhow::Result<Ended> {
    let mut given = args.given()?;
    let client = common.target().await?.client;
    if let Some(folder) = &args.output {
        files::folder(folder)?;
    }
    let mut state = args.state(client.consumer())?;
    let mut known = earlier::sent(&given, state.as_ref())?;
    if args.retry_failed {
        earlier::retry_failed(&client, &mut given, &mut known).await?;
    }
    let left = given.iter().zip(&known).filter(|(_, sent)| sent.is_none());
    jobs::check(&client, left.map(|(given, _)| given))?;
    let ids: Vec<String> = given.iter().map(|given| given.job.id()).collect();
    let skipped = known.iter().flatten().count();
    let places = send(&client, given, known, state.as_mut()).await?;
    if skipped > 0 {
        eprintln!("{skipped} of {} were sent before and are not sent again", places.len());
    }
    let mut reports: Vec<JobReport> = places.iter().zip(&ids).map(|(place, id)| told(place, id)).collect();
    if args.wait || args.output.is_some() {
        let sent = places.into_iter().enumerate().filter_map(|(place, sent)| Some((place, sent.ok()?))).collect();
        let patience = Patience::of(args.timeout);
        follow::see_through(&client, sent, patience, args.output.as_deref(), &mut reports).await;
    }
    answer(common.format, Jobs(reports))
}

/// Sends what is not known yet.
async fn send(
    client: &Client,
    given: Vec<Given>,
    known: Vec<Option<Sent>>,
    mut state: Option<&mut State>,
) -> anyhow::Result<Places> {
    let mut places: Vec<Option<Result<Sent, Error>>> = known.into_iter().map(|sent| sent.map(Ok)).collect();
    let rest: Vec<usize> = (0..places.len()).filter(|place| places[*place].is_none()).collect();
    let bar = progress::bar(rest.len(), "sending");
    let left = given.into_iter().enumerate().filter(|(place, _)| places[*place].is_none());
    let left: Vec<Job> = left.map(|(_, given)| given.job).collect();
    let mut outcomes = std::pin::pin!(client.send_all(left).await);
    while let Some(outcome) = outcomes.next().await {
        if let (Ok(sent), Some(state)) = (&outcome.result, state.as_deref_mut()) {
            state.keep(sent)?;
        }
        bar.inc(1);
        places[rest[outcome.index]] = Some(outcome.result);
    }
    bar.finish_and_clear();
    let places: Places = places.into_iter().flatten().collect();
    ensure!(places.iter().any(Result::is_ok), "nothing was sent: {}", first_error(&places));
    Ok(places)
}

fn first_error(places: &Places) -> String {
    places.iter().find_map(|place| place.as_ref().err()).map(ToString::to_string).unwrap_or_default()
}

fn told(place: &Result<Sent, Error>, id: &str) -> JobReport {
    match place {
        Ok(sent) => JobReport { message_id: Some(sent.message_id.clone()), ..JobReport::new(&sent.job_id, "SENT") },
        Err(error) => JobReport::wrong(id, "NOT_SENT", "NotSent", error.to_string()),
    }
}

fn answer(format: Format, jobs: Jobs) -> anyhow::Result<Ended> {
    let (ended, all) = (jobs.ended(), jobs.0.len());
    if format != Format::Table || all <= MOST_ROWS {
        show(format, &jobs)?;
        return Ok(ended);
    }
    let count = |status: &str| jobs.0.iter().filter(|job| job.status == status).count();
    let mut statuses: Vec<&str> = jobs.0.iter().map(|job| job.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let counts = statuses.iter().map(|status| format!("{} {status}", count(status)));
    eprintln!("{all} jobs: {}", counts.collect::<Vec<_>>().join(", "));
    let rest: Vec<JobReport> = jobs.0.into_iter().filter(|job| job.ended() != Ended::Well).collect();
    if !rest.is_empty() {
        show(format, &Jobs(rest))?;
    }
    Ok(ended)
}
