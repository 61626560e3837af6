//! A model's folder in the cache is changed by one worker alone, or read by any number, in whichever pods and on
//! whichever nodes they are.
//!
//! The lock is the system's own on a file in the folder (`flock`; on NFS the server's), so it goes with its holder,
//! however that ends. On a file system without locks a worker warns and goes on as if it were alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::SourceError;

/// The lock of one folder.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Whether the file system knows locks.
    pub(super) works: bool,
}

impl Lock {
    /// Of this folder, which exists. Nothing is held yet.
    pub(super) fn open(folder: &Path) -> Result<Self, SourceError> {
        let path = folder.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        Ok(Self { file: file.map_err(|error| SourceError::cache(&path, error))?, works: true })
    }

    /// Holds it together with others who read. False while somebody writes.
    pub(super) fn try_read(&mut self) -> bool {
        let tried = self.file.try_lock_shared();
        self.held(tried)
    }

    /// Holds it alone. False while somebody else has it. `who` is what others are told meanwhile.
    pub(super) fn try_write(&mut self, who: &str) -> bool {
        let tried = self.file.try_lock();
        let held = self.held(tried);
        if held {
            self.tell(who);
        }
        held
    }

    /// Lets go of it.
    pub(super) fn release(&mut self) {
        // nobody has it after this either way: closing the file, at the latest, lets go of it
        drop(self.file.unlock());
    }

    /// Who said that they write. Of use only while `try_read` says so: who is killed says nothing more.
    pub(super) fn writer(&mut self) -> String {
        let mut who = String::new();
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_to_string(&mut who));
        if read.is_ok() && !who.is_empty() { who } else { "another worker".into() }
    }

    /// For messages only, so it may fail.
    fn tell(&mut self, who: &str) {
        let written = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        drop(written.and_then(|_| self.file.write_all(who.as_bytes())));
    }

    fn held(&mut self, tried: Result<(), TryLockError>) -> bool {
        match tried {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => {
                if std::mem::replace(&mut self.works, false) {
                    tracing::warn!(%error, "the model cache's volume has no file locks: workers that share it may download the same files");
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let folder = tempfile::tempdir().unwrap();
        let [mut a, mut b, mut c] = [(); 3].map(|()| Lock::open(folder.path()).unwrap());
        assert!(a.try_read() && b.try_read());
        assert!(!c.try_write("c"), "two read it");
        a.release();
        assert!(!c.try_write("c"), "one reads it");
        drop(b);
        assert!(c.try_write("c"));
        assert!(!a.try_read() && !a.try_write("a"));
        assert_eq!(a.writer(), "c");
        c.release();
        assert!(a.try_write("a longer name than before"));
        assert!(!c.try_read());
        assert_eq!(c.writer(), "a longer name than before");
    }

    #[test]
    fn without_locks_everybody_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = Lock::open(folder.path()).unwrap();
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        assert!(lock.held(Err(TryLockError::Error(unsupported))) && !lock.works);
    }
}
