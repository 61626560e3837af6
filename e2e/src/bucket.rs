//! What is in a scenario's bucket: result records and outputs.

use std::path::Path;

use anyhow::{Context as _, Result};
use aws_sdk_s3::primitives::ByteStream;
use millrace_api::{JobStatus, ResultRecord};

use crate::Lab;

/// A result record, where it was found.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its key.
    pub key: String,
    /// Its version.
    pub etag: String,
    /// What it says.
    pub content: ResultRecord,
}

impl Record {
    /// Whether its job is done.
    pub fn is_completed(&self) -> bool {
        self.content.status == JobStatus::Completed
    }
}

/// An object.
#[derive(Debug)]
pub struct Object {
    /// Its Content-Type.
    pub content_type: String,
    /// Its content.
    pub body: Vec<u8>,
}

impl Lab {
    /// Makes a bucket.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.s3.create_bucket().bucket(bucket).send().await.with_context(|| format!("create bucket {bucket}"))?;
        Ok(())
    }

    pub(crate) async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        for (key, _) in self.list(bucket, "").await? {
            self.s3.delete_object().bucket(bucket).key(key).send().await?;
        }
        self.s3.delete_bucket().bucket(bucket).send().await?;
        Ok(())
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let mut pages = self.s3.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page?.contents() {
                let etag = object.e_tag().unwrap_or_default();
                found.push((object.key().unwrap_or_default().to_owned(), etag.to_owned()));
            }
        }
        Ok(found)
    }

    /// The keys of the scenario's bucket that begin so.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list(&self.name, prefix).await?.into_iter().map(|(key, _)| key).collect())
    }

    /// An object of the scenario's bucket.
    pub async fn object(&self, key: &str) -> Result<Object> {
        let answer = self.s3.get_object().bucket(&self.name).key(key).send().await.with_context(|| key.to_owned())?;
        let content_type = answer.content_type().unwrap_or_default().to_owned();
        Ok(Object { content_type, body: answer.body.collect().await?.into_bytes().to_vec() })
    }

    /// The result records of a consumer with the default prefix.
    pub async fn records(&self, consumer: &str) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for (key, etag) in self.list(&self.name, &format!("{}/{consumer}/", self.name)).await? {
            if key.ends_with(".record.json") {
                let content = serde_json::from_slice(&self.object(&key).await?.body).with_context(|| key.clone())?;
                records.push(Record { key, etag, content });
            }
        }
        Ok(records)
    }

    /// Puts a file.
    pub async fn upload(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let body = ByteStream::from(tokio::fs::read(file).await?);
        self.s3.put_object().bucket(bucket).key(key).body(body).send().await.with_context(|| key.to_owned())?;
        Ok(())
    }
}
