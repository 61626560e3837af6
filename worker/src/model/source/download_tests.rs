//! The download against a store in memory that can be told to break off, change and fall silent; by workers that share
//! a folder, too, one of which is killed.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use bytes::Bytes;
use futures::stream;

use super::super::checksum::Checksum;
use super::super::store::{Chunks, Listing};
use super::*;

/// What the next opened stream does.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Gives so many bytes and then an error.
    BreakAfter(usize),
    /// Gives so many bytes and then ends, as if that were all.
    EndAfter(usize),
    /// Gives so many bytes and then nothing more.
    StallAfter(usize),
    /// Ignores the range.
    FromStart,
    /// Gives other bytes, as many as were asked for.
    Damaged,
    /// Refuses.
    Deny,
}

#[derive(Debug, Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    troubles: Mutex<Vec<Trouble>>,
    /// Of the range that ends there: ranges are opened in no order.
    troubles_until: Mutex<BTreeMap<u64, Vec<Trouble>>>,
    opened: Mutex<Vec<(String, u64)>>,
    offline: Mutex<bool>,
    /// Largest range, if there is one.
    piece: Option<u64>,
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

    fn troubles_until(&self, end: u64, troubles: &[Trouble]) {
        self.troubles_until.lock().unwrap().insert(end, troubles.iter().rev().copied().collect());
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

    fn piece(&self) -> u64 {
        self.piece.unwrap_or(u64::MAX)
    }

    async fn open(&self, file: &RemoteFile, _: &str, range: Range<u64>) -> Result<Chunks, SourceError> {
        self.opened.lock().unwrap().push((file.path.clone(), range.start));
        let content = self.files.lock().unwrap()[&file.path].clone();
        let rest = content[range.start as usize..range.end as usize].to_vec();
        let chunk = |bytes: &[u8]| Ok(Bytes::copy_from_slice(bytes));
        let own = self.troubles_until.lock().unwrap().get_mut(&range.end).and_then(Vec::pop);
        Ok(match own.or_else(|| self.troubles.lock().unwrap().pop()) {
            None => stream::iter([chunk(&rest)]).boxed(),
            Some(Trouble::Damaged) => stream::iter([chunk(&vec![b'?'; rest.len()])]).boxed(),
            Some(Trouble::BreakAfter(n)) => stream::iter([chunk(&rest[..n]), Err(Self::down())]).boxed(),
            Some(Trouble::EndAfter(n)) => stream::iter([chunk(&rest[..n])]).boxed(),
            Some(Trouble::StallAfter(n)) => stream::iter([chunk(&rest[..n])]).chain(stream::pending()).boxed(),
            Some(Trouble::FromStart) => stream::iter([chunk(&content)]).boxed(),
            Some(Trouble::Deny) => {
                return Err(SourceError::AccessDenied { what: "m".into(), said: "no".into(), fix: "ask".into() });
            }
        })
    }

    async fn checksum(&self, file: &RemoteFile, _: &str) -> Result<Option<Checksum>, SourceError> {
        Ok(Checksum::sha256(&file.etag))
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

    /// Fetches, and lets go of the files at once.
    async fn fetch(&self) -> Result<Fetched, SourceError> {
        self.fetch_and_hold().await.map(|(fetched, _)| fetched)
    }

    async fn fetch_and_hold(&self) -> Result<(Fetched, Hold), SourceError> {
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
    assert_eq!(bench.store.opened().len(), 2, "an empty file has nothing to download");
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
    bench.store.troubles(&[&[Trouble::BreakAfter(4)][..], &[Trouble::FromStart]].concat());
    let error = bench.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "ModelIncomplete");
    assert!(error.to_string().contains("more came than the 6 bytes"), "{error}");
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

#[tokio::test]
async fn a_damaged_file_is_not_taken() {
    let bench = Bench::new(&[("model.safetensors", "0123456789")]);
    bench.store.troubles(&[Trouble::Damaged]);
    let error = bench.fetch().await.unwrap_err();
    assert!(error.reason() == "ModelIncomplete" && error.retryable(), "{error}");
    assert!(
        error.to_string().contains("model.safetensors of mem://m") && error.to_string().contains("sha256"),
        "{error}"
    );
    assert_eq!(bench.content("model.safetensors"), None);
    bench.fetch().await.unwrap();
    assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_long_file_is_read_in_ranges_each_of_which_goes_on_by_itself() {
    let mut bench = Bench::new(&[("model.safetensors", "0123456789")]);
    bench.store.piece = Some(4);
    bench.store.troubles_until(4, &[Trouble::BreakAfter(3)]);
    bench.store.troubles_until(10, &[Trouble::StallAfter(1)]);
    bench.fetch().await.unwrap();
    let opened: Vec<u64> = bench.store.opened().into_iter().map(|(_, from)| from).collect();
    assert_eq!(opened, [0, 3, 4, 8, 9]);
    assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789");
    assert_eq!(bench.progress.done_bytes(), 10);
}

#[tokio::test(start_paused = true)]
async fn ranges_that_came_are_kept_when_the_download_fails() {
    let mut bench = Bench::new(&[("model.safetensors", "0123456789")]);
    bench.store.piece = Some(4);
    bench.store.troubles_until(8, &[Trouble::BreakAfter(0); 5]);
    bench.fetch().await.unwrap_err();
    bench.store.opened();
    bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), [("model.safetensors".into(), 4)]);
    assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789");
    assert_eq!(bench.progress.total_bytes(), 4);
}

#[tokio::test]
async fn parts_of_files_that_nobody_wants_any_more_go() {
    let bench = Bench::new(MODEL);
    let parts = bench.folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    for name in ["0123456789abcdef", "0123456789abcdef.journal"] {
        std::fs::write(parts.join(name), "left behind").unwrap();
    }
    bench.fetch().await.unwrap();
    assert_eq!(std::fs::read_dir(parts).unwrap().count(), 0);
}

#[tokio::test]
async fn of_workers_that_start_together_one_downloads() {
    let bench = Bench::new(MODEL);
    let (first, second, third) = tokio::join!(bench.fetch(), bench.fetch(), bench.fetch());
    assert_eq!(bench.store.opened(), [("model_index.json".into(), 0), ("unet/model.safetensors".into(), 0)]);
    assert_eq!(first.as_ref().unwrap(), second.as_ref().unwrap());
    assert_eq!(first.unwrap(), third.unwrap());
}

#[tokio::test(start_paused = true)]
async fn files_do_not_change_while_another_worker_reads_them() {
    let bench = Bench::new(MODEL);
    let (_, hold) = bench.fetch_and_hold().await.unwrap();
    bench.store.put("unet/model.safetensors", "9876543210");
    bench.store.files.lock().unwrap().remove("unet/empty.txt");
    let waited = timeout(Duration::from_mins(1), bench.fetch()).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(bench.content("unet/model.safetensors").unwrap(), "0123456789");
    assert!(bench.content("unet/empty.txt").is_some());

    hold.release().await;
    bench.fetch().await.unwrap();
    assert_eq!(bench.content("unet/model.safetensors").unwrap(), "9876543210");
    assert_eq!(bench.content("unet/empty.txt"), None);
}

/// Has the manifest say that another system than this one wrote the files.
fn restart(bench: &Bench) {
    let path = bench.folder.path().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["boot"] = "another".into();
    std::fs::write(path, manifest.to_string()).unwrap();
}

#[tokio::test]
async fn what_was_not_on_the_disk_is_not_trusted_after_a_restart_of_the_node() {
    let bench = Bench::new(MODEL);
    bench.fetch().await.unwrap();
    bench.store.opened();
    restart(&bench);
    let (_, hold) = bench.fetch_and_hold().await.unwrap();
    assert_eq!(bench.store.opened().len(), 2);

    hold.release().await;
    restart(&bench);
    bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), []);
}

