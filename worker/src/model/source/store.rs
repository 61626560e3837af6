//! What the download needs from a place that holds files: to list them, to read ranges of one, and to say what its
//! content must come to.

use std::future::Future;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::checksum::Checksum;
use super::error::SourceError;

/// A file as its store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path within the model, with forward slashes; safe to join to a folder.
    pub(super) path: String,
    /// Its length in bytes.
    pub(super) size: u64,
    /// Changes when the content does.
    pub(super) etag: String,
}

impl RemoteFile {
    /// A listed file, unless its path would lead out of the folder that it is joined to. `of` names the source.
    pub(super) fn new(of: &str, path: String, size: u64, etag: String) -> Result<Self, SourceError> {
        let safe = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\\']);
        if path.split('/').all(safe) {
            Ok(Self { path, size, etag })
        } else {
            Err(SourceError::UnsafePath { what: of.into(), path })
        }
    }
}

/// What a store holds of a model.
#[derive(Debug)]
pub(super) struct Listing {
    /// Every file below the model's root.
    pub(super) files: Vec<RemoteFile>,
    /// The store's own name for this state, where it has one.
    pub(super) revision: Option<String>,
}

/// A file's bytes as they come.
pub(super) type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;

/// A place that holds a model's files.
pub(super) trait Store: Sync {
    /// The model in messages: `s3://bucket/folder/`, `owner/name@main`.
    fn name(&self) -> String;

    /// The server in messages.
    fn endpoint(&self) -> String;

    /// Lists the model's files; an error where there are none.
    fn list(&self) -> impl Future<Output = Result<Listing, SourceError>> + Send;

    /// Most bytes that one request reads; a longer file is read in ranges, several at a time.
    fn piece(&self) -> u64 {
        u64::MAX
    }

    /// Opens these bytes of a file, in the state in which `revision` listed it.
    fn open(
        &self,
        file: &RemoteFile,
        revision: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Chunks, SourceError>> + Send;

    /// What the content of that file must come to, where the store knows.
    fn checksum(
        &self,
        file: &RemoteFile,
        revision: &str,
    ) -> impl Future<Output = Result<Option<Checksum>, SourceError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_taken() {
        for path in ["model_index.json", "unet/config.json", "a b/..c/d..", "tokenizer/vocab.json"] {
            assert!(RemoteFile::new("s3://m/", path.into(), 1, String::new()).is_ok(), "{path}");
        }
        for path in
            ["", "/etc/passwd", "../x", "unet/../../x", "a//b", "./a", "a/./b", "a/..", "a/", "a\\..\\b", "a\0b"]
        {
            let error = RemoteFile::new("s3://m/", path.into(), 1, String::new()).unwrap_err();
            assert_eq!(error.reason(), "ModelUnsafePath", "{path}");
            assert!(error.to_string().contains("s3://m/"), "{error}");
        }
    }
}
