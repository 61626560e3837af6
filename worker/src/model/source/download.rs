//! Brings a cache folder in step with a store: a few files at a time, each written beside its place and moved there when
//! it is whole. A manifest remembers what every file was, so what has not changed is not downloaded again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::time::{sleep, timeout};

use super::error::SourceError;
use super::pick::pick;
use super::store::{RemoteFile, Store};
use super::{Fetched, Progress};

/// Files on their way at a time: enough to fill a 10 Gbit/s line from S3 without starving small nodes of memory.
const PARALLEL: usize = 4;
/// Attempts in a row that bring nothing before a file is given up; any bytes that come start the count anew.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubled for each one after it.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait for a store to begin its answer; the clients' own retries lie within.
const ANSWER: Duration = Duration::from_secs(90);
/// Longest pause between two pieces of a file.
pub(super) const STALL: Duration = Duration::from_secs(20);
const WRITE_BUFFER: usize = 1 << 20;

/// Fetches the model in `store` into `folder`. Where the store cannot be reached and the folder holds the whole model
/// from before, that is used.
pub(super) async fn fetch<S: Store>(
    store: &S,
    variant: Option<&str>,
    folder: &Path,
    progress: &Progress,
) -> Result<Fetched, SourceError> {
    let mut cache =
        Cache::open(folder, format!("{} {} {}", store.endpoint(), store.name(), variant.unwrap_or("-"))).await?;
    let listing = match timeout(ANSWER, store.list()).await.unwrap_or_else(|_| Err(no_answer(store, store.name()))) {
        Ok(listing) => listing,
        Err(error @ SourceError::Unreachable { .. }) => match cache.whole().await {
            Some(revision) => {
                tracing::warn!(%error, "the model's source cannot be reached: using the copy in the cache");
                return Ok(Fetched { dir: cache.files_dir(), revision: Some(revision) });
            }
            None => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let files = pick(listing.files, variant)
        .map_err(|error| SourceError::Incomplete { what: store.name(), problem: error.to_string() })?;
    let revision = listing.revision.unwrap_or_else(|| digest(&files));

    let count = files.len();
    let missing = cache.prepare(files).await?;
    progress.begin(missing.iter().map(|file| file.size).sum());
    if missing.is_empty() {
        tracing::info!(%revision, "model {} is in the cache", progress.description());
    } else {
        tracing::info!(%revision, "model {progress} to download, {} of {count} files", missing.len());
    }
    progress.logged(download_all(store, missing, &revision, &mut cache, progress)).await?;
    cache.finish(revision.clone()).await?;
    Ok(Fetched { dir: cache.files_dir(), revision: Some(revision) })
}

async fn download_all<S: Store>(
    store: &S,
    files: Vec<RemoteFile>,
    revision: &str,
    cache: &mut Cache,
    progress: &Progress,
) -> Result<(), SourceError> {
    let (parts, target) = (cache.parts_dir(), cache.files_dir());
    let mut downloads = stream::iter(files.into_iter().enumerate())
        .map(|(index, file)| {
            let (part, target) = (parts.join(index.to_string()), target.join(&file.path));
            async move {
                download(store, &file, revision, &part, &target, progress).await?;
                Ok::<_, SourceError>(file)
            }
        })
        .buffer_unordered(PARALLEL);
    while let Some(file) = downloads.try_next().await? {
        cache.add(file).await?;
    }
    Ok(())
}

/// One file, however often its stream breaks: it goes on from the last byte.
async fn download<S: Store>(
    store: &S,
    file: &RemoteFile,
    revision: &str,
    part: &Path,
    target: &Path,
    progress: &Progress,
) -> Result<(), SourceError> {
    let mut writer = Part::create(part).await?;
    let mut attempt = 1;
    loop {
        let before = writer.length;
        match copy(store, file, revision, &mut writer, progress).await {
            Ok(()) => break,
            Err(error) if !error.retryable() => return Err(error),
            Err(error) => {
                attempt = if writer.length > before { 1 } else { attempt + 1 };
                if attempt > ATTEMPTS {
                    return Err(error);
                }
                tracing::warn!(%error, file = %file.path, at = writer.length, of = file.size, "download broke off: going on");
                sleep(BACKOFF * 2_u32.pow(attempt - 1)).await;
            }
        }
    }
    writer.finish().await?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).await.map_err(|e| SourceError::cache(folder, e))?;
    }
    fs::rename(part, target).await.map_err(|e| SourceError::cache(target, e))
}

/// Appends what `writer` lacks of `file`. Ok only when it is whole.
async fn copy<S: Store>(
    store: &S,
    file: &RemoteFile,
    revision: &str,
    writer: &mut Part<'_>,
    progress: &Progress,
) -> Result<(), SourceError> {
    let incomplete =
        |problem: String| SourceError::Incomplete { what: format!("{} of {}", file.path, store.name()), problem };
    let silent = || no_answer(store, format!("{} of {}", file.path, store.name()));
    if writer.length < file.size || file.size == 0 {
        let mut chunks = timeout(ANSWER, store.open(file, revision, writer.length)).await.map_err(|_| silent())??;
        while let Some(chunk) = timeout(STALL, chunks.next()).await.map_err(|_| silent())? {
            let chunk = chunk?;
            if writer.length + chunk.len() as u64 > file.size {
                return Err(incomplete(format!(
                    "more came than the {} bytes that were listed; it may have changed",
                    file.size
                )));
            }
            writer.write(&chunk).await?;
            progress.add(chunk.len() as u64);
        }
    }
    if writer.length == file.size {
        Ok(())
    } else {
        Err(incomplete(format!("it ended after {} of {} bytes", writer.length, file.size)))
    }
}

