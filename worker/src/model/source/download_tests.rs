//! The download against a store in memory that can be told to break off, change and fall silent.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures::stream;

use super::super::store::{Chunks, Listing};
use super::*;

/// What the next opened stream does instead of giving all bytes from the offset on.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Gives so many bytes and then an error.
    BreakAfter(usize),
    /// Gives so many bytes and then ends, as if that were all.
    EndAfter(usize),
    /// Gives so many bytes and then nothing more.
    StallAfter(usize),
    /// Ignores the offset.
    FromStart,
    /// Refuses.
    Deny,
}

#[derive(Debug, Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    troubles: Mutex<Vec<Trouble>>,
    opened: Mutex<Vec<(String, u64)>>,
    offline: Mutex<bool>,
}

impl Memory {
    fn with(files: &[(&str, &str)]) -> Self {
        let store = Self::default();
        for (path, content) in files {
            store.put(path, content);
        }
        store
    }

    fn put(&self, path: &str, content: &str) {
        self.files.lock().unwrap().insert(path.into(), content.into());
    }

    fn troubles(&self, troubles: &[Trouble]) {
        *self.troubles.lock().unwrap() = troubles.iter().rev().copied().collect();
    }

    /// What was opened since the last call: path and offset, in order of the path.
    fn opened(&self) -> Vec<(String, u64)> {
        let mut opened = std::mem::take(&mut *self.opened.lock().unwrap());
        opened.sort();
        opened
    }

    fn down() -> SourceError {
        SourceError::Unreachable { what: "m".into(), endpoint: "memory".into(), said: "down".into() }
    }
}

impl Store for Memory {
    fn name(&self) -> String {
        "mem://m".into()
    }

    fn endpoint(&self) -> String {
        "memory".into()
    }

    async fn list(&self) -> Result<Listing, SourceError> {
        if *self.offline.lock().unwrap() {
            return Err(Self::down());
        }
        let files = self.files.lock().unwrap();
        let files = files.iter().map(|(path, content)| RemoteFile {
            path: path.clone(),
            size: content.len() as u64,
            etag: hex::encode(Sha256::digest(content)),
        });
        Ok(Listing { files: files.collect(), revision: None })
    }

    async fn open(&self, file: &RemoteFile, _: &str, from: u64) -> Result<Chunks, SourceError> {
        self.opened.lock().unwrap().push((file.path.clone(), from));
        let content = self.files.lock().unwrap()[&file.path].clone();
        let rest = content[from as usize..].to_vec();
        let chunk = |bytes: &[u8]| Ok(Bytes::copy_from_slice(bytes));
        Ok(match self.troubles.lock().unwrap().pop() {
            None => stream::iter([chunk(&rest)]).boxed(),
            Some(Trouble::BreakAfter(n)) => stream::iter([chunk(&rest[..n]), Err(Self::down())]).boxed(),
            Some(Trouble::EndAfter(n)) => stream::iter([chunk(&rest[..n])]).boxed(),
            Some(Trouble::StallAfter(n)) => stream::iter([chunk(&rest[..n])]).chain(stream::pending()).boxed(),
            Some(Trouble::FromStart) => stream::iter([chunk(&content)]).boxed(),
            Some(Trouble::Deny) => {
                return Err(SourceError::AccessDenied { what: "m".into(), said: "no".into(), fix: "ask".into() });
            }
        })
    }
}

const MODEL: &[(&str, &str)] =
    &[("model_index.json", "{}"), ("unet/model.safetensors", "0123456789"), ("unet/empty.txt", "")];

struct Bench {
    store: Memory,
    folder: tempfile::TempDir,
    progress: Progress,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        Self { store: Memory::with(files), folder: tempfile::tempdir().unwrap(), progress: Progress::new("mem://m") }
    }

    async fn fetch(&self) -> Result<Fetched, SourceError> {
        fetch(&self.store, None, self.folder.path(), &self.progress).await
    }

    fn content(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("files").join(path)).ok()
    }
}

