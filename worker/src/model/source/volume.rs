//! A model on a PersistentVolumeClaim: the operator has mounted it, so it only has to be there.

use std::path::Path;

use millrace_api::PersistentVolumeClaimSource;

use super::Fetched;
use super::error::SourceError;

/// The model's folder below `mount`.
pub(super) async fn fetch(source: &PersistentVolumeClaimSource, mount: &Path) -> Result<Fetched, SourceError> {
    let PersistentVolumeClaimSource { claim_name, path, .. } = source;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(SourceError::Invalid {
            problem: format!(
                "persistentVolumeClaim.path {path:?} must be relative to the volume and must not contain '..'"
            ),
        });
    }
    let dir = mount.join(path);
    let what = format!("folder {path:?} of PersistentVolumeClaim {claim_name} ({})", dir.display());
    match tokio::fs::metadata(&dir).await {
        Ok(found) if found.is_dir() => Ok(Fetched { dir, revision: None }),
        Ok(_) => Err(SourceError::NotFound {
            what,
            fix:
                "there is a file of that name; persistentVolumeClaim.path names the folder that holds model_index.json"
                    .into(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(SourceError::NotFound {
            what,
            fix: "correct persistentVolumeClaim.path, or copy the model there".into(),
        }),
        Err(error) => Err(SourceError::AccessDenied {
            what,
            said: error.to_string(),
            fix: "make it readable for the worker's user".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &str) -> PersistentVolumeClaimSource {
        PersistentVolumeClaimSource { claim_name: "weights".into(), path: path.into(), variant: None }
    }

    #[tokio::test]
    async fn the_folder_is_used_in_place() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(mount.path().join("models/sdxl")).unwrap();
        let fetched = fetch(&claim("models/sdxl"), mount.path()).await.unwrap();
        assert_eq!(fetched, Fetched { dir: mount.path().join("models/sdxl"), revision: None });
        assert!(fetch(&claim(""), mount.path()).await.unwrap().dir.is_dir());
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::write(mount.path().join("file"), "").unwrap();
        for path in ["sdxl", "file"] {
            let error = fetch(&claim(path), mount.path()).await.unwrap_err();
            assert_eq!(error.reason(), "ModelNotFound", "{path}");
            assert!(error.to_string().contains("weights") && error.to_string().contains(path), "{error}");
        }
        for path in ["../etc", "/etc"] {
            let error = fetch(&claim(path), mount.path()).await.unwrap_err();
            assert_eq!(error.reason(), "ModelSourceInvalid", "{path}");
        }
    }
}
