//! Objects that go up in parts, and are there when the last call says so.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{At, Bucket, BucketError, Condition, GivenUp, Put, is_final, timeouts_for};
use crate::aws::{conflict, explain, precondition_failed, trouble};

/// An upload that was begun: its id at S3, and the parts that are there.
#[derive(Debug, Clone)]
pub struct Begun {
    id: String,
    parts: Vec<CompletedPart>,
}

impl Bucket {
    /// Begins an upload; else what it comes to.
    pub async fn begin_upload(
        &self,
        at: At<'_>,
        content_type: &str,
        metadata: &[(&str, &str)],
        give_up: &CancellationToken,
    ) -> Result<Result<Begun, Put>, GivenUp> {
        let begin = || async {
            let mut call = self.s3.create_multipart_upload().bucket(at.bucket).key(at.key).content_type(content_type);
            // the SDK adds sums to parts by itself, and S3 takes them only of an upload that was begun with them
            call = call.checksum_algorithm(ChecksumAlgorithm::Crc32);
            for (name, value) in metadata {
                call = call.metadata(*name, *value);
            }
            let answer = call.send().await;
            self.metrics.request("CreateMultipartUpload", answer.is_ok());
            match answer {
                Ok(answer) => Ok(Ok(Begun { id: answer.upload_id.unwrap_or_default(), parts: Vec::new() })),
                Err(error) => self.no_more(at, &error).map(Err),
            }
        };
        self.persist(begin, give_up).await
    }

    /// Puts the next part; else what the upload comes to.
    pub async fn put_part(
        &self,
        at: At<'_>,
        begun: &mut Begun,
        part: Bytes,
        give_up: &CancellationToken,
    ) -> Result<Result<(), Put>, GivenUp> {
        let number = i32::try_from(begun.parts.len() + 1).unwrap_or(i32::MAX);
        let put = || async {
            let call = self.s3.upload_part().bucket(at.bucket).key(at.key).upload_id(&begun.id).part_number(number);
            let mut call =
                call.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(part.clone())).customize();
            if let Some(timeouts) = timeouts_for(part.len()) {
                call = call.config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
            }
            let answer = call.send().await;
            self.metrics.request("UploadPart", answer.is_ok());
            match answer {
                Ok(answer) => Ok(Ok(answer)),
                Err(error) => self.no_more(at, &error).map(Err),
            }
        };
        let there = match self.persist(put, give_up).await? {
            Ok(there) => there,
            Err(put) => return Ok(Err(put)),
        };
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(there.e_tag)
            .set_checksum_crc32(there.checksum_crc32);
        begun.parts.push(part.build());
        Ok(Ok(()))
    }

    /// Makes the parts an object, under a condition.
    pub async fn complete_upload(
        &self,
        at: At<'_>,
        begun: &Begun,
        condition: &Condition,
        give_up: &CancellationToken,
    ) -> Result<Put, GivenUp> {
        let Some(condition) = self.to_ask(at, condition, give_up).await? else { return Ok(Put::Refused) };
        let parts = CompletedMultipartUpload::builder().set_parts(Some(begun.parts.clone())).build();
        let complete = || async {
            let call = self.s3.complete_multipart_upload().bucket(at.bucket).key(at.key).upload_id(&begun.id);
            let call = match condition {
                Condition::New => call.if_none_match("*"),
                Condition::Same(etag) => call.if_match(etag),
                Condition::Any => call,
            };
            let answer = call.multipart_upload(parts.clone()).send().await;
            // an object that vanished under an If-Match is no longer the same one
            let vanished = |error: &SdkError<_>| error.code() == Some("NoSuchKey");
            let refused = answer.as_ref().is_err_and(|error| precondition_failed(error) || vanished(error));
            self.metrics.request("CompleteMultipartUpload", answer.is_ok() || refused);
            match answer {
                Ok(answer) => Ok(Put::Done(answer.e_tag.unwrap_or_default())),
                Err(_) if refused => Ok(Put::Refused),
                // S3 wants it begun anew
                Err(error) if conflict(&error) => Ok(Put::Lost),
                Err(error) => self.no_more(at, &error),
            }
        };
        self.persist(complete, give_up).await
    }

    /// What a call of an upload comes to that failed, where waiting would not mend it; else the trouble to wait out.
    fn no_more<E>(&self, at: At<'_>, error: &SdkError<E>) -> Result<Put, BucketError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error.code() {
            Some("NoSuchUpload") => Ok(Put::Lost),
            _ if at.bucket != self.name && is_final(trouble(error)) => Ok(Put::Never(self.put_words(at.bucket, error))),
            _ => Err(self.put_words(at.bucket, error)),
        }
    }

    /// Gives an upload up: its parts are removed. What is left where this does not work is for the bucket's lifecycle rule.
    pub async fn abort_upload(&self, at: At<'_>, begun: &Begun) {
        let call = self.s3.abort_multipart_upload().bucket(at.bucket).key(at.key).upload_id(&begun.id);
        let answer = call.send().await;
        self.metrics.request("AbortMultipartUpload", answer.is_ok());
        if let Err(error) = answer {
            tracing::warn!(key = at.key, "an upload that was given up was not removed: {}", explain(&error));
        }
    }
}
