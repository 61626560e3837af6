//! A folder in S3 as a store.

use std::ops::Range;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use aws_smithy_checksums::ChecksumAlgorithm;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, stream};
use millrace_api::S3Source;
use sha2::{Digest, Sha256};

use super::checksum::Checksum;
use super::download::{self, STALL};
use super::error::{SourceError, causes};
use super::store::{Chunks, Listing, RemoteFile, Store};
use super::{Fetched, Hold, Progress};
use crate::aws::{self, Trouble};

/// What one request reads of a larger file.
const PIECE: u64 = 32 << 20;

/// Fetches the folder that `source.uri` names into a folder of its own below `cache`.
pub(super) async fn fetch(
    source: &S3Source,
    region: Option<&str>,
    cache: &Path,
    progress: &Progress,
) -> Result<(Fetched, Hold), SourceError> {
    fetch_with(client(source, region).await, source, cache, progress).await
}

async fn fetch_with(
    client: Client,
    source: &S3Source,
    cache: &Path,
    progress: &Progress,
) -> Result<(Fetched, Hold), SourceError> {
    let store = S3Folder::new(client, source)?;
    let variant = source.variant.as_deref();
    let id = hex::encode(&Sha256::digest(download::source(&store, variant))[..8]);
    download::fetch(&store, variant, &cache.join(format!("s3-{id}")), progress).await
}

/// A client from the SDK's default credential chain.
async fn client(source: &S3Source, region: Option<&str>) -> Client {
    // Stores other than AWS do not care about the region, but a signature needs one.
    let region = source.region.as_deref().or(region).unwrap_or("us-east-1");
    let mut config = aws_sdk_s3::config::Builder::from(&aws::sdk_config(region).await)
        // a range has no checksum of its own: whole files are checked, when they have come
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL).build());
    if let Some(endpoint) = &source.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(true);
    }
    Client::from_conf(config.build())
}

struct S3Folder {
    client: Client,
    uri: String,
    bucket: String,
    /// Ends in a slash, or is empty for a whole bucket.
    prefix: String,
    endpoint: Option<String>,
    piece: u64,
}

impl S3Folder {
    fn new(client: Client, source: &S3Source) -> Result<Self, SourceError> {
        let invalid =
            || SourceError::Invalid { problem: format!("s3.uri {:?} must be s3://bucket/folder/", source.uri) };
        let rest = source.uri.strip_prefix("s3://").ok_or_else(invalid)?;
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(invalid());
        }
        // A folder, not just a prefix: s3://models/sdxl must not take s3://models/sdxl-turbo/ along.
        let folder = folder.trim_end_matches('/');
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(Self {
            client,
            uri: source.uri.clone(),
            bucket: bucket.to_owned(),
            prefix,
            endpoint: source.endpoint.clone(),
            piece: PIECE,
        })
    }

    fn key(&self, file: &RemoteFile) -> String {
        format!("{}{}", self.prefix, file.path)
    }

    /// A file in messages.
    fn what(&self, file: &RemoteFile) -> String {
        format!("s3://{}/{}", self.bucket, self.key(file))
    }

    fn region(&self) -> String {
        self.client.config().region().map_or_else(|| "(none)".to_owned(), ToString::to_string)
    }

    /// What an SDK error means. `action` is the permission that the request needs.
    fn failed<E>(&self, what: String, action: &str, error: &SdkError<E>) -> SourceError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let said = aws::explain(error);
        let response = error.raw_response();
        match (aws::trouble(error), error.code().unwrap_or_default(), response.map_or(0, |r| r.status().as_u16())) {
            (_, "NoSuchBucket", _) => {
                SourceError::BucketNotFound { bucket: self.bucket.clone(), endpoint: self.endpoint() }
            }
            (_, "PermanentRedirect" | "AuthorizationHeaderMalformed", _) | (_, _, 301) => SourceError::WrongRegion {
                bucket: self.bucket.clone(),
                asked: self.region(),
                actual: response.and_then(|r| r.headers().get("x-amz-bucket-region")).map(str::to_owned),
            },
            (Trouble::Credentials, ..) if response.is_none() => SourceError::CredentialsMissing { what, said },
            (Trouble::Credentials, ..) => SourceError::CredentialsRejected { what, said },
            (Trouble::AccessDenied, ..) => SourceError::AccessDenied {
                what,
                said,
                fix: format!(
                    "allow {action} to the role of the worker's ServiceAccount (and kms:Decrypt where the bucket is encrypted with a key)"
                ),
            },
            (Trouble::NotFound, ..) | (_, _, 412) => {
                SourceError::Incomplete { what, problem: format!("it changed while it was read ({said})") }
            }
            _ => SourceError::Unreachable { what, endpoint: self.endpoint(), said },
        }
    }
}

