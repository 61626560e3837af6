//! Result records and outputs, read from where the worker put them.

use std::path::Path;

use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use millrace_api::{RECORD_SUFFIX, RecordOutput, ResultRecord, encode_job_id};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::client::Client;
use crate::error::Error;

impl Client {
    /// A job's record, if it has one. `job_id` may be as it was sent or as keys have it.
    pub async fn record(&self, job_id: &str) -> Result<Option<ResultRecord>, Error> {
        // an id that was encoded has signs of percent, which another encoding would encode
        let as_sent = self.record_at(&encode_job_id(job_id)).await?;
        match as_sent {
            None if job_id.contains('%') => self.record_at(job_id).await,
            found => Ok(found),
        }
    }

    /// The record of this name among the consumer's: an encoded job id, with `~` and a message id where that job's
    /// record is another's.
    pub(crate) async fn record_at(&self, name: &str) -> Result<Option<ResultRecord>, Error> {
        let (bucket, key) = (&self.consumer.output.bucket, format!("{}{name}{RECORD_SUFFIX}", self.consumer.prefix()));
        let what = format!("s3://{bucket}/{key}");
        let object = match self.s3.get_object().bucket(bucket).key(&key).send().await {
            Ok(object) => object,
            Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => return Ok(None),
            Err(error) => return Err(Error::aws("s3:GetObject", what, &error)),
        };
        let broken = |problem: String| Error::Content { what: what.clone(), problem };
        let body = object.body.collect().await.map_err(|e| broken(e.to_string()))?;
        serde_json::from_slice(&body.to_vec()).map(Some).map_err(|e| broken(format!("not a result record: {e}")))
    }

    /// The names of all records that begin with `begin`, as keys have it: job ids, and with `~` and a message id those
    /// that lie beside another's. In the order of keys.
    pub async fn record_names(&self, begin: &str) -> Result<Vec<String>, Error> {
        let (bucket, prefix) = (&self.consumer.output.bucket, self.consumer.prefix());
        let asked = self.s3.list_objects_v2().bucket(bucket).prefix(format!("{prefix}{}", encode_job_id(begin)));
        let mut pages = asked.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Error::aws("s3:ListBucket", format!("s3://{bucket}/{prefix}"), &e))?;
            let keys = page.contents().iter().filter_map(|object| object.key());
            let name = |key: &str| Some(key.strip_prefix(&prefix)?.strip_suffix(RECORD_SUFFIX)?.to_owned());
            // what lies deeper belongs to another consumer, or is an output
            names.extend(keys.filter_map(name).filter(|name| !name.contains('/')));
        }
        Ok(names)
    }

    /// Downloads an output into a file, whole and as it was put or not at all.
    pub async fn download(&self, output: &RecordOutput, file: &Path) -> Result<(), Error> {
        let wrong = |problem: &str| Error::Content { what: output.uri.clone(), problem: problem.into() };
        let place = output.uri.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
        let (bucket, key) = place.ok_or_else(|| wrong("not an address such as s3://bucket/key"))?;
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await;
        let object = answer.map_err(|e| Error::aws("s3:GetObject", &output.uri, &e))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.part"));
        let local = |e: std::io::Error| Error::Content { what: file.display().to_string(), problem: e.to_string() };
        let sha256 = write(object, &part).await.map_err(local)?;
        if sha256 != output.sha256 {
            // best effort: the error says what counts
            let _ = tokio::fs::remove_file(&part).await;
            return Err(wrong(
                "its content is not what its record says (sha256): it was replaced since, or is damaged",
            ));
        }
        tokio::fs::rename(&part, file).await.map_err(local)
    }
}

/// Writes an object's content and gives its SHA-256.
async fn write(mut object: GetObjectOutput, file: &Path) -> std::io::Result<String> {
    let mut to = tokio::fs::File::create(file).await?;
    let mut sha256 = Sha256::new();
    while let Some(chunk) = object.body.next().await {
        let chunk = chunk.map_err(std::io::Error::other)?;
        sha256.update(&chunk);
        to.write_all(&chunk).await?;
    }
    to.flush().await?;
    Ok(hex::encode(sha256.finalize()))
}