#[tokio::test]
async fn a_second_fetch_downloads_nothing() {
    let bench = Bench::new(MODEL);
    let first = bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened().len(), 3);
    assert_eq!((bench.progress.done_bytes(), bench.progress.total_bytes()), (12, 12));
    for (path, content) in MODEL {
        assert_eq!(std::fs::read_to_string(first.dir.join(path)).unwrap(), *content);
    }
    let second = bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), []);
    assert_eq!(second, first);
}

#[tokio::test]
async fn what_changed_or_was_damaged_comes_again_and_what_is_gone_goes() {
    let bench = Bench::new(&[MODEL, &[("vae/model.safetensors", "vae"), ("old.json", "1")]].concat());
    let first = bench.fetch().await.unwrap();
    bench.store.opened();

    bench.store.put("unet/model.safetensors", "9876543210"); // same size, other content
    bench.store.files.lock().unwrap().remove("old.json");
    std::fs::write(first.dir.join("vae/model.safetensors"), "v").unwrap(); // truncated
    let second = bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), [("unet/model.safetensors".into(), 0), ("vae/model.safetensors".into(), 0)]);
    assert_eq!(bench.content("unet/model.safetensors").unwrap(), "9876543210");
    assert_eq!(bench.content("vae/model.safetensors").unwrap(), "vae");
    assert_eq!(bench.content("old.json"), None);
    assert_ne!(second.revision, first.revision);
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_goes_on_from_its_last_byte() {
    for trouble in [Trouble::BreakAfter(4), Trouble::EndAfter(4), Trouble::StallAfter(4)] {
        let bench = Bench::new(&[("model.safetensors", "0123456789")]);
        bench.store.troubles(&[trouble]);
        bench.fetch().await.unwrap();
        let opened: Vec<u64> = bench.store.opened().into_iter().map(|(_, from)| from).collect();
        assert_eq!(opened, [0, 4], "{trouble:?}");
        assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789", "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_comes_is_given_up_and_what_came_is_kept() {
    let bench = Bench::new(&[("a.json", "{}"), ("model.safetensors", "0123456789")]);
    bench.fetch().await.unwrap();
    bench.store.put("model.safetensors", "9876543210");
    bench.store.opened();
    bench.store.troubles(&[Trouble::BreakAfter(0); 5]);
    let error = bench.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "ModelSourceUnreachable");
    assert!(error.retryable());
    assert_eq!(bench.store.opened().len(), 5);
    // nothing half-written is ever in the model's folder, and the rest is not downloaded again
    assert_eq!(bench.content("model.safetensors"), None);
    bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), [("model.safetensors".into(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_the_offset_is_noticed() {
    let bench = Bench::new(&[("model.safetensors", "0123456789")]);
    bench.store.troubles(&[&[Trouble::BreakAfter(4)][..], &[Trouble::FromStart; 5]].concat());
    let error = bench.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "ModelIncomplete");
    assert!(error.to_string().contains("more came than the 10 bytes"), "{error}");
    bench.fetch().await.unwrap();
    assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789");
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let bench = Bench::new(&[("model.safetensors", "0123456789")]);
    bench.store.troubles(&[Trouble::Deny]);
    assert_eq!(bench.fetch().await.unwrap_err().reason(), "ModelAccessDenied");
    assert_eq!(bench.store.opened().len(), 1);
}

#[tokio::test]
async fn an_unreachable_store_does_not_take_a_whole_model_away() {
    let bench = Bench::new(MODEL);
    *bench.store.offline.lock().unwrap() = true;
    assert_eq!(bench.fetch().await.unwrap_err().reason(), "ModelSourceUnreachable");

    *bench.store.offline.lock().unwrap() = false;
    let first = bench.fetch().await.unwrap();
    *bench.store.offline.lock().unwrap() = true;
    assert_eq!(bench.fetch().await.unwrap(), first);

    std::fs::remove_file(first.dir.join("model_index.json")).unwrap();
    assert_eq!(bench.fetch().await.unwrap_err().reason(), "ModelSourceUnreachable");
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let bench = Bench::new(MODEL);
    let blocked = bench.folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let error = fetch(&bench.store, None, &blocked.join("model"), &bench.progress).await.unwrap_err();
    assert_eq!(error.reason(), "CacheUnusable");
    assert!(error.to_string().contains("file/model"), "{error}");
}
