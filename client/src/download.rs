//! Outputs as files.

use std::path::Path;

use millrace_api::RecordOutput;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;
use crate::error::Error;
use crate::patiently::patiently;

/// How often a download is tried that breaks off.
const ATTEMPTS: u32 = 4;
/// Bytes of a file that are read at a time.
const CHUNK: usize = 1 << 16;

impl Client {
    /// Downloads an output into a file, whole and as it was put or not at all. A file that is so already stays.
    pub async fn download(&self, output: &RecordOutput, file: &Path) -> Result<(), Error> {
        if is_there(output, file).await {
            return Ok(());
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // another run may have the same folder
        let part = file.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let mut done = patiently(ATTEMPTS, async || self.fetch(output, &part).await).await;
        if done.is_ok() {
            done = tokio::fs::rename(&part, file).await.map_err(|e| local(file, &e));
        }
        if done.is_err() {
            // best effort: the error says what counts
            let _ = tokio::fs::remove_file(&part).await;
        }
        done
    }

    async fn fetch(&self, output: &RecordOutput, part: &Path) -> Result<(), Error> {
        let wrong = |problem: &str| Error::Content { what: output.uri.clone(), problem: problem.into() };
        let place = output.uri.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
        let (bucket, key) = place.ok_or_else(|| wrong("not an address such as s3://bucket/key"))?;
        let action = "s3:GetObject";
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await;
        let mut object = answer.map_err(|e| Error::aws(action, &output.uri, &e))?;
        let mut to = tokio::fs::File::create(part).await.map_err(|e| local(part, &e))?;
        let mut sha256 = Sha256::new();
        while let Some(chunk) = object.body.next().await {
            let chunk = chunk.map_err(|e| Error::broken_off(action, &output.uri, &e))?;
            sha256.update(&chunk);
            to.write_all(&chunk).await.map_err(|e| local(part, &e))?;
        }
        to.flush().await.map_err(|e| local(part, &e))?;
        if hex::encode(sha256.finalize()) != output.sha256 {
            return Err(wrong(
                "its content is not what its record says (sha256): it was replaced since, or is damaged",
            ));
        }
        Ok(())
    }
}

/// Whether a file has just this content. One that cannot be read has not: writing it tells why.
async fn is_there(output: &RecordOutput, file: &Path) -> bool {
    let same_size = tokio::fs::metadata(file).await.is_ok_and(|found| found.len() == output.bytes);
    same_size && sha256_of(file).await.is_ok_and(|sha256| sha256 == output.sha256)
}

async fn sha256_of(file: &Path) -> std::io::Result<String> {
    let mut from = tokio::fs::File::open(file).await?;
    let (mut sha256, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(hex::encode(sha256.finalize())),
            read => sha256.update(&chunk[..read]),
        }
    }
}

fn local(file: &Path, error: &std::io::Error) -> Error {
    Error::Content { what: file.display().to_string(), problem: error.to_string() }
}
