//! A model's folder in the cache: `files/` is the model, `parts/` what is on its way, `manifest.json` says what is whole,
//! `lock` who may change it.
//!
//! A file is never written where it is read: it is moved to its place when it is whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::task::spawn_blocking;

use super::error::SourceError;
use super::part::Part;
use super::store::RemoteFile;

/// A model's folder, as its manifest says it is.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    manifest: Manifest,
    /// Names what this worker writes beside its place.
    who: String,
}

/// What the files are. Kept on disk, and written after every file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Manifest {
    /// Where they come from; another source starts anew.
    source: String,
    /// Set while all of them are there.
    #[serde(default)]
    revision: Option<String>,
    files: BTreeMap<String, Entry>,
    /// The system that wrote them.
    #[serde(default)]
    boot: Option<String>,
    /// All of it is on the disk, and not just in that system's memory.
    #[serde(default)]
    durable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    etag: String,
}

impl Entry {
    fn of(file: &RemoteFile) -> Self {
        Self { size: file.size, etag: file.etag.clone() }
    }
}

/// Names the running system until it is started anew, where it can be known.
pub(super) async fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").await.ok()?;
    Some(id.trim().to_owned())
}

impl Cache {
    /// Reads what there is of `source`, and changes nothing. What was not on the disk when a system went down is not
    /// there, although its files may have their length; and of an unreadable manifest nothing is.
    pub(super) async fn read(folder: &Path, source: &str, who: &str) -> Self {
        let boot = boot().await;
        let text = fs::read(folder.join("manifest.json")).await.unwrap_or_default();
        let known = serde_json::from_slice::<Manifest>(&text).ok();
        let good = known.filter(|known| known.source == source && (known.durable || known.boot == boot));
        let manifest = good.unwrap_or_else(|| Manifest { source: source.into(), boot, ..Manifest::default() });
        Self { folder: folder.into(), manifest, who: who.into() }
    }

    /// As `read`, and clears away what it does not know.
    pub(super) async fn open(folder: &Path, source: &str, who: &str) -> Result<Self, SourceError> {
        let cache = Self::read(folder, source, who).await;
        if cache.manifest.files.is_empty() {
            remove_folder(&cache.files_dir()).await?;
        }
        create_folder(&cache.files_dir()).await?;
        Ok(cache)
    }

    pub(super) fn files_dir(&self) -> PathBuf {
        self.folder.join("files")
    }

    async fn is_whole(&self, path: &str, size: u64) -> bool {
        fs::metadata(self.files_dir().join(path)).await.is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// The revision of the model that is there, if all of it is.
    pub(super) async fn whole(&self) -> Option<String> {
        for (path, entry) in &self.manifest.files {
            if !self.is_whole(path, entry.size).await {
                return None;
            }
        }
        self.manifest.revision.clone()
    }

    /// Whether exactly these files are there.
    pub(super) async fn has(&self, files: &[RemoteFile]) -> bool {
        if self.manifest.files.len() != files.len() {
            return false;
        }
        for file in files {
            let known = self.manifest.files.get(&file.path) == Some(&Entry::of(file));
            if !(known && self.is_whole(&file.path, file.size).await) {
                return false;
            }
        }
        true
    }

    /// Deletes what the model no longer has or has otherwise (a loader takes what it finds) and gives what is missing.
    pub(super) async fn prepare(&mut self, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, SourceError> {
        let mut stale = std::mem::take(&mut self.manifest.files);
        let mut missing = Vec::new();
        for file in files {
            let entry = Entry::of(&file);
            if stale.get(&file.path) == Some(&entry) && self.is_whole(&file.path, file.size).await {
                stale.remove(&file.path);
                self.manifest.files.insert(file.path, entry);
            } else {
                missing.push(file);
            }
        }
        if !missing.is_empty() || !stale.is_empty() {
            self.manifest.revision = None;
            self.manifest.boot = boot().await;
            self.manifest.durable = false;
            self.save().await?;
        }
        for path in stale.into_keys() {
            let file = self.files_dir().join(path);
            match fs::remove_file(&file).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SourceError::cache(&file, error));
                }
                _ => {}
            }
        }
        Ok(missing)
    }

    /// Where these files are put together. Parts of others, which somebody left, go. Who is not `alone`, for want of
    /// locks, has a folder of its own.
    pub(super) async fn parts(&self, files: &[RemoteFile], alone: bool) -> Result<PathBuf, SourceError> {
        let folder = if alone { self.folder.join("parts") } else { self.folder.join(format!("parts-{}", self.who)) };
        create_folder(&folder).await?;
        let wanted: Vec<String> = files.iter().map(Part::name).collect();
        let mut entries = fs::read_dir(&folder).await.map_err(|error| SourceError::cache(&folder, error))?;
        while let Some(entry) = entries.next_entry().await.map_err(|error| SourceError::cache(&folder, error))? {
            let path = entry.path();
            let stem = path.file_stem().unwrap_or_default();
            if !wanted.iter().any(|name| stem == name.as_str()) {
                fs::remove_file(&path).await.map_err(|error| SourceError::cache(&path, error))?;
            }
        }
        Ok(folder)
    }

    pub(super) async fn add(&mut self, file: RemoteFile) -> Result<(), SourceError> {
        let entry = Entry::of(&file);
        self.manifest.files.insert(file.path, entry);
        self.save().await
    }

    pub(super) async fn finish(&mut self, revision: String) -> Result<(), SourceError> {
        self.manifest.revision = Some(revision);
        self.save().await
    }

    /// Sees to it that the model is still there when the system is started anew. That takes as long as the disk does, so
    /// it is not done while anybody waits for the model.
    pub(super) async fn settle(&mut self) -> Result<(), SourceError> {
        if self.manifest.durable {
            return Ok(());
        }
        let (dir, paths) = (self.files_dir(), self.manifest.files.keys().cloned().collect::<Vec<_>>());
        let files = dir.clone();
        let synced = spawn_blocking(move || paths.iter().try_for_each(|path| sync(&files, path))).await;
        let synced = synced.unwrap_or_else(|error| Err(io::Error::other(error)));
        synced.map_err(|error| SourceError::cache(&dir, error))?;
        self.manifest.durable = true;
        self.save().await
    }

    async fn save(&self) -> Result<(), SourceError> {
        let path = self.folder.join("manifest.json");
        let new = self.folder.join(format!("manifest-{}", self.who));
        let text = serde_json::to_vec_pretty(&self.manifest).map_err(|e| SourceError::cache(&path, e.into()))?;
        fs::write(&new, text).await.map_err(|error| SourceError::cache(&new, error))?;
        fs::rename(&new, &path).await.map_err(|error| SourceError::cache(&path, error))
    }
}

/// Writes a file to the disk, and the folders that lead to it.
fn sync(dir: &Path, path: &str) -> io::Result<()> {
    let file = dir.join(path);
    std::fs::File::open(&file)?.sync_all()?;
    let mut folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(dir));
    folders.try_for_each(|folder| std::fs::File::open(folder)?.sync_all())
}

pub(super) async fn create_folder(folder: &Path) -> Result<(), SourceError> {
    fs::create_dir_all(folder).await.map_err(|error| SourceError::cache(folder, error))
}

async fn remove_folder(folder: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SourceError::cache(folder, error)),
        _ => Ok(()),
    }
}
