//! `results`: downloads what jobs made.

use std::path::PathBuf;

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use millrace_api::{JobStatus, ResultRecord};

use crate::common::Common;
use crate::exit::Ended;
use crate::report::{JobReport, Jobs};
use crate::show::show;
use crate::{files, status};

/// Downloads at a time.
const AT_ONCE: usize = 8;

/// Download the results of jobs that are done
#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// Job ids
    #[arg(required = true, value_name = "JOB_ID")]
    jobs: Vec<String>,
    /// The folder that they are put into
    #[arg(long, default_value = ".", value_name = "DIR")]
    output: PathBuf,
}

/// Runs the command.
pub async fn run(common: &Common, args: ResultsArgs) -> anyhow::Result<Ended> {
    files::folder(&args.output)?;
    let client = common.target().await?.client;
    let (client, folder) = (&client, args.output.as_path());
    let save = |(id, record): (String, Option<ResultRecord>)| async move {
        let report: JobReport = status::report(&id, record.as_ref());
        match record.filter(|record| record.status == JobStatus::Completed) {
            None => anyhow::Ok(report),
            Some(record) => {
                let files = files::save(client, &record, folder).await?;
                Ok(JobReport { files: files.iter().map(|file| file.display().to_string()).collect(), ..report })
            }
        }
    };
    let found = status::of(client, &args.jobs).await?;
    let jobs = Jobs(futures::stream::iter(found).map(save).buffered(AT_ONCE).try_collect().await?);
    show(common.format, &jobs)?;
    Ok(jobs.ended())
}
