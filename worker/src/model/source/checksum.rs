//! Whether a file came as its store has it: the store's own checksum against the one of what was written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_smithy_checksums::ChecksumAlgorithm;

/// What is read at a time.
const BUFFER: usize = 1 << 20;

/// What a file's content must come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    /// How it is computed.
    pub(super) algorithm: ChecksumAlgorithm,
    /// What comes of it.
    pub(super) value: Vec<u8>,
}

impl Checksum {
    /// A SHA-256 in hexadecimal, if that is what `text` is.
    pub(super) fn sha256(text: &str) -> Option<Self> {
        let value = hex::decode(text).ok().filter(|value| value.len() == 32)?;
        Some(Self { algorithm: ChecksumAlgorithm::Sha256, value })
    }

    /// Whether the file has it. Reads all of it.
    pub(super) fn is_of(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut sum = self.algorithm.into_impl();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => return Ok(sum.finalize()[..] == self.value[..]),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            sum.update(&buffer[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that are published for "123456789".
    #[test]
    fn known_values_are_met_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "123456789").unwrap();
        for (algorithm, value) in [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (ChecksumAlgorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            let checksum = Checksum { algorithm, value: hex::decode(value).unwrap() };
            assert!(checksum.is_of(&path).unwrap(), "{algorithm:?}");
            std::fs::write(&path, "123456780").unwrap();
            assert!(!checksum.is_of(&path).unwrap(), "{algorithm:?}");
            std::fs::write(&path, "123456789").unwrap();
        }
    }

    #[test]
    fn only_a_sha256_is_taken_for_one() {
        assert!(Checksum::sha256(&"0a".repeat(32)).is_some());
        for text in ["linked", "", &"0a".repeat(20), &"0g".repeat(32)] {
            assert_eq!(Checksum::sha256(text), None, "{text}");
        }
    }
}
