//! The consumer's bucket: conditional puts and reads that wait S3's troubles out, and words for what is wrong with it.
//!
//! S3 trouble never fails a job: every call here is tried again with backoff until it is answered or given up.

mod multipart;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use millrace_api::ConditionalWrites;
use rand::Rng;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::aws::{ATTEMPT, ATTEMPTS, CREDENTIALS_FIX, Trouble, conflict, explain, precondition_failed, trouble};
use crate::metrics::Metrics;
use crate::state::{Part, State};

pub use self::multipart::Begun;

/// What the keys of records end in.
pub const RECORD: &str = millrace_api::RECORD_SUFFIX;
/// What the keys of attempts' notes end in.
pub const NOTE: &str = ".attempt";
/// What the keys of previews end in.
pub const PREVIEW: &str = ".preview.jpg";
/// What the keys begin with, after the prefix, by which a worker tries its rights.
pub const TRIED: &str = ".millrace-";
/// Longest that a worker which stops waits for what it still has to write.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes a second of the slowest line to S3 that is waited for.
const SLOWEST_LINE: usize = 64 << 10;

/// One bucket and prefix, as one worker uses it.
#[derive(Debug, Clone)]
pub struct Bucket {
    s3: aws_sdk_s3::Client,
    name: String,
    prefix: String,
    conditional_writes: ConditionalWrites,
    state: Arc<State>,
    metrics: Arc<Metrics>,
}

/// The lease was lost or the worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("given up")]
pub struct GivenUp;

/// An S3 problem in the words of `/state` and conditions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BucketError {
    /// `BucketNotFound`, `BucketAccessDenied`, …
    pub reason: &'static str,
    /// The bucket and the fix.
    pub message: String,
}

/// Where an object lies.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The whole key.
    pub key: &'a str,
}

/// What is put.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The object.
    pub body: &'a Bytes,
    /// Its Content-Type.
    pub content_type: &'a str,
    /// Its metadata.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// When a put counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Only where nothing is.
    New,
    /// Only over this version.
    Same(String),
    /// Always.
    Any,
}

/// What a put came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is there, in this version.
    Done(String),
    /// The condition does not hold.
    Refused,
    /// What was to be put went up in parts, and these are not there any more.
    Lost,
    /// Another bucket than the consumer's own, which is not there or may not be written. Waiting would not mend that.
    Never(BucketError),
}

/// An object's head.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its version, with quotes.
    pub etag: String,
    /// Its size.
    pub bytes: u64,
    metadata: std::collections::HashMap<String, String>,
}

impl Head {
    /// A metadata entry.
    pub fn meta(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }
}

impl Bucket {
    /// The bucket `name`, of which the consumer has what begins with `prefix`.
    pub fn new(
        s3: aws_sdk_s3::Client,
        name: &str,
        prefix: &str,
        conditional_writes: ConditionalWrites,
        state: Arc<State>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { s3, name: name.into(), prefix: prefix.into(), conditional_writes, state, metrics }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What every key of the consumer begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key of the consumer's own.
    pub fn at<'a>(&'a self, key: &'a str) -> At<'a> {
        At { bucket: &self.name, key }
    }

    /// Asks for a key that does not exist: proves the bucket, the right to read, and the right to list (without which a
    /// missing key reads as forbidden and no record could be looked up).
    pub async fn check(&self) -> Result<(), BucketError> {
        let key = format!("{}{TRIED}missing", self.prefix);
        match self.s3.get_object().bucket(&self.name).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(self.words(&self.name, "s3:GetObject", trouble(&error), &explain(&error))),
        }
    }

    /// Puts an object twice, the second time only where nothing is, and deletes it: proves the right to write, and that
    /// the store keeps conditions. `who` makes the key one's own.
    pub async fn check_write(&self, who: &str) -> Result<(), BucketError> {
        let key = format!("{}{TRIED}check-{who}", self.prefix);
        let put = async |condition: Option<&str>| {
            let body = ByteStream::from_static(b"written by a millrace worker to see that it may; can be deleted\n");
            let call = self.s3.put_object().bucket(&self.name).key(&key).body(body);
            call.set_if_none_match(condition.map(str::to_owned)).send().await
        };
        put(None).await.map_err(|e| self.put_words(&self.name, &e))?;
        let again = put(Some("*")).await;
        // it may be forbidden where a role is older than this version; then one small object stays
        let gone = self.s3.delete_object().bucket(&self.name).key(&key).send().await;
        if let Err(error) = gone {
            tracing::warn!(key, "cannot delete the object that the right to write was tried with: {}", explain(&error));
        }
        if self.conditional_writes == ConditionalWrites::BestEffort {
            return Ok(());
        }
        match again {
            Err(error) if precondition_failed(&error) => Ok(()),
            Err(error) if error.raw_response().is_none_or(|r| r.status().as_u16() != 501) => {
                Err(self.put_words(&self.name, &error))
            }
            Ok(_) | Err(_) => Err(BucketError {
                reason: "ConditionalWritesUnsupported",
                message: format!(
                    "s3://{}: the store does not keep If-None-Match, by which two workers on one job make one record; use a store that does, or set output.conditionalWrites to BestEffort and read there what is promised then",
                    self.name
                ),
            }),
        }
    }

