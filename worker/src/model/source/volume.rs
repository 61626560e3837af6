//! A model on a volume, of a PersistentVolumeClaim or of an image: Kubernetes has mounted it, so it only has to be there.

use std::io::ErrorKind;
use std::path::Path;

use millrace_api::{ImageSource, PersistentVolumeClaimSource};

use super::Fetched;
use super::error::SourceError;

/// Whose volume it is.
pub(super) enum Volume<'a> {
    Claim(&'a PersistentVolumeClaimSource),
    Image(&'a ImageSource),
}

impl Volume<'_> {
    fn path(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.path,
            Self::Image(image) => &image.path,
        }
    }

    /// The field that names the folder.
    fn field(&self) -> &'static str {
        match self {
            Self::Claim(_) => "model.source.persistentVolumeClaim.path",
            Self::Image(_) => "model.source.image.path",
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Claim(claim) => format!("PersistentVolumeClaim {}", claim.claim_name),
            Self::Image(image) => format!("image {}", image.reference),
        }
    }

    fn revision(&self) -> Option<String> {
        match self {
            Self::Claim(_) => None,
            Self::Image(image) => Some(image.revision().to_owned()),
        }
    }

    /// What to do where the folder is not there; `mounted` tells whether the volume itself is.
    fn fix(&self, mounted: bool) -> String {
        let field = self.field();
        match self {
            Self::Claim(_) => format!("correct {field}, or copy the model there"),
            Self::Image(_) if mounted => format!("correct {field}, or build the image with the model there"),
            Self::Image(_) => "nothing is mounted there, as the cluster left the image volume out of the pod: enable the feature gate ImageVolume, or use another model.source".into(),
        }
    }
}

/// The model's folder below `mount`.
pub(super) async fn fetch(volume: &Volume<'_>, mount: &Path) -> Result<Fetched, SourceError> {
    let (path, field) = (volume.path(), volume.field());
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(SourceError::Invalid {
            problem: format!("{field} {path:?} must be relative to the volume and must not contain '..'"),
        });
    }
    let dir = mount.join(path);
    let what = format!("folder {path:?} of {} ({})", volume.what(), dir.display());
    match tokio::fs::metadata(&dir).await {
        Ok(found) if found.is_dir() => Ok(Fetched { dir, revision: volume.revision() }),
        Ok(_) => Err(SourceError::NotFound {
            what,
            fix: format!("there is a file of that name; {field} names the folder that holds model_index.json"),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mounted = tokio::fs::try_exists(mount).await.unwrap_or(true);
            Err(SourceError::NotFound { what, fix: volume.fix(mounted) })
        }
        Err(error) => Err(SourceError::AccessDenied {
            what,
            said: error.to_string(),
            fix: "make it readable for the worker's user, 65532".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &str) -> PersistentVolumeClaimSource {
        PersistentVolumeClaimSource { claim_name: "weights".into(), path: path.into(), variant: None }
    }

    fn image(reference: &str, path: &str) -> ImageSource {
        ImageSource { reference: reference.into(), pull_policy: None, path: path.into(), variant: None }
    }

    #[tokio::test]
    async fn the_folder_is_used_in_place() {
        let mount = tempfile::tempdir().unwrap();
        let dir = mount.path().join("models/sdxl");
        std::fs::create_dir_all(&dir).unwrap();
        let (claim, root) = (claim("models/sdxl"), claim(""));
        let fetched = fetch(&Volume::Claim(&claim), mount.path()).await.unwrap();
        assert_eq!(fetched, Fetched { dir: dir.clone(), revision: None });
        assert!(fetch(&Volume::Claim(&root), mount.path()).await.unwrap().dir.is_dir());
        for (reference, revision) in [("sdxl:1", "sdxl:1"), ("registry/sdxl@sha256:ab", "sha256:ab")] {
            let image = image(reference, "models/sdxl");
            let fetched = fetch(&Volume::Image(&image), mount.path()).await.unwrap();
            assert_eq!(fetched, Fetched { dir: dir.clone(), revision: Some(revision.into()) });
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::write(mount.path().join("file"), "").unwrap();
        for path in ["sdxl", "file", "../etc", "/etc"] {
            let (claim, image) = (claim(path), image("registry/sdxl:1", path));
            let missing = !path.contains("etc");
            for (volume, name, field) in [
                (Volume::Claim(&claim), "weights", "model.source.persistentVolumeClaim.path"),
                (Volume::Image(&image), "registry/sdxl:1", "model.source.image.path"),
            ] {
                let error = fetch(&volume, mount.path()).await.unwrap_err();
                assert_eq!(error.reason(), if missing { "ModelNotFound" } else { "ModelSourceInvalid" }, "{path}");
                let words = error.to_string();
                assert!(words.contains(path) && words.contains(field), "{words}");
                assert!(!missing || words.contains(name), "{words}");
            }
        }
    }

    #[tokio::test]
    async fn a_pod_that_was_given_no_image_volume_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let image = image("registry/sdxl:1", "");
        let error = fetch(&Volume::Image(&image), &folder.path().join("models")).await.unwrap_err();
        assert!(error.to_string().contains("feature gate ImageVolume"), "{error}");
    }
}
