//! Why a model is not on this machine: a reason for `/state` and conditions, the thing that is at fault, and the fix.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why a source did not give its model.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The repository, revision, folder or prefix is not there.
    #[error("{what} was not found: {fix}")]
    NotFound {
        /// What was looked for, in the source's own words.
        what: String,
        /// What to check.
        fix: String,
    },
    /// The bucket is not there.
    #[error("bucket {bucket} does not exist at {endpoint}: create it, or correct model.source.s3.uri")]
    BucketNotFound {
        /// The bucket's name.
        bucket: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The source knows the caller and says no, or wants a caller that it knows.
    #[error("access to {what} is denied ({said}): {fix}")]
    AccessDenied {
        /// What was asked for.
        what: String,
        /// The source's own words.
        said: String,
        /// Which permission or secret is missing.
        fix: String,
    },
    /// The AWS default chain found no credentials.
    #[error(
        "no AWS credentials to read {what} ({said}): give the worker's ServiceAccount a role (IRSA or Pod Identity), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in worker.env"
    )]
    CredentialsMissing {
        /// What was asked for.
        what: String,
        /// The chain's own words.
        said: String,
    },
    /// There are credentials and AWS does not accept them.
    #[error("the AWS credentials used to read {what} are not valid ({said}): replace or renew them")]
    CredentialsRejected {
        /// What was asked for.
        what: String,
        /// AWS's own words.
        said: String,
    },
    /// The bucket is in another region.
    #[error("bucket {bucket} is not in region {asked}{}: set model.source.s3.region", actual.as_ref().map(|r| format!(" but in {r}")).unwrap_or_default())]
    WrongRegion {
        /// The bucket's name.
        bucket: String,
        /// The region that was used.
        asked: String,
        /// The region that S3 named.
        actual: Option<String>,
    },
    /// No answer, or one that says to try later.
    #[error(
        "cannot read {what} from {endpoint} ({said}); it is tried again, and if this lasts check the endpoint, DNS and network policies"
    )]
    Unreachable {
        /// What was asked for.
        what: String,
        /// The server.
        endpoint: String,
        /// What went wrong.
        said: String,
    },
    /// The model is there but not whole, or it changed while it was read.
    #[error("{what} is incomplete: {problem}")]
    Incomplete {
        /// The source or the file.
        what: String,
        /// What is missing, and what to do.
        problem: String,
    },
    /// A file's name would lead out of the cache folder.
    #[error("{what} holds {path:?}, which is no safe file name: rename or remove it; nothing was downloaded")]
    UnsafePath {
        /// The source.
        what: String,
        /// The name as the source gives it.
        path: String,
    },
    /// There is no room for the model.
    #[error(
        "no room for the model at {}: raise model.cache.emptyDir.sizeLimit or the node's disk ({source})", path.display()
    )]
    CacheFull {
        /// The file that could not be written.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The cache folder cannot be used.
    #[error("cannot use {}: {source}; the folder must be writable for the worker's user", path.display())]
    CacheUnusable {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The source's description makes no sense.
    #[error("model.source is not valid: {problem}")]
    Invalid {
        /// Which field, and what would be right.
        problem: String,
    },
}

impl SourceError {
    /// One word for `/state`, conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ModelNotFound",
            Self::BucketNotFound { .. } => "ModelBucketNotFound",
            Self::AccessDenied { .. } => "ModelAccessDenied",
            Self::CredentialsMissing { .. } => "CredentialsMissing",
            Self::CredentialsRejected { .. } => "CredentialsRejected",
            Self::WrongRegion { .. } => "ModelWrongRegion",
            Self::Unreachable { .. } => "ModelSourceUnreachable",
            Self::Incomplete { .. } => "ModelIncomplete",
            Self::UnsafePath { .. } => "ModelUnsafePath",
            Self::CacheFull { .. } => "CacheFull",
            Self::CacheUnusable { .. } => "CacheUnusable",
            Self::Invalid { .. } => "ModelSourceInvalid",
        }
    }

    /// Whether the same call may well succeed in a moment. The others need a person, so they are tried again slowly.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Incomplete { .. })
    }

    /// What the system said about a file or folder of the cache.
    pub(super) fn cache(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::CacheFull { path, source },
            _ => Self::CacheUnusable { path, source },
        }
    }
}

/// An error with its causes on one line, each said once: `dispatch failure: connection refused`.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line.push_str(": ");
            line.push_str(&cause_line);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("request failed: {0}")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("connect")]
    struct Middle(#[source] io::Error);

    #[test]
    fn causes_are_told_once_and_down_to_the_root() {
        let error = Outer(Middle(io::Error::other("connection refused")));
        assert_eq!(causes(&error), "request failed: connect: connection refused");
    }

    #[test]
    fn a_full_disk_is_told_from_an_unwritable_one() {
        let path = Path::new("/cache/unet");
        let full = SourceError::cache(path, io::ErrorKind::StorageFull.into());
        assert_eq!(full.reason(), "CacheFull");
        assert!(full.to_string().contains("/cache/unet") && full.to_string().contains("sizeLimit"), "{full}");
        let denied = SourceError::cache(path, io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.reason(), "CacheUnusable");
        assert!(!full.retryable() && !denied.retryable());
    }
}