    /// Looks at the bucket until it can be read and written as it must be.
    pub async fn wait(&self, who: &str, give_up: &CancellationToken) -> Result<(), GivenUp> {
        let writing = AtomicBool::new(false);
        let check = || async {
            self.check().await?;
            writing.store(true, Ordering::Relaxed);
            let written = self.check_write(who).await;
            writing.store(false, Ordering::Relaxed);
            written
        };
        let never = CancellationToken::new();
        let mut checked = pin!(self.persist(check, &never));
        tokio::select! {
            biased;
            checked = &mut checked => return checked,
            () = give_up.cancelled() => {}
        }
        // What was put is deleted again, also by one that is told to stop meanwhile.
        if writing.load(Ordering::Relaxed) {
            return tokio::time::timeout(FAREWELL, checked).await.unwrap_or(Err(GivenUp));
        }
        Err(GivenUp)
    }

    /// One put under a condition.
    pub async fn put(
        &self,
        at: At<'_>,
        content: Content<'_>,
        condition: &Condition,
        give_up: &CancellationToken,
    ) -> Result<Put, GivenUp> {
        let Some(condition) = self.to_ask(at, condition, give_up).await? else { return Ok(Put::Refused) };
        let put = || async {
            let mut call = self.s3.put_object().bucket(at.bucket).key(at.key).content_type(content.content_type);
            for (name, value) in content.metadata {
                call = call.metadata(*name, *value);
            }
            call = match condition {
                Condition::New => call.if_none_match("*"),
                Condition::Same(etag) => call.if_match(etag),
                Condition::Any => call,
            };
            let mut call = call.body(ByteStream::from(content.body.clone())).customize();
            if let Some(timeouts) = timeouts_for(content.body.len()) {
                call = call.config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
            }
            let answer = call.send().await;
            let refused = answer.as_ref().is_err_and(precondition_failed);
            self.metrics.request("PutObject", answer.is_ok() || refused);
            match answer {
                Ok(answer) => Ok(Put::Done(answer.e_tag.unwrap_or_default())),
                Err(_) if refused => Ok(Put::Refused),
                // an object that vanished under an If-Match is no longer the same one
                Err(error) if matches!(condition, Condition::Same(_)) && error.code() == Some("NoSuchKey") => {
                    Ok(Put::Refused)
                }
                Err(error) if at.bucket != self.name && is_final(trouble(&error)) => {
                    Ok(Put::Never(self.put_words(at.bucket, &error)))
                }
                Err(error) => Err(self.put_words(at.bucket, &error)),
            }
        };
        self.persist(put, give_up).await
    }

