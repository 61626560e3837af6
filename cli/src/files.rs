//! Results as files in a folder: outputs under their own names, a value as JSON.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use millrace_api::ResultRecord;
use millrace_client::Client;

/// Downloads a job's outputs into `folder`, which exists, and gives the files. What is there in its full size already
/// stays.
pub async fn save(client: &Client, record: &ResultRecord, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for output in &record.outputs {
        let file = folder.join(name(&record.job_id, &output.uri));
        let there = tokio::fs::metadata(&file).await.is_ok_and(|found| found.len() == output.bytes);
        if !there {
            client.download(output, &file).await?;
        }
        files.push(file);
    }
    if let Some(value) = &record.value {
        let file = folder.join(format!("{}.json", record.job_id));
        let text = format!("{}\n", serde_json::to_string_pretty(value)?);
        tokio::fs::write(&file, text).await.with_context(|| format!("cannot write {}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// A folder for results, made where it is missing.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("--output: cannot make the folder {}", path.display()))
}

/// The last part of an output's key, after the job id unless it is in it: two jobs' files never have one name.
fn name(job_id: &str, uri: &str) -> String {
    let last = uri.rsplit('/').next().unwrap_or_default();
    if last.contains(job_id) { last.to_owned() } else { format!("{job_id}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_jobs_files_never_have_one_name() {
        assert_eq!(name("j", "s3://b/out/j.png"), "j.png");
        assert_eq!(name("j", "s3://b/out/picture.png"), "j-picture.png");
    }
}
