//! Brings a cache folder in step with a store, or waits for the worker that does so. A manifest remembers what every file
//! was, so what has not changed is not downloaded again.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

use super::cache::{Cache, create_folder};
use super::error::SourceError;
use super::lock::Lock;
use super::part::{Part, Writer};
use super::pick::pick;
use super::store::{RemoteFile, Store};
use super::{Fetched, Hold, Progress};
use crate::run::worker_name;

/// Requests that bring bytes at a time, over all files: what fills a 10 Gbit/s line from S3, which gives each some
/// 90 MB/s. Each needs a megabyte or two.
const STREAMS: usize = 16;
/// Attempts in a row that bring nothing before a file is given up; any bytes that come start the count anew.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubled for each one after it.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait for a store to begin its answer; the clients' own retries lie within.
const ANSWER: Duration = Duration::from_secs(90);
/// Longest pause between two pieces of a file.
pub(super) const STALL: Duration = Duration::from_secs(20);
/// How soon a worker that waits for others looks whether it still must; a little later each time, up to `SLOWEST` times
/// as late.
const LOOK: Duration = Duration::from_millis(500);
const SLOWEST: u32 = 4;
/// How often it says so.
const SAY: Duration = Duration::from_secs(10);

/// What a store holds of a model, as far as it is loaded.
struct Wanted {
    files: Vec<RemoteFile>,
    revision: String,
}

/// Fetches the model in `store` into `folder`, alone or after others. Where the store cannot be reached and the folder
/// holds the whole model from before, that is used.
pub(super) async fn fetch<S: Store>(
    store: &S,
    variant: Option<&str>,
    folder: &Path,
    progress: &Progress,
) -> Result<(Fetched, Hold), SourceError> {
    create_folder(folder).await?;
    let place = Place { folder, source: source(store, variant), who: worker_name() };
    let mut lock = Lock::open(folder)?;
    let mut queue = Queue::default();
    let mut listed = wanted(store, variant).await;
    loop {
        let why = if lock.try_read() {
            if let Some((fetched, cache)) = place.find(&listed).await {
                tracing::info!(revision = fetched.revision, "model {} is in the cache", progress.description());
                return Ok((fetched, Hold::new(lock, cache)));
            }
            lock.release();
            let wanted = listed?;
            if lock.try_write(&place.who) {
                let brought = place.bring(store, &wanted, lock.works, progress).await;
                lock.release();
                brought?;
                listed = Ok(wanted);
                continue;
            }
            listed = Ok(wanted);
            "others that read its former files to have loaded them".to_owned()
        } else {
            format!("{} to have downloaded it", lock.writer())
        };
        queue.wait(progress, &why).await;
        if lock.try_read() {
            // what was listed before the wait may be another state than the one that was waited for
            lock.release();
            listed = wanted(store, variant).await;
        }
    }
}

/// What names a model's files, whatever their state: the same for all workers that may share them.
pub(super) fn source<S: Store>(store: &S, variant: Option<&str>) -> String {
    format!("{} {} {}", store.endpoint(), store.name(), variant.unwrap_or("-"))
}

async fn wanted<S: Store>(store: &S, variant: Option<&str>) -> Result<Wanted, SourceError> {
    let listing = timeout(ANSWER, store.list()).await.unwrap_or_else(|_| Err(no_answer(store, store.name())))?;
    let files = pick(listing.files, variant)
        .map_err(|error| SourceError::Incomplete { what: store.name(), problem: error.to_string() })?;
    let revision = listing.revision.unwrap_or_else(|| digest(&files));
    Ok(Wanted { files, revision })
}

/// A folder of the cache, and whose it is to be.
struct Place<'a> {
    folder: &'a Path,
    source: String,
    who: String,
}

impl Place<'_> {
    /// What is wanted, if all of it is there; what is there, if nobody can say what is wanted.
    async fn find(&self, wanted: &Result<Wanted, SourceError>) -> Option<(Fetched, Cache)> {
        let cache = Cache::read(self.folder, &self.source, &self.who).await;
        let revision = match wanted {
            Ok(wanted) => cache.has(&wanted.files).await.then(|| wanted.revision.clone()),
            Err(error @ SourceError::Unreachable { .. }) => {
                let whole = cache.whole().await;
                if whole.is_some() {
                    tracing::warn!(%error, "the model's source cannot be reached: using the copy in the cache");
                }
                whole
            }
            Err(_) => None,
        };
        revision.map(|revision| (Fetched { dir: cache.files_dir(), revision: Some(revision) }, cache))
    }

    /// Brings the folder in step.
    async fn bring<S: Store>(
        &self,
        store: &S,
        wanted: &Wanted,
        alone: bool,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let mut cache = Cache::open(self.folder, &self.source, &self.who).await?;
        let missing = cache.prepare(wanted.files.clone()).await?;
        let folder = cache.parts(&missing, alone).await?;
        let (count, of) = (missing.len(), wanted.files.len());
        let mut parts = Vec::with_capacity(count);
        for file in missing {
            parts.push(Part::open(&folder, file, store.piece()).await?);
        }
        let (size, bytes): (u64, u64) = parts.iter().fold((0, 0), |(a, b), p| (a + p.file.size, b + p.missing()));
        progress.begin(bytes);
        tracing::info!(
            revision = wanted.revision,
            resumed_bytes = size - bytes,
            "model {progress} to download, {count} of {of} files"
        );
        let started = Instant::now();
        progress.logged(download_all(store, &parts, wanted, &mut cache, progress)).await?;
        cache.finish(wanted.revision.clone()).await?;
        if !Cache::read(self.folder, &self.source, &self.who).await.has(&wanted.files).await {
            let problem =
                "what was downloaded is not in the cache: another worker without file locks may have changed it";
            return Err(SourceError::Incomplete { what: store.name(), problem: problem.into() });
        }
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(
            "model {progress} downloaded in {seconds:.1} s, {:.0} MB/s",
            bytes as f64 / seconds.max(0.001) / 1e6
        );
        Ok(())
    }
}

