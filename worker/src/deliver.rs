//! Outputs and the result record to S3, conditionally. The record is the commit: it is put last, and only where none is.

use bytes::Bytes;
use jiff::Timestamp;
use millrace_api::{KeyFields, KeyTemplate, RecordOutput, ResultRecord};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use crate::job::JobHead;
use crate::model::{Body, InvalidInput, Output};
use crate::store::{At, Bucket, Condition, Content, GivenUp, PREVIEW, Put, RECORD};
use crate::time::date;

const JOB_ID: &str = "job-id";
const SHA256: &str = "sha256";
const INPUT: &str = "input-sha256";
const CONSUMER: &str = "consumer";
/// Longest key that S3 takes, in bytes.
const MAX_KEY: usize = 1024;

/// Where one consumer's results go.
#[derive(Debug, Clone)]
pub struct Store {
    bucket: Bucket,
    template: KeyTemplate,
    /// `namespace/name` of the QueueConsumer.
    owner: String,
    /// Its name.
    consumer: String,
    /// Outputs that go up while they are made.
    uploads: TaskTracker,
}

/// Why a delivery did not come to an end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The lease was lost or the worker stops.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The key holds another job's output.
    #[error("output.keyTemplate: key {0} holds another job's output; make the template unique, as {{job_id}} is")]
    OutputKeyTaken(String),
    /// S3 takes no such key.
    #[error(
        "output.keyTemplate: key {0} has more than {MAX_KEY} bytes; shorten the template, the prefix or the job id"
    )]
    KeyTooLong(String),
    /// An engine uploaded it as something else than it came to be.
    #[error("the engine uploaded an output as {0}, which is to be {1}: it had said another index or count")]
    Misplaced(String, String),
    /// Its parts were removed before they were an object.
    #[error(
        "the parts of {0} are not in S3 any more: something removes uploads that are under way; the job is done again"
    )]
    Lost(String),
    /// The bucket that the message names is not there or may not be written.
    #[error("output.bucket: {0}")]
    Elsewhere(String),
}

impl DeliverError {
    /// What it is to the job; `given_up` where it was not to be delivered at all.
    pub fn failure(self, given_up: Failure) -> Failure {
        let code = match self {
            Self::GivenUp(_) => return given_up,
            Self::Misplaced(..) | Self::Lost(_) => return Failure::Model(self.to_string()),
            Self::OutputKeyTaken(_) => "OutputKeyTaken",
            Self::KeyTooLong(_) => "OutputKeyTooLong",
            Self::Elsewhere(_) => "OutputBucketUnusable",
        };
        Failure::Invalid { code, error: InvalidInput::body(self.to_string()) }
    }
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
    AlreadyFinal(Box<ResultRecord>),
    /// A record of another job, with the same id, was there.
    IdTaken,
}