/// Names the folder to the process that is killed.
const FOLDER: &str = "MILLRACE_TEST_SHARED_FOLDER";
const LONG: &[(&str, &str)] = &[("model.safetensors", "0123456789")];

/// What the process that is killed runs: it has the second of three ranges and waits for the others.
#[tokio::test]
async fn a_worker_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let mut store = Memory::with(LONG);
    store.piece = Some(4);
    store.troubles_until(4, &[Trouble::StallAfter(2)]);
    store.troubles_until(10, &[Trouble::StallAfter(0)]);
    drop(fetch(&store, None, Path::new(&folder), &Progress::new("mem://m")).await);
}

#[tokio::test]
async fn who_comes_after_a_killed_worker_downloads_the_rest() {
    let mut bench = Bench::new(LONG);
    bench.store.piece = Some(4);
    let name = "model::source::download::tests::a_worker_that_is_killed";
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", name]).env(FOLDER, bench.folder.path()).env("POD_NAME", "the-other");
    let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let parts = bench.folder.path().join("parts");
    let has_range = || {
        let entries = std::fs::read_dir(&parts).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|text| text.contains("\n4-8\n"))
    };
    while !has_range() {
        assert_eq!(other.try_wait().unwrap(), None);
        sleep(Duration::from_millis(20)).await;
    }
    // it waits for the other one, and says for whom
    assert!(timeout(Duration::from_secs(2), bench.fetch()).await.is_err());
    assert_eq!(bench.store.opened(), []);
    let mut lock = Lock::open(bench.folder.path()).unwrap();
    assert!(!lock.try_read());
    assert_eq!(lock.writer(), "the-other");
    drop(lock);

    other.kill().unwrap();
    other.wait().unwrap();
    bench.fetch().await.unwrap();
    assert_eq!(bench.store.opened(), [("model.safetensors".into(), 0), ("model.safetensors".into(), 8)]);
    assert_eq!(bench.content("model.safetensors").unwrap(), "0123456789");
}
