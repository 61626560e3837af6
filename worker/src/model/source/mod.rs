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

pub use self::error::SourceError;
#[cfg(feature = "models")]
pub(super) use self::pick::only_gguf;
pub use self::progress::Progress;

use self::cache::Cache;
use self::lock::Lock;
use self::volume::Volume;

/// Where the operator mounts a claim or an image that holds models, read-only.
pub const VOLUME_MOUNT: &str = "/models";

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The folder that holds `model_index.json` and the components.
    pub dir: PathBuf,
    /// Exactly what was fetched: the commit, a digest of the objects' ETags, or the image's digest or reference. None for
    /// a claim, which has nothing of the kind.
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
    let ModelSource { hugging_face, s3, persistent_volume_claim, image } = source;
    let mounted = match (hugging_face, s3, persistent_volume_claim, image) {
        (Some(hub), None, None, None) => {
            let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
            return hugging_face::fetch(hub, token, cache, progress).await;
        }
        (None, Some(s3), None, None) => return s3::fetch(s3, region, cache, progress).await,
        (None, None, Some(claim), None) => Volume::Claim(claim),
        (None, None, None, Some(image)) => Volume::Image(image),
        _ => {
            return Err(SourceError::Invalid {
                problem: "set exactly one of huggingFace, s3, persistentVolumeClaim, image in model.source".into(),
            });
        }
    };
    Ok((volume::fetch(&mounted, Path::new(VOLUME_MOUNT)).await?, Hold(None)))
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
        let image = millrace_api::ImageSource {
            reference: "sdxl:1".into(),
            pull_policy: None,
            path: String::new(),
            variant: None,
        };
        let none = ModelSource::default();
        let with_s3 = ModelSource { s3: Some(s3), persistent_volume_claim: Some(claim.clone()), ..none.clone() };
        let with_image = ModelSource { image: Some(image), persistent_volume_claim: Some(claim), ..none.clone() };
        for source in [none, with_s3, with_image] {
            let error = fetch(&source, Path::new("cache"), None, &Progress::new("m")).await.unwrap_err();
            assert_eq!(error.reason(), "ModelSourceInvalid");
        }
    }
}
