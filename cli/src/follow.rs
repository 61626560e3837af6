//! Sees jobs through that were sent: waits for them, and downloads what they made.

use std::path::Path;

use futures::StreamExt as _;
use millrace_api::ResultRecord;
use millrace_client::{Client, Error, Patience, Sent};
use tokio::sync::Semaphore;

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
    let downloads = Semaphore::new(files::AT_ONCE);
    let told = |(index, end): (usize, Result<ResultRecord, Error>)| {
        let (downloads, sent) = (&downloads, &sent);
        async move {
            let (place, sent) = &sent[index];
            let report = match end {
                Ok(record) => {
                    // nobody closes it; without a turn it would be downloaded all the same
                    let _turn = downloads.acquire().await;
                    files::fetched(client, &record, folder).await
                }
                Err(error @ Error::NoResult { .. }) => {
                    JobReport::wrong(&sent.job_id, "PENDING", "NoResult", error.to_string())
                }
                Err(error) => JobReport::wrong(&sent.job_id, "SENT", "NoResult", error.to_string()),
            };
            (*place, report)
        }
    };
    // as many as there are: the others are looked for meanwhile
    let ends = client.wait_all(all, patience).map(told).buffer_unordered(sent.len().max(1));
    let mut ends = std::pin::pin!(ends);
    while let Some((place, report)) = ends.next().await {
        reports[place] = report;
        bar.inc(1);
    }
    bar.finish_and_clear();
}
