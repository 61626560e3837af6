//! Sees jobs through that were sent: waits for them, and downloads what they made.

use std::path::Path;

use futures::StreamExt as _;
use millrace_api::{JobStatus, ResultRecord};
use millrace_client::{Client, Error, Patience, Sent};

use crate::report::JobReport;
use crate::{files, progress};

/// Waits for all that were sent, downloads what they made into `folder`, and puts it into their reports, by their places.
pub async fn see_through(
    client: &Client,
    sent: Vec<(usize, Sent)>,
    patience: Patience,
    folder: Option<&Path>,
    reports: &mut [JobReport],
) {
    let bar = progress::bar(sent.len(), "waiting");
    let all = sent.iter().map(|(_, sent)| sent.clone()).collect();
    let mut ends = std::pin::pin!(client.wait_all(all, patience));
    while let Some((index, end)) = ends.next().await {
        let (place, sent) = &sent[index];
        reports[*place] = match end {
            Ok(record) => saved(client, &record, folder).await,
            Err(error @ Error::NoResult { .. }) => {
                JobReport::wrong(&sent.job_id, "PENDING", "NoResult", error.to_string())
            }
            Err(error) => JobReport::wrong(&sent.job_id, "SENT", "NoResult", error.to_string()),
        };
        bar.inc(1);
    }
    bar.finish_and_clear();
}

/// A job's report, with the files that it was downloaded to.
async fn saved(client: &Client, record: &ResultRecord, folder: Option<&Path>) -> JobReport {
    let report = JobReport::from(record);
    let Some(folder) = folder.filter(|_| record.status == JobStatus::Completed) else { return report };
    match files::save(client, record, folder).await {
        Ok(files) => JobReport { files: files.iter().map(|file| file.display().to_string()).collect(), ..report },
        Err(error) => {
            let wrong = JobReport::wrong(&record.job_id, report.status, "Download", format!("{error:#}"));
            JobReport { error: wrong.error, ..report }
        }
    }
}
