//! Outputs and the result record to S3, conditionally. The record is the commit: it is put last, and only where none is.
//!
//! S3 trouble never fails a job: it is tried again with backoff for as long as the job's lease is held.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use millrace_api::{KeyFields, KeyTemplate, RecordOutput, ResultRecord};
use rand::Rng;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::aws::{CREDENTIALS_FIX, Trouble, conflict, explain, precondition_failed, trouble};
use crate::metrics::Metrics;
use crate::model::Output;
use crate::state::{Part, State};

const JOB_ID: &str = "job-id";
const SHA256: &str = "sha256";
const INPUT: &str = "input-sha256";
const CONSUMER: &str = "consumer";
/// Longest key that S3 takes, in bytes.
const MAX_KEY: usize = 1024;

/// Where one consumer's results go.
#[derive(Debug, Clone)]
pub struct Store {
    s3: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
    template: KeyTemplate,
    state: Arc<State>,
    metrics: Arc<Metrics>,
}

/// Why a delivery did not come to an end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The lease was lost or the worker stops.
    #[error("given up")]
    GivenUp,
    /// The key holds another job's output.
    #[error("output.keyTemplate: key {0} holds another job's output; make the template unique, as {{job_id}} is")]
    OutputKeyTaken(String),
    /// S3 takes no such key.
    #[error(
        "output.keyTemplate: key {0} has more than {MAX_KEY} bytes; shorten the template, the prefix or the job id"
    )]
    KeyTooLong(String),
}

/// A record that was found, with the version that it has.
#[derive(Debug, Clone)]
pub struct Found {
    /// The record.
    pub record: ResultRecord,
    etag: String,
}

/// What a commit came to.
#[derive(Debug, Clone)]
pub enum Commit {
    /// The record is ours.
    Written,
    /// A record of the same job was there and is final.
    AlreadyFinal,
    /// A record of another job, with the same id, was there.
    IdTaken,
}

/// An S3 problem in the words of `/state` and conditions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BucketError {
    /// `BucketNotFound`, `BucketAccessDenied`, …
    pub reason: &'static str,
    /// The bucket and the fix.
    pub message: String,
}

