//! Results as files in a folder: outputs under their own names, a value as JSON.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_api::{JobStatus, ResultRecord};
use millrace_client::Client;

use crate::report::JobReport;

/// Jobs that are downloaded at a time.
pub const AT_ONCE: usize = 8;

/// Downloads a job's outputs into `folder`, which exists, and gives the files. What is there already as it was put stays.
async fn save(client: &Client, record: &ResultRecord, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = names(record).into_iter().map(|name| folder.join(name)).collect();
    for (output, file) in record.outputs.iter().zip(&files) {
        client.download(output, file).await?;
    }
    if let Some(value) = &record.value {
        let mut file = folder.join(format!("{}.json", record.job_id));
        if files.contains(&file) {
            file = folder.join(format!("{}-value.json", record.job_id));
        }
        let text = format!("{}\n", serde_json::to_string_pretty(value)?);
        tokio::fs::write(&file, text).await.with_context(|| format!("cannot write {}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// A job's report, with the files in `folder` that a completed one was downloaded to, or why it was not.
pub async fn fetched(client: &Client, record: &ResultRecord, folder: Option<&Path>) -> JobReport {
    let report = JobReport::from(record);
    let Some(folder) = folder.filter(|_| record.status == JobStatus::Completed) else { return report };
    match save(client, record, folder).await {
        Ok(files) => JobReport { files: files.iter().map(|file| file.display().to_string()).collect(), ..report },
        Err(error) => {
            let wrong = JobReport::wrong(&record.job_id, report.status, "Download", format!("{error:#}"));
            JobReport { error: wrong.error, ..report }
        }
    }
}

/// A folder for results, made where it is missing.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("--output: cannot make the folder {}", path.display()))
}

/// A name for each output: the last part of its key, with the job's id before it and, where two outputs would have one
/// name, their places between. So neither two jobs' files nor two of one job have one name.
fn names(record: &ResultRecord) -> Vec<String> {
    let last: Vec<&str> =
        record.outputs.iter().map(|output| output.uri.rsplit('/').next().unwrap_or_default()).collect();
    let name = |(index, one): (usize, &&str)| {
        if last.iter().filter(|other| other == &one).count() > 1 {
            format!("{}-{index}-{one}", record.job_id)
        } else if begins_with(one, &record.job_id) {
            (*one).to_owned()
        } else {
            format!("{}-{one}", record.job_id)
        }
    };
    last.iter().enumerate().map(name).collect()
}

/// Whether a name begins with an id, and not with a longer one.
fn begins_with(name: &str, id: &str) -> bool {
    name.strip_prefix(id).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(job_id: &str, keys: &[&str]) -> Vec<String> {
        let output =
            |key: &&str| json!({ "uri": format!("s3://b/out/{key}"), "content_type": "", "bytes": 1, "sha256": "" });
        names(&serde_json::from_value(json!({
            "job_id": job_id, "message_id": "m", "status": "COMPLETED", "consumer": "a/b", "attempt": 1, "worker": "w",
            "model": { "task": "Echo" }, "input_sha256": "h", "form": "text", "started_at": "", "finished_at": "",
            "timings": { "queued_seconds": 0.0, "waited_seconds": 0.0, "inference_seconds": 0.0, "upload_seconds": 0.0, "total_seconds": 0.0 },
            "outputs": keys.iter().map(output).collect::<Vec<_>>(),
        }))
        .unwrap())
    }

    #[test]
    fn two_files_never_have_one_name() {
        for (job_id, keys, wanted) in [
            ("j", &["j.png"] as &[&str], &["j.png"] as &[&str]),
            ("j", &["j-0.png", "j-1.png"], &["j-0.png", "j-1.png"]),
            ("j", &["picture.png"], &["j-picture.png"]),
            // of 1, 2, 5 and 12 all are in the name
            ("12", &["12/out-512.png"], &["12-out-512.png"]),
            ("5", &["5/512.png"], &["5-512.png"]),
            ("j", &["j/0/out.png", "j/1/out.png", "j/more.png"], &["j-0-out.png", "j-1-out.png", "j-more.png"]),
        ] {
            assert_eq!(named(job_id, keys), wanted, "{job_id} {keys:?}");
        }
    }
}