/// Waiting for others.
#[derive(Default)]
struct Queue {
    since: Option<Instant>,
    said: Option<Instant>,
    looks: u32,
}

impl Queue {
    /// Waits a moment, and says for what every few seconds.
    async fn wait(&mut self, progress: &Progress, why: &str) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if self.said.is_none_or(|said| now - said >= SAY) {
            self.said = Some(now);
            let seconds = (now - since).as_secs();
            tracing::info!(waited_seconds = seconds, "model {}: waiting for {why}", progress.description());
        }
        self.looks = (self.looks + 1).min(SLOWEST);
        // not all at once, so that of several who are refused for each other's sake one gets it
        sleep((LOOK * self.looks).mul_f64(rand::random_range(0.5..1.5))).await;
    }
}

async fn download_all<S: Store>(
    store: &S,
    parts: &[Part],
    wanted: &Wanted,
    cache: &mut Cache,
    progress: &Progress,
) -> Result<(), SourceError> {
    let dir = cache.files_dir();
    let ranges = parts.iter().flat_map(|part| part.ranges.iter().map(move |range| (part, range)));
    let mut downloads = stream::iter(ranges)
        .map(|(part, range)| {
            let target = dir.join(&part.file.path);
            async move {
                download(store, part, range, &wanted.revision, progress).await?;
                if !part.count_down() {
                    return Ok(None);
                }
                settle(store, part, &wanted.revision, target).await?;
                Ok::<_, SourceError>(Some(part.file.clone()))
            }
        })
        .buffer_unordered(STREAMS);
    while let Some(done) = downloads.try_next().await? {
        if let Some(file) = done {
            cache.add(file).await?;
        }
    }
    Ok(())
}

/// One range of a file, however often its stream breaks: it goes on from the last byte.
async fn download<S: Store>(
    store: &S,
    part: &Part,
    range: &Range<u64>,
    revision: &str,
    progress: &Progress,
) -> Result<(), SourceError> {
    let mut writer = part.writer(range).await?;
    let mut attempt = 1;
    while !writer.rest().is_empty() {
        let before = writer.rest();
        if let Err(error) = copy(store, &part.file, revision, &mut writer, progress).await {
            attempt = if writer.rest() == before { attempt + 1 } else { 1 };
            if writer.spoiled || !error.retryable() || attempt > ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, file = %part.file.path, at = writer.rest().start, of = part.file.size, "download broke off: going on");
            sleep(BACKOFF * 2_u32.pow(attempt - 1)).await;
        }
    }
    writer.finish().await
}

/// Appends what `writer` lacks of its range. Ok only when that is whole.
async fn copy<S: Store>(
    store: &S,
    file: &RemoteFile,
    revision: &str,
    writer: &mut Writer<'_>,
    progress: &Progress,
) -> Result<(), SourceError> {
    let what = || format!("{} of {}", file.path, store.name());
    let silent = || no_answer(store, what());
    let asked = writer.rest();
    let mut chunks = timeout(ANSWER, store.open(file, revision, asked.clone())).await.map_err(|_| silent())??;
    while let Some(chunk) = timeout(STALL, chunks.next()).await.map_err(|_| silent())? {
        let chunk = chunk?;
        let rest = writer.rest();
        if chunk.len() as u64 > rest.end - rest.start {
            writer.spoil().await;
            let count = asked.end - asked.start;
            let problem = format!("more came than the {count} bytes that were asked for; it may have changed");
            return Err(SourceError::Incomplete { what: what(), problem });
        }
        writer.write(&chunk).await?;
        progress.add(chunk.len() as u64);
    }
    let rest = writer.rest();
    if rest.is_empty() {
        return Ok(());
    }
    let problem = format!("it ended after {} of {} bytes", rest.start, file.size);
    Err(SourceError::Incomplete { what: what(), problem })
}

/// Moves a file that has come to its place, if it is what the store says.
async fn settle<S: Store>(store: &S, part: &Part, revision: &str, target: PathBuf) -> Result<(), SourceError> {
    let what = || format!("{} of {}", part.file.path, store.name());
    let told = timeout(ANSWER, store.checksum(&part.file, revision)).await.map_err(|_| no_answer(store, what()))??;
    if let Some(checksum) = told {
        let name = checksum.algorithm.as_str();
        if !part.is(checksum).await? {
            part.discard().await;
            let problem = format!(
                "what came does not have the {name} checksum that the store tells; it is downloaded again, and if this lasts upload it again"
            );
            return Err(SourceError::Incomplete { what: what(), problem });
        }
    }
    part.finish(&target).await
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

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