/// The place of one output.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The job's id, safe for a key.
    pub job_id: &'a str,
    /// Of the job's input: an output is the same job's only if both agree.
    pub input_sha256: &'a str,
    /// `namespace/name` of the QueueConsumer.
    pub owner: &'a str,
    /// Of the message.
    pub message_id: &'a str,
    /// The consumer's name.
    pub consumer: &'a str,
    /// The day on which the message was sent.
    pub date: &'a str,
    /// Which of the job's outputs.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Store {
    /// The store of one consumer.
    pub fn new(
        s3: aws_sdk_s3::Client,
        bucket: &str,
        prefix: &str,
        template: KeyTemplate,
        state: Arc<State>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { s3, bucket: bucket.into(), prefix: prefix.into(), template, state, metrics }
    }

    fn record_key(&self, job_id: &str) -> String {
        format!("{}{job_id}.record.json", self.prefix)
    }

    /// Asks for a key that does not exist: proves the bucket, the right to read, and the right to list (without which a
    /// missing key reads as forbidden and no record could be looked up).
    pub async fn check(&self) -> Result<(), BucketError> {
        let key = self.check_key();
        match self.s3.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(self.words("s3:GetObject", trouble(&error), &explain(&error))),
        }
    }

    /// Puts and deletes an object: proves the right to write.
    pub async fn check_write(&self) -> Result<(), BucketError> {
        let key = self.check_key();
        let body = ByteStream::from_static(b"written by `millrace-worker check --write`; may be deleted\n");
        let put = self.s3.put_object().bucket(&self.bucket).key(&key).body(body).send().await;
        put.map_err(|e| self.put_words(&e))?;
        let gone = self.s3.delete_object().bucket(&self.bucket).key(&key).send().await;
        gone.map(|_| ()).map_err(|e| self.words("s3:DeleteObject", trouble(&e), &explain(&e)))
    }

    /// Looks at the bucket until it works.
    pub async fn await_bucket(&self, give_up: &CancellationToken) -> Result<(), DeliverError> {
        self.persist(|| self.check(), give_up).await
    }

    fn check_key(&self) -> String {
        format!("{}.millrace-check", self.prefix)
    }

    /// Puts an output; the same job's is adopted, unless `replace` says that it is a failed attempt's.
    pub async fn put_output(
        &self,
        place: Place<'_>,
        output: &Output,
        replace: bool,
        give_up: &CancellationToken,
    ) -> Result<RecordOutput, DeliverError> {
        let key = self.template.render(&KeyFields {
            job_id: place.job_id,
            message_id: place.message_id,
            index: place.index,
            count: place.count,
            extension: output.extension,
            name: place.consumer,
            date: place.date,
        });
        let key = format!("{}{key}", self.prefix);
        if key.len() > MAX_KEY {
            return Err(DeliverError::KeyTooLong(key));
        }
        let sha256 = hex::encode(Sha256::digest(&output.body));
        let entry = |bytes: u64, sha256: String| RecordOutput {
            uri: format!("s3://{}/{key}", self.bucket),
            content_type: output.content_type.into(),
            bytes,
            sha256,
        };
        let mut condition = Condition::New;
        loop {
            let metadata = [
                (JOB_ID, place.job_id),
                (INPUT, place.input_sha256),
                (CONSUMER, place.owner),
                (SHA256, sha256.as_str()),
            ];
            let body = output.body.clone();
            if self.put(&key, body, output.content_type, &metadata, &condition, give_up).await? {
                return Ok(entry(output.body.len() as u64, sha256));
            }
            let Some(there) = self.head(&key, give_up).await? else {
                condition = Condition::New;
                continue;
            };
            let same = there.job_id.as_deref() == Some(place.job_id)
                && there.input_sha256.as_deref() == Some(place.input_sha256)
                && there.owner.as_deref() == Some(place.owner);
            if !same {
                return Err(DeliverError::OutputKeyTaken(key));
            }
            if there.sha256.as_deref() == Some(sha256.as_str()) || !replace {
                return Ok(entry(there.bytes, there.sha256.unwrap_or(sha256)));
            }
            condition = Condition::Same(there.etag);
        }
    }

    /// Looks for a job's record.
    pub async fn find(&self, job_id: &str, give_up: &CancellationToken) -> Result<Option<Found>, DeliverError> {
        let key = self.record_key(job_id);
        let get = || async {
            let answer = self.s3.get_object().bucket(&self.bucket).key(&key).send().await;
            let missing = answer.as_ref().is_err_and(|e| e.code() == Some("NoSuchKey"));
            self.metrics.request("GetObject", answer.is_ok() || missing);
            if missing {
                return Ok(None);
            }
            let answer = answer.map_err(|e| self.words("s3:GetObject", trouble(&e), &explain(&e)))?;
            let etag = answer.e_tag().unwrap_or_default().to_owned();
            let body = answer
                .body
                .collect()
                .await
                .map_err(|e| self.words("s3:GetObject", Trouble::Unreachable, &e.to_string()))?;
            Ok(Some((body.into_bytes(), etag)))
        };
        let Some((body, etag)) = self.persist(get, give_up).await? else { return Ok(None) };
        match serde_json::from_slice(&body) {
            Ok(record) => Ok(Some(Found { record, etag })),
            Err(error) => {
                // not ours to judge: a conditional put will find the key taken
                tracing::error!(key, %error, "a result record cannot be read");
                Ok(None)
            }
        }
    }

    /// Puts the record: the commit.
    pub async fn commit(&self, record: &ResultRecord, give_up: &CancellationToken) -> Result<Commit, DeliverError> {
        self.commit_at(&self.record_key(&record.job_id), record, give_up).await
    }

    /// Puts the record of a job whose id another job has, where it stands in nobody's way.
    pub async fn commit_beside(
        &self,
        record: &ResultRecord,
        give_up: &CancellationToken,
    ) -> Result<Commit, DeliverError> {
        self.commit_at(&self.record_key(&format!("{}~{}", record.job_id, record.message_id)), record, give_up).await
    }

    async fn commit_at(
        &self,
        key: &str,
        record: &ResultRecord,
        give_up: &CancellationToken,
    ) -> Result<Commit, DeliverError> {
        let body = Bytes::from(serde_json::to_vec(record).unwrap_or_default());
        let name =
            key.strip_prefix(&self.prefix).and_then(|k| k.strip_suffix(".record.json")).unwrap_or(key).to_owned();
        let mut condition = Condition::New;
        loop {
            let metadata = [(JOB_ID, record.job_id.as_str())];
            if self.put(key, body.clone(), "application/json", &metadata, &condition, give_up).await? {
                return Ok(Commit::Written);
            }
            let Some(found) = self.find(&name, give_up).await? else {
                if self.head(key, give_up).await?.is_some() {
                    return Ok(Commit::IdTaken);
                }
                condition = Condition::New;
                continue;
            };
            let there = &found.record;
            if there.input_sha256 != record.input_sha256 || there.consumer != record.consumer {
                return Ok(Commit::IdTaken);
            }
            // an answer that got lost makes our own record look like another's
            if there == record {
                return Ok(Commit::Written);
            }
            if there.status.is_final() {
                return Ok(Commit::AlreadyFinal);
            }
            condition = Condition::Same(found.etag);
        }
    }

    /// One conditional put, persistently. False if the condition does not hold.
    async fn put(
        &self,
        key: &str,
        body: Bytes,
        content_type: &str,
        metadata: &[(&str, &str)],
        condition: &Condition,
        give_up: &CancellationToken,
    ) -> Result<bool, DeliverError> {
        let put = || async {
            let mut call = self.s3.put_object().bucket(&self.bucket).key(key).content_type(content_type);
            for (name, value) in metadata {
                call = call.metadata(*name, *value);
            }
            call = match condition {
                Condition::New => call.if_none_match("*"),
                Condition::Same(etag) => call.if_match(etag),
            };
            let answer = call.body(ByteStream::from(body.clone())).send().await;
            let refused = answer.as_ref().is_err_and(precondition_failed);
            self.metrics.request("PutObject", answer.is_ok() || refused);
            match answer {
                Ok(_) => Ok(true),
                Err(_) if refused => Ok(false),
                // an object that vanished under an If-Match is no longer the same one
                Err(error) if matches!(condition, Condition::Same(_)) && error.code() == Some("NoSuchKey") => Ok(false),
                Err(error) => Err(self.put_words(&error)),
            }
        };
        self.persist(put, give_up).await
    }

    fn put_words<E: ProvideErrorMetadata + std::error::Error + 'static>(&self, error: &SdkError<E>) -> BucketError {
        let trouble = if conflict(error) { Trouble::Throttled } else { trouble(error) };
        self.words("s3:PutObject", trouble, &explain(error))
    }

    async fn head(&self, key: &str, give_up: &CancellationToken) -> Result<Option<There>, DeliverError> {
        let head = || async {
            let answer = self.s3.head_object().bucket(&self.bucket).key(key).send().await;
            let missing = answer.as_ref().is_err_and(|e| trouble(e) == Trouble::NotFound);
            self.metrics.request("HeadObject", answer.is_ok() || missing);
            if missing {
                return Ok(None);
            }
            let answer = answer.map_err(|e| self.words("s3:GetObject", trouble(&e), &explain(&e)))?;
            let meta = |name: &str| answer.metadata().and_then(|all| all.get(name)).cloned();
            Ok(Some(There {
                job_id: meta(JOB_ID),
                input_sha256: meta(INPUT),
                owner: meta(CONSUMER),
                sha256: meta(SHA256),
                etag: answer.e_tag().unwrap_or_default().into(),
                bytes: u64::try_from(answer.content_length().unwrap_or_default()).unwrap_or_default(),
            }))
        };
        self.persist(head, give_up).await
    }

    /// Tries until it works or is given up; says what is wrong meanwhile.
    async fn persist<T, F>(&self, mut call: impl FnMut() -> F, give_up: &CancellationToken) -> Result<T, DeliverError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let mut pause = Duration::from_millis(250);
        loop {
            let answer = tokio::select! {
                answer = call() => answer,
                () = give_up.cancelled() => return Err(DeliverError::GivenUp),
            };
            match answer {
                Ok(value) => {
                    if self.state.clear_problem(Part::Bucket) {
                        tracing::info!(bucket = self.bucket, "the bucket works again");
                    }
                    return Ok(value);
                }
                Err(error) => {
                    if self.state.set_problem(Part::Bucket, error.reason, &error.message) {
                        tracing::error!(reason = error.reason, "{}", error.message);
                    }
                }
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => pause = (pause * 2).min(Duration::from_secs(20)),
                () = give_up.cancelled() => return Err(DeliverError::GivenUp),
            }
        }
    }

    fn words(&self, action: &str, trouble: Trouble, detail: &str) -> BucketError {
        let (reason, fix) = match trouble {
            Trouble::NotFound => ("BucketNotFound", "create it, or correct output.bucket"),
            Trouble::AccessDenied => (
                "BucketAccessDenied",
                "allow the worker's role s3:PutObject and s3:GetObject on the prefix, and s3:ListBucket on the bucket (without it a missing key reads as forbidden)",
            ),
            Trouble::Credentials => ("CredentialsMissing", CREDENTIALS_FIX),
            Trouble::Throttled => ("BucketThrottled", "S3 asks for fewer calls; it is tried again"),
            Trouble::Unreachable => {
                ("BucketUnreachable", "check output.endpoint, DNS and network policies; it is tried again")
            }
            Trouble::Other => ("BucketError", "see the error; it is tried again"),
        };
        BucketError { reason, message: format!("{action} on s3://{}/{}: {detail}; {fix}", self.bucket, self.prefix) }
    }
}

enum Condition {
    New,
    Same(String),
}

struct There {
    job_id: Option<String>,
    input_sha256: Option<String>,
    owner: Option<String>,
    sha256: Option<String>,
    etag: String,
    bytes: u64,
}
