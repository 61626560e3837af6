//! Brings a model's files to this machine: from S3, from a Hugging Face hub, or from a volume that is mounted already.
//!
//! `fetch` is the whole interface. S3 and the hub are `Store`s: they list files and read ranges of them; `pick` chooses
//! the ones that a worker loads, and `download` brings the cache folder in step with them, or waits for the worker that
//! does: the cache may be shared. A file that is there already is not downloaded again, so a restarted container is
//! ready as soon as the weights are read.

mod cache;
mod checksum;
mod download;
mod error;
mod hugging_face;
mod lock;
mod part;
mod pick;
mod progress;
mod s3;
mod store;
mod volume;

use std::path::{Path, PathBuf};

use millrace_api::ModelSource;

use cache::Cache;
use lock::Lock;

pub use error::SourceError;
pub use progress::Progress;

/// Where the operator mounts a claim that holds models, read-only.
pub const VOLUME_MOUNT: &str = "/models";

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The folder that holds `model_index.json` and the components.
    pub dir: PathBuf,
    /// Exactly what was fetched: the commit, or a digest of the objects' ETags. None for a volume, which has neither.
    pub revision: Option<String>,
}

/// Keeps a model's files as they are while they are read. Others may read them too; who wants to change them waits.
#[derive(Debug)]
pub struct Hold(Option<(Lock, Cache)>);

impl Hold {
    fn new(lock: Lock, cache: Cache) -> Self {
        Self(Some((lock, cache)))
    }

    /// They have been read: writes them to the disk, where they are not, and lets go of them.
    pub async fn release(mut self) {
        if let Some((_, cache)) = &mut self.0
            && let Err(error) = cache.settle().await
        {
            tracing::warn!(%error, "the model may have to be downloaded again when this node is restarted");
        }
    }
}

/// Makes `source` available as a folder, below `cache` where it has to be downloaded.
///
/// `region` is used where an S3 source names none (the queue's). Every call starts from what an earlier one left, so a
/// caller repeats it after an error: soon where `SourceError::retryable` says so, else slowly.
pub async fn fetch(
    source: &ModelSource,
    cache: &Path,
    region: Option<&str>,
    progress: &Progress,
) -> Result<(Fetched, Hold), SourceError> {
    match source {
        ModelSource { hugging_face: Some(hub), s3: None, persistent_volume_claim: None } => {
            let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
            hugging_face::fetch(hub, token, cache, progress).await
        }
        ModelSource { hugging_face: None, s3: Some(s3), persistent_volume_claim: None } => {
            s3::fetch(s3, region, cache, progress).await
        }
        ModelSource { hugging_face: None, s3: None, persistent_volume_claim: Some(claim) } => {
            Ok((volume::fetch(claim, Path::new(VOLUME_MOUNT)).await?, Hold(None)))
        }
        _ => Err(SourceError::Invalid {
            problem: "set exactly one of huggingFace, s3, persistentVolumeClaim in model.source".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_is_exactly_one_thing() {
        let claim = millrace_api::PersistentVolumeClaimSource {
            claim_name: "weights".into(),
            path: String::new(),
            variant: None,
        };
        let s3 = millrace_api::S3Source { uri: "s3://m/".into(), region: None, endpoint: None, variant: None };
        let none = ModelSource::default();
        let both = ModelSource { s3: Some(s3), persistent_volume_claim: Some(claim), ..ModelSource::default() };
        for source in [none, both] {
            let error = fetch(&source, Path::new("cache"), None, &Progress::new("m")).await.unwrap_err();
            assert_eq!(error.reason(), "ModelSourceInvalid");
        }
    }
}