    /// What the store is to be asked to keep. One that keeps no conditions is looked at beforehand, which two workers may
    /// do in the same moment; none if the condition does not hold then.
    async fn to_ask<'c>(
        &self,
        at: At<'_>,
        condition: &'c Condition,
        give_up: &CancellationToken,
    ) -> Result<Option<&'c Condition>, GivenUp> {
        if self.conditional_writes == ConditionalWrites::Required || *condition == Condition::Any {
            return Ok(Some(condition));
        }
        let there = self.head(at, give_up).await?.map(|head| head.etag);
        let holds = match condition {
            Condition::New => there.is_none(),
            Condition::Same(etag) => there.as_ref() == Some(etag),
            Condition::Any => true,
        };
        Ok(holds.then_some(&Condition::Any))
    }

    /// An object's content and version; none where there is no such key.
    pub async fn get(&self, at: At<'_>, give_up: &CancellationToken) -> Result<Option<(Bytes, String)>, GivenUp> {
        let get = || async {
            let answer = self.s3.get_object().bucket(at.bucket).key(at.key).send().await;
            let missing = answer.as_ref().is_err_and(|e| e.code() == Some("NoSuchKey"));
            self.metrics.request("GetObject", answer.is_ok() || missing);
            if missing {
                return Ok(None);
            }
            let answer = answer.map_err(|e| self.words(at.bucket, "s3:GetObject", trouble(&e), &explain(&e)))?;
            let etag = answer.e_tag().unwrap_or_default().to_owned();
            let body = answer.body.collect().await;
            let body = body.map_err(|e| self.words(at.bucket, "s3:GetObject", Trouble::Unreachable, &e.to_string()))?;
            Ok(Some((body.into_bytes(), etag)))
        };
        self.persist(get, give_up).await
    }

    /// An object's head; none where there is no such key.
    pub async fn head(&self, at: At<'_>, give_up: &CancellationToken) -> Result<Option<Head>, GivenUp> {
        let head = || async {
            let answer = self.s3.head_object().bucket(at.bucket).key(at.key).send().await;
            let missing = answer.as_ref().is_err_and(|e| trouble(e) == Trouble::NotFound);
            self.metrics.request("HeadObject", answer.is_ok() || missing);
            if missing {
                return Ok(None);
            }
            let answer = answer.map_err(|e| self.words(at.bucket, "s3:GetObject", trouble(&e), &explain(&e)))?;
            Ok(Some(Head {
                etag: answer.e_tag().unwrap_or_default().into(),
                bytes: u64::try_from(answer.content_length().unwrap_or_default()).unwrap_or_default(),
                metadata: answer.metadata.unwrap_or_default(),
            }))
        };
        self.persist(head, give_up).await
    }

    /// The SHA-256 of an object's content, in hex; none where there is no such key.
    pub async fn sha256(&self, at: At<'_>, give_up: &CancellationToken) -> Result<Option<String>, GivenUp> {
        let read = || async {
            let answer = self.s3.get_object().bucket(at.bucket).key(at.key).send().await;
            let missing = answer.as_ref().is_err_and(|e| e.code() == Some("NoSuchKey"));
            self.metrics.request("GetObject", answer.is_ok() || missing);
            if missing {
                return Ok(None);
            }
            let broken = |detail: &str, trouble| self.words(at.bucket, "s3:GetObject", trouble, detail);
            let mut body = answer.map_err(|e| broken(&explain(&e), trouble(&e)))?.body;
            let mut sha256 = Sha256::new();
            while let Some(bytes) = body.next().await {
                sha256.update(bytes.map_err(|e| broken(&e.to_string(), Trouble::Unreachable))?);
            }
            Ok(Some(hex::encode(sha256.finalize())))
        };
        self.persist(read, give_up).await
    }

    /// Deletes a key; one that is not there is as good. An error is the caller's to tell: nothing here depends on it.
    pub async fn delete(&self, at: At<'_>) -> Result<(), BucketError> {
        let answer = self.s3.delete_object().bucket(at.bucket).key(at.key).send().await;
        self.metrics.request("DeleteObject", answer.is_ok());
        answer.map(|_| ()).map_err(|e| self.words(at.bucket, "s3:DeleteObject", trouble(&e), &explain(&e)))
    }

    /// Tries until it works or is given up; says what is wrong meanwhile.
    pub async fn persist<T, F>(&self, mut call: impl FnMut() -> F, give_up: &CancellationToken) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let mut pause = Duration::from_millis(250);
        loop {
            let answer = tokio::select! {
                answer = call() => answer,
                () = give_up.cancelled() => return Err(GivenUp),
            };
            match answer {
                Ok(value) => {
                    if self.state.clear_problem(Part::Bucket) {
                        tracing::info!(bucket = self.name, "the bucket works again");
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
                () = give_up.cancelled() => return Err(GivenUp),
            }
        }
    }

    fn put_words<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        bucket: &str,
        error: &SdkError<E>,
    ) -> BucketError {
        let trouble = if conflict(error) { Trouble::Throttled } else { trouble(error) };
        self.words(bucket, "s3:PutObject", trouble, &explain(error))
    }

    fn words(&self, bucket: &str, action: &str, trouble: Trouble, detail: &str) -> BucketError {
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
        BucketError { reason, message: format!("{action} on s3://{bucket}/{}: {detail}; {fix}", self.prefix) }
    }
}

/// Nothing that waiting would mend.
fn is_final(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::NotFound | Trouble::AccessDenied)
}

/// A large object may take its time on a slow line; a peer that is gone is noticed all the same. None for an object that
/// the client's own timeouts fit.
fn timeouts_for(bytes: usize) -> Option<TimeoutConfig> {
    let more = u32::try_from(bytes / SLOWEST_LINE).unwrap_or(u32::MAX);
    let attempt = ATTEMPT + Duration::from_secs(1) * more;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(attempt).operation_timeout(attempt * ATTEMPTS);
    (more > 0).then(|| timeouts.build())
}