impl Store for S3Folder {
    fn name(&self) -> String {
        self.uri.clone()
    }

    fn endpoint(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("Amazon S3 in {}", self.region()))
    }

    async fn list(&self) -> Result<Listing, SourceError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
        let mut pages = request.into_paginator().send();
        let mut files = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(self.uri.clone(), "s3:ListBucket", &error))?;
            for object in page.contents.unwrap_or_default() {
                let key = object.key.unwrap_or_default();
                let path = key.strip_prefix(&self.prefix).unwrap_or(&key);
                // Consoles mark folders with an object of that name.
                if path.is_empty() || path.ends_with('/') {
                    continue;
                }
                let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                files.push(RemoteFile::new(&self.uri, path.to_owned(), size, object.e_tag.unwrap_or_default())?);
            }
        }
        if files.is_empty() {
            return Err(SourceError::NotFound {
                what: self.uri.clone(),
                fix: format!(
                    "bucket {} has no objects under {:?}; upload the model or correct s3.uri",
                    self.bucket, self.prefix
                ),
            });
        }
        Ok(Listing { files, revision: None })
    }

    fn piece(&self) -> u64 {
        self.piece
    }

    async fn open(&self, file: &RemoteFile, _: &str, range: Range<u64>) -> Result<Chunks, SourceError> {
        let what = self.what(file);
        let mut request = self.client.get_object().bucket(&self.bucket).key(self.key(file));
        if !file.etag.is_empty() {
            request = request.if_match(&file.etag);
        }
        if range != (0..file.size) {
            request = request.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let object = request.send().await.map_err(|error| self.failed(what.clone(), "s3:GetObject", &error))?;
        let length = object.content_length.and_then(|length| u64::try_from(length).ok());
        if let Some(length) = length.filter(|length| *length != range.end - range.start) {
            let problem = format!("{length} bytes came for the range {range:?}; it may have changed");
            return Err(SourceError::Incomplete { what, problem });
        }
        let endpoint = self.endpoint();
        let chunks =
            stream::unfold(object.body, |mut body| async move { body.next().await.map(|chunk| (chunk, body)) });
        let broken = move |error| SourceError::Unreachable {
            what: what.clone(),
            endpoint: endpoint.clone(),
            said: causes(&error),
        };
        Ok(chunks.map(move |chunk| chunk.map_err(&broken)).boxed())
    }

    /// The checksum that was kept with the object, if it is one of the whole. An ETag is none: it depends on how the
    /// object was uploaded and encrypted.
    async fn checksum(&self, file: &RemoteFile, _: &str) -> Result<Option<Checksum>, SourceError> {
        let mut request = self.client.head_object().bucket(&self.bucket).key(self.key(file));
        if !file.etag.is_empty() {
            request = request.if_match(&file.etag);
        }
        let answer = request.checksum_mode(ChecksumMode::Enabled).send().await;
        let object = answer.map_err(|error| self.failed(self.what(file), "s3:GetObject", &error))?;
        if object.checksum_type() == Some(&ChecksumType::Composite) {
            return Ok(None);
        }
        // the quick ones first
        let told = [
            (ChecksumAlgorithm::Crc64Nvme, object.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32c, object.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc32, object.checksum_crc32()),
            (ChecksumAlgorithm::Sha256, object.checksum_sha256()),
            (ChecksumAlgorithm::Sha1, object.checksum_sha1()),
        ];
        // one of many parts is no base64: it ends in their number
        let read = |(algorithm, text): (_, Option<&str>)| {
            Some(Checksum { algorithm, value: BASE64_STANDARD.decode(text?).ok()? })
        };
        Ok(told.into_iter().find_map(read))
    }
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