fn no_answer<S: Store>(store: &S, what: String) -> SourceError {
    SourceError::Unreachable { what, endpoint: store.endpoint(), said: "it does not answer".into() }
}

/// Names a state of files that their store has no name for: equal exactly when paths and ETags are.
fn digest(files: &[RemoteFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(format!("{}\0{}\0", file.path, file.etag));
    }
    hex::encode(hash.finalize())
}

/// A file while it is written.
struct Part<'a> {
    path: &'a Path,
    file: BufWriter<fs::File>,
    length: u64,
}

impl<'a> Part<'a> {
    async fn create(path: &'a Path) -> Result<Self, SourceError> {
        let file = fs::File::create(path).await.map_err(|e| SourceError::cache(path, e))?;
        Ok(Self { path, file: BufWriter::with_capacity(WRITE_BUFFER, file), length: 0 })
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), SourceError> {
        self.file.write_all(chunk).await.map_err(|e| SourceError::cache(self.path, e))?;
        self.length += chunk.len() as u64;
        Ok(())
    }

    async fn finish(mut self) -> Result<(), SourceError> {
        self.file.flush().await.map_err(|e| SourceError::cache(self.path, e))
    }
}

/// A model's folder in the cache: `files/` is the model, `parts/` what is on its way, `manifest.json` says what is whole.
struct Cache {
    folder: PathBuf,
    manifest: Manifest,
}

/// What the files are. Kept on disk, and written after every file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    /// Where they come from; another source starts anew.
    source: String,
    /// Set while all of them are there.
    #[serde(default)]
    revision: Option<String>,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    etag: String,
}

impl Cache {
    async fn open(folder: &Path, source: String) -> Result<Self, SourceError> {
        let mut cache = Self { folder: folder.to_owned(), manifest: Manifest::default() };
        // An unreadable manifest is as good as none: everything is downloaded again.
        let known =
            fs::read(cache.manifest_path()).await.ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
        cache.manifest = known.filter(|known| known.source == source).unwrap_or_default();
        cache.manifest.source = source;
        if cache.manifest.files.is_empty() {
            remove_folder(&cache.files_dir()).await?;
        }
        remove_folder(&cache.parts_dir()).await?;
        for dir in [cache.files_dir(), cache.parts_dir()] {
            fs::create_dir_all(&dir).await.map_err(|e| SourceError::cache(&dir, e))?;
        }
        Ok(cache)
    }

    fn files_dir(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn parts_dir(&self) -> PathBuf {
        self.folder.join("parts")
    }

    fn manifest_path(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    async fn is_whole(&self, path: &str, size: u64) -> bool {
        fs::metadata(self.files_dir().join(path)).await.is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// The revision of the model that is there, if all of it is.
    async fn whole(&self) -> Option<String> {
        for (path, entry) in &self.manifest.files {
            if !self.is_whole(path, entry.size).await {
                return None;
            }
        }
        self.manifest.revision.clone()
    }

    /// Deletes what the model no longer has or has otherwise (a loader takes what it finds) and gives what is missing.
    async fn prepare(&mut self, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, SourceError> {
        let mut stale = std::mem::take(&mut self.manifest.files);
        let mut missing = Vec::new();
        for file in files {
            let entry = Entry { size: file.size, etag: file.etag.clone() };
            if stale.get(&file.path) == Some(&entry) && self.is_whole(&file.path, file.size).await {
                stale.remove(&file.path);
                self.manifest.files.insert(file.path, entry);
            } else {
                missing.push(file);
            }
        }
        if !missing.is_empty() || !stale.is_empty() {
            self.manifest.revision = None;
            self.save().await?;
        }
        for path in stale.into_keys() {
            let file = self.files_dir().join(path);
            match fs::remove_file(&file).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SourceError::cache(&file, error));
                }
                _ => {}
            }
        }
        Ok(missing)
    }

    async fn add(&mut self, file: RemoteFile) -> Result<(), SourceError> {
        self.manifest.files.insert(file.path, Entry { size: file.size, etag: file.etag });
        self.save().await
    }

    async fn finish(&mut self, revision: String) -> Result<(), SourceError> {
        self.manifest.revision = Some(revision);
        self.save().await
    }

    async fn save(&self) -> Result<(), SourceError> {
        let (path, new) = (self.manifest_path(), self.parts_dir().join("manifest.json"));
        let text = serde_json::to_vec_pretty(&self.manifest).map_err(|e| SourceError::cache(&path, e.into()))?;
        fs::write(&new, text).await.map_err(|e| SourceError::cache(&new, e))?;
        fs::rename(&new, &path).await.map_err(|e| SourceError::cache(&path, e))
    }
}

async fn remove_folder(folder: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SourceError::cache(folder, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
