//! Result records, read from where the worker put them.

use aws_sdk_s3::operation::get_object::GetObjectError;
use jiff::Timestamp;
use millrace_api::{RECORD_SUFFIX, ResultRecord, encode_job_id};

use crate::client::Client;
use crate::error::{Error, Trouble};

/// Why a record may be forbidden to whoever may read it.
const UNLISTED: &str = "(without s3:ListBucket on the bucket, one that is not there yet reads so, too)";

/// A record as it lies in S3.
#[derive(Debug)]
pub(crate) struct Found {
    pub record: ResultRecord,
    pub put_at: Option<Timestamp>,
}

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
        Ok(self.found_at(name).await?.map(|found| found.record))
    }

    /// The same with the time when it was put.
    pub(crate) async fn found_at(&self, name: &str) -> Result<Option<Found>, Error> {
        let (bucket, key) = (&self.consumer.output.bucket, format!("{}{name}{RECORD_SUFFIX}", self.consumer.prefix()));
        let what = format!("s3://{bucket}/{key}");
        let object = match self.s3.get_object().bucket(bucket).key(&key).send().await {
            Ok(object) => object,
            Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => return Ok(None),
            Err(error) => return Err(Error::aws("s3:GetObject", what, &error).hinted(Trouble::AccessDenied, UNLISTED)),
        };
        let broken = |problem: String| Error::Content { what: what.clone(), problem };
        let put_at = object.last_modified.and_then(|time| Timestamp::from_second(time.secs()).ok());
        let body = object.body.collect().await.map_err(|e| Error::broken_off("s3:GetObject", &what, &e))?;
        let record = serde_json::from_slice(&body.to_vec()).map_err(|e| broken(format!("not a result record: {e}")))?;
        Ok(Some(Found { record, put_at }))
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
}
