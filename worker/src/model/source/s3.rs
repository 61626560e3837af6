//! A folder in S3 as a store.

use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures::{StreamExt, stream};
use millrace_api::S3Source;
use sha2::{Digest, Sha256};

use super::download::{self, STALL};
use super::error::{SourceError, causes};
use super::store::{Chunks, Listing, RemoteFile, Store};
use super::{Fetched, Progress};
use crate::aws::{self, Trouble};

/// Fetches the folder that `source.uri` names into a folder of its own below `cache`.
pub(super) async fn fetch(
    source: &S3Source,
    region: Option<&str>,
    cache: &Path,
    progress: &Progress,
) -> Result<Fetched, SourceError> {
    fetch_with(client(source, region).await, source, cache, progress).await
}

async fn fetch_with(
    client: Client,
    source: &S3Source,
    cache: &Path,
    progress: &Progress,
) -> Result<Fetched, SourceError> {
    let store = S3Folder::new(client, source)?;
    let id = hex::encode(Sha256::digest(format!("{} {}", store.endpoint(), source.uri)));
    let folder = cache.join(format!("s3-{}", &id[..16]));
    download::fetch(&store, source.variant.as_deref(), &folder, progress).await
}

/// A client from the SDK's default credential chain.
async fn client(source: &S3Source, region: Option<&str>) -> Client {
    // Stores other than AWS do not care about the region, but a signature needs one.
    let region = source.region.as_deref().or(region).unwrap_or("us-east-1");
    let mut config = aws_sdk_s3::config::Builder::from(&aws::sdk_config(region).await)
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
        })
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

    async fn open(&self, file: &RemoteFile, _: &str, from: u64) -> Result<Chunks, SourceError> {
        let key = format!("{}{}", self.prefix, file.path);
        let what = format!("s3://{}/{key}", self.bucket);
        let mut request = self.client.get_object().bucket(&self.bucket).key(key);
        if !file.etag.is_empty() {
            request = request.if_match(&file.etag);
        }
        if from > 0 {
            request = request.range(format!("bytes={from}-"));
        }
        let object = request.send().await.map_err(|error| self.failed(what.clone(), "s3:GetObject", &error))?;
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
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
