//! A file on its way: as long as it will be from the start, filled in by several ranges at a time. A long one has a
//! journal of what is there, so whoever comes after a worker that was killed downloads only the rest.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::task::spawn_blocking;

use super::cache::boot;
use super::checksum::Checksum;
use super::error::SourceError;
use super::store::RemoteFile;

/// What is written at a time.
const BUFFER: usize = 1 << 20;
/// Most bytes of a range that are there and not in the journal.
const NOTE_EVERY: u64 = 32 << 20;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: RemoteFile,
    path: PathBuf,
    journal: Option<PathBuf>,
    /// What is to be downloaded, cut to the store's measure. One empty range if nothing is.
    pub(super) ranges: Vec<Range<u64>>,
    /// Ranges that are not done.
    left: AtomicUsize,
}

/// The journal's first line: what its file is a part of. The ranges that are there follow, one a line: `0-33554432`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heading {
    path: String,
    size: u64,
    etag: String,
    /// What a system had not yet written to the disk when it went down is not there, whatever the journal says.
    boot: Option<String>,
}

impl Part {
    /// What names `file` in a folder of parts.
    pub(super) fn name(file: &RemoteFile) -> String {
        hex::encode(&Sha256::digest(&file.path)[..12])
    }

    /// Goes on with what is in `folder`, or begins. No range is longer than `piece`.
    pub(super) async fn open(folder: &Path, file: RemoteFile, piece: u64) -> Result<Self, SourceError> {
        let path = folder.join(Self::name(&file));
        let journal = path.with_extension("journal");
        let heading = Heading { path: file.path.clone(), size: file.size, etag: file.etag.clone(), boot: boot().await };
        let whole = fs::metadata(&path).await.is_ok_and(|found| found.len() == file.size);
        let there = match fs::read_to_string(&journal).await {
            Ok(text) if whole => noted(&text, &heading),
            _ => Vec::new(),
        };
        if there.is_empty() {
            let new = fs::File::create(&path).await.map_err(|error| SourceError::cache(&path, error))?;
            new.set_len(file.size).await.map_err(|error| SourceError::cache(&path, error))?;
        }
        let ranges = missing(file.size, &there, piece);
        let is_long = file.size > NOTE_EVERY.min(piece);
        if is_long {
            let mut text = serde_json::to_string(&heading).map_err(|e| SourceError::cache(&journal, e.into()))?;
            text.push('\n');
            text.extend(there.iter().map(line));
            fs::write(&journal, text).await.map_err(|error| SourceError::cache(&journal, error))?;
        }
        let left = AtomicUsize::new(ranges.len());
        Ok(Self { file, path, journal: is_long.then_some(journal), ranges, left })
    }

    /// Bytes that are not there yet.
    pub(super) fn missing(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// One more range is done. True for the last one.
    pub(super) fn count_down(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Writes one range.
    pub(super) async fn writer(&self, range: &Range<u64>) -> Result<Writer<'_>, SourceError> {
        let path = self.path.clone();
        let file = blocking(&self.path, move || File::options().write(true).open(path)).await?;
        let (at, noted) = (range.start, range.start);
        Ok(Writer { part: self, file: Arc::new(file), buffer: Vec::new(), at, noted, end: range.end, spoiled: false })
    }

    /// Whether what was written has this checksum.
    pub(super) async fn is(&self, checksum: Checksum) -> Result<bool, SourceError> {
        let path = self.path.clone();
        blocking(&self.path, move || checksum.is_of(&path)).await
    }

    /// Moves it to its place, whole.
    pub(super) async fn finish(&self, target: &Path) -> Result<(), SourceError> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).await.map_err(|error| SourceError::cache(folder, error))?;
        }
        fs::rename(&self.path, target).await.map_err(|error| SourceError::cache(target, error))?;
        self.forget().await;
        Ok(())
    }

    /// Throws away what was written.
    pub(super) async fn discard(&self) {
        self.forget().await;
        // without a journal nothing of it is used again
        drop(fs::remove_file(&self.path).await);
    }

    async fn forget(&self) {
        if let Some(journal) = &self.journal {
            drop(fs::remove_file(journal).await);
        }
    }
}

/// One range while it is written.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    part: &'a Part,
    file: Arc<File>,
    /// What comes next into the file.
    buffer: Vec<u8>,
    /// Where it goes.
    at: u64,
    /// Up to where the journal says that all is there.
    noted: u64,
    end: u64,
    /// The part was thrown away.
    pub(super) spoiled: bool,
}

impl Writer<'_> {
    /// What is still to come.
    pub(super) fn rest(&self) -> Range<u64> {
        self.at + self.buffer.len() as u64..self.end
    }

    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<(), SourceError> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        self.flush().await?;
        if self.at - self.noted >= NOTE_EVERY { self.note().await } else { Ok(()) }
    }

    /// All of the range has come.
    pub(super) async fn finish(&mut self) -> Result<(), SourceError> {
        self.flush().await?;
        self.note().await
    }

    /// What came is of another file: nothing of the part can be trusted.
    pub(super) async fn spoil(&mut self) {
        self.spoiled = true;
        self.part.discard().await;
    }

    async fn flush(&mut self) -> Result<(), SourceError> {
        let (file, buffer, at) = (Arc::clone(&self.file), std::mem::take(&mut self.buffer), self.at);
        let count = buffer.len() as u64;
        let write = move || file.write_all_at(&buffer, at).map(|()| buffer);
        self.buffer = blocking(&self.part.path, write).await?;
        self.buffer.clear();
        self.at += count;
        Ok(())
    }

    async fn note(&mut self) -> Result<(), SourceError> {
        let Some(journal) = self.part.journal.clone() else { return Ok(()) };
        let line = line(&(self.noted..self.at));
        let append = move || File::options().append(true).open(journal)?.write_all(line.as_bytes());
        blocking(&self.part.path, append).await?;
        self.noted = self.at;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    let done = spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|error| SourceError::cache(path, error))
}

fn line(range: &Range<u64>) -> String {
    format!("{}-{}\n", range.start, range.end)
}

/// The ranges that a journal says are there, if it is of this file. A line that was cut off as it was written says less
/// or nothing.
fn noted(journal: &str, heading: &Heading) -> Vec<Range<u64>> {
    let mut lines = journal.lines();
    let of = lines.next().and_then(|line| serde_json::from_str::<Heading>(line).ok());
    if of.as_ref() != Some(heading) {
        return Vec::new();
    }
    let range = |line: &str| {
        let (start, end) = line.split_once('-')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        (start < end && end <= heading.size).then_some(start..end)
    };
    lines.filter_map(range).collect()
}

/// What `there` leaves of a file, in ranges of at most `piece`; one empty range if it leaves nothing.
fn missing(size: u64, there: &[Range<u64>], piece: u64) -> Vec<Range<u64>> {
    let mut there = there.to_vec();
    there.sort_by_key(|range| range.start);
    there.push(size..size);
    let mut ranges = Vec::new();
    let mut at = 0;
    for Range { start, end } in there {
        while at < start {
            let next = start.min(at.saturating_add(piece));
            ranges.push(at..next);
            at = next;
        }
        at = at.max(end);
    }
    if ranges.is_empty() {
        ranges.push(size..size);
    }
    ranges
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
