//! `results`: downloads what jobs made.

use std::path::PathBuf;

use clap::Args;
use futures::StreamExt as _;

use crate::common::Common;
use crate::exit::Ended;
use crate::report::Jobs;
use crate::show::show;
use crate::status::Found;
use crate::{files, status};

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
    let save = |(id, found): (String, Found)| async move {
        match found {
            Ok(Some(record)) => files::fetched(client, &record, Some(folder)).await,
            found => status::report(&id, &found),
        }
    };
    let found = status::of(client, &args.jobs).await?;
    let jobs = Jobs(futures::stream::iter(found).map(save).buffered(files::AT_ONCE).collect().await);
    show(common.format, &jobs)?;
    Ok(jobs.ended())
}