/// One of a job's outputs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The job.
    pub head: &'a JobHead,
    /// The id of the message that it came by.
    pub message_id: &'a str,
    /// When that was sent.
    pub sent_at: Timestamp,
    /// Which of the job's outputs.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Store {
    /// The store of the consumer `owner` (`namespace/name`).
    pub fn new(bucket: Bucket, template: KeyTemplate, owner: &str) -> Self {
        let consumer = owner.rsplit('/').next().unwrap_or(owner).to_owned();
        Self { bucket, template, owner: owner.into(), consumer, uploads: TaskTracker::new() }
    }

    /// What it lies in.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Outputs that go up while they are made: a task each.
    pub fn uploads(&self) -> &TaskTracker {
        &self.uploads
    }

    /// The URI of a job's record.
    pub fn record_uri(&self, job_id: &str) -> String {
        format!("s3://{}/{}", self.bucket.name(), self.record_key(job_id))
    }

    fn record_key(&self, job_id: &str) -> String {
        format!("{}{job_id}{RECORD}", self.bucket.prefix())
    }

    /// Bucket and key of an output: the message's own words, else the consumer's template.
    pub fn place(&self, place: Place<'_>, extension: &str) -> Result<(String, String), DeliverError> {
        let Place { head, message_id, sent_at, index, count } = place;
        let fields = KeyFields {
            job_id: &head.id,
            message_id,
            index,
            count,
            extension,
            name: &self.consumer,
            date: &date(sent_at),
        };
        let name = match &head.placement.key {
            Some(key) => KeyTemplate::literal(key).render(&fields),
            None => self.template.render(&fields),
        };
        let prefix = head.placement.prefix.as_deref().unwrap_or(self.bucket.prefix());
        let key = format!("{prefix}{name}");
        if key.len() > MAX_KEY {
            return Err(DeliverError::KeyTooLong(key));
        }
        Ok((head.placement.bucket.clone().unwrap_or_else(|| self.bucket.name().to_owned()), key))
    }

    /// What is kept with a job's outputs.
    pub fn metadata<'a>(&'a self, head: &'a JobHead) -> [(&'static str, &'a str); 3] {
        [(JOB_ID, head.id.as_str()), (INPUT, head.input_sha256.as_str()), (CONSUMER, self.owner.as_str())]
    }

    /// Puts an output; the same job's is adopted, unless `replace` says that it is a failed attempt's.
    pub async fn put_output(
        &self,
        place: Place<'_>,
        output: &Output,
        replace: bool,
        give_up: &CancellationToken,
    ) -> Result<RecordOutput, DeliverError> {
        let (bucket, key) = self.place(place, &output.extension)?;
        let at = At { bucket: &bucket, key: &key };
        let (bytes, sha256) = match &output.body {
            Body::Whole(body) => (body.len() as u64, hex::encode(Sha256::digest(body))),
            Body::Sent(sent) if (&sent.upload.bucket, &sent.upload.key) != (&bucket, &key) => {
                return Err(DeliverError::Misplaced(sent.upload.key.clone(), key));
            }
            Body::Sent(sent) => (sent.bytes, sent.sha256.clone()),
        };
        let entry = |bytes: u64, sha256: String| RecordOutput {
            uri: format!("s3://{bucket}/{key}"),
            content_type: output.content_type.to_string(),
            bytes,
            sha256,
        };
        let head = place.head;
        let mut metadata = self.metadata(head).to_vec();
        metadata.push((SHA256, sha256.as_str()));
        let put = async |condition: &Condition| match &output.body {
            Body::Whole(body) => {
                let content = Content { body, content_type: &output.content_type, metadata: &metadata };
                self.bucket.put(at, content, condition, give_up).await
            }
            Body::Sent(sent) => sent.upload.complete(sent.rest.clone(), condition.clone()).await,
        };
        let mut condition = Condition::New;
        loop {
            let is_lost = match put(&condition).await? {
                Put::Done(_) => return Ok(entry(bytes, sha256)),
                Put::Never(error) => return Err(DeliverError::Elsewhere(error.message)),
                Put::Refused => false,
                // completed, by a call whose answer got lost, or removed
                Put::Lost => true,
            };
            let Some(there) = self.bucket.head(at, give_up).await? else {
                if is_lost {
                    return Err(DeliverError::Lost(key));
                }
                condition = Condition::New;
                continue;
            };
            let same = there.meta(JOB_ID) == Some(head.id.as_str())
                && there.meta(INPUT) == Some(head.input_sha256.as_str())
                && there.meta(CONSUMER) == Some(self.owner.as_str());
            if !same {
                return Err(DeliverError::OutputKeyTaken(key));
            }
            // what went up in parts has its sum nowhere
            let sum = match there.meta(SHA256) {
                Some(sum) => Some(sum.to_owned()),
                None => self.bucket.sha256(at, give_up).await?,
            };
            match sum {
                Some(sum) if sum == sha256 || !replace => return Ok(entry(there.bytes, sum)),
                Some(_) | None if is_lost => return Err(DeliverError::Lost(key)),
                Some(_) | None => {}
            }
            condition = Condition::Same(there.etag);
        }
    }

    /// Puts what input `index` of a job looks like meanwhile, over the one before. Nobody waits for it: what goes wrong
    /// is logged, and the next one may do better.
    pub async fn put_preview(&self, head: &JobHead, index: usize, preview: &Output, give_up: &CancellationToken) {
        // no job's id has a tilde, so this is never another job's output
        let key = format!("{}{}~{index}{PREVIEW}", self.bucket.prefix(), head.id);
        let at = At { bucket: self.bucket.name(), key: &key };
        let metadata = [(JOB_ID, head.id.as_str()), (CONSUMER, self.owner.as_str())];
        let Some(body) = preview.body.whole() else { return };
        let content = Content { body, content_type: &preview.content_type, metadata: &metadata };
        match self.bucket.put(at, content, &Condition::Any, give_up).await {
            Ok(Put::Never(error)) => tracing::warn!(key, %error, "a preview was not put"),
            Ok(Put::Done(_) | Put::Refused | Put::Lost) | Err(GivenUp) => {}
        }
    }

    /// Looks for a job's record.
    pub async fn find(&self, job_id: &str, give_up: &CancellationToken) -> Result<Option<Found>, GivenUp> {
        self.find_at(&self.record_key(job_id), give_up).await
    }

    async fn find_at(&self, key: &str, give_up: &CancellationToken) -> Result<Option<Found>, GivenUp> {
        let found = self.bucket.get(self.bucket.at(key), give_up).await?;
        Ok(found.and_then(|(body, etag)| read(key, &body, etag)))
    }

    /// Puts the record: the commit.
    pub async fn commit(&self, record: &ResultRecord, give_up: &CancellationToken) -> Result<Commit, GivenUp> {
        self.commit_at(&self.record_key(&record.job_id), record, give_up).await
    }

    /// The name under which a record stands whose job's id another job has.
    pub fn beside(record: &ResultRecord) -> String {
        format!("{}~{}", record.job_id, record.message_id)
    }

    /// Puts the record of a job whose id another job has, where it stands in nobody's way.
    pub async fn commit_beside(&self, record: &ResultRecord, give_up: &CancellationToken) -> Result<Commit, GivenUp> {
        self.commit_at(&self.record_key(&Self::beside(record)), record, give_up).await
    }

    async fn commit_at(
        &self,
        key: &str,
        record: &ResultRecord,
        give_up: &CancellationToken,
    ) -> Result<Commit, GivenUp> {
        let at = self.bucket.at(key);
        let body = Bytes::from(serde_json::to_vec(record).unwrap_or_default());
        let metadata = [(JOB_ID, record.job_id.as_str())];
        let content = Content { body: &body, content_type: "application/json", metadata: &metadata };
        let mut condition = Condition::New;
        loop {
            if let Put::Done(_) = self.bucket.put(at, content, &condition, give_up).await? {
                return Ok(Commit::Written);
            }
            let Some((there, etag)) = self.bucket.get(at, give_up).await? else {
                condition = Condition::New;
                continue;
            };
            // an answer that got lost makes our own record look like another's
            if there == body {
                return Ok(Commit::Written);
            }
            let Some(found) = read(key, &there, etag) else { return Ok(Commit::IdTaken) };
            let there = found.record;
            if there.input_sha256 != record.input_sha256 || there.consumer != record.consumer {
                return Ok(Commit::IdTaken);
            }
            if there.status.is_final() {
                return Ok(Commit::AlreadyFinal(Box::new(there)));
            }
            condition = Condition::Same(found.etag);
        }
    }
}

fn read(key: &str, body: &[u8], etag: String) -> Option<Found> {
    match serde_json::from_slice(body) {
        Ok(record) => Some(Found { record, etag }),
        Err(error) => {
            // not ours to judge: a conditional put will find the key taken
            tracing::error!(key, %error, "a result record cannot be read");
            None
        }
    }
}
