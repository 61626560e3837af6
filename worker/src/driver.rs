//! NVIDIA's driver as this pod has it, read from files: the CPU build links none of NVIDIA's libraries, and the CUDA build
//! does not even start without them.

use std::cmp::Ordering;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What programs load to talk to the driver; the container runtime links it to a file that ends in the version.
const LIBRARY: &str = "libcuda.so.1";
/// Where the loader looks besides its cache.
const FOLDERS: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// The oldest driver that takes what a CUDA version compiled, for Linux (the release notes of CUDA, "Toolkit Driver
/// Version", first release of each). That drivers serve later minor versions too does not help here: candle's kernels are
/// PTX, which a driver compiles only up to its own version of it.
const NEEDED: [(&str, &str); 10] = [
    ("12.2", "535.54.03"),
    ("12.3", "545.23.06"),
    ("12.4", "550.54.14"),
    ("12.5", "555.42.02"),
    ("12.6", "560.28.03"),
    ("12.8", "570.26"),
    ("12.9", "575.51.03"),
    ("13.0", "580.65.06"),
    ("13.1", "590.44.01"),
    ("13.2", "595.45.04"),
];

/// A driver's version, such as 570.124.06.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    parts: Vec<u32>,
    text: String,
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts = text.split('.').map(|part| part.parse().map_err(drop)).collect::<Result<Vec<u32>, ()>>()?;
        if parts.len() < 2 { Err(()) } else { Ok(Self { parts, text: text.into() }) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

/// What was found of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The node has none.
    Missing,
    /// The node has one, and the pod was not given its libraries.
    Withheld(Version),
    /// The pod has it; of a version that is not told by its files where there is none here.
    Found(Option<Version>),
}

impl Driver {
    /// Looks for it below `root` ("/"), and in `search` (`LD_LIBRARY_PATH`) first, as the loader does.
    ///
    /// The library counts and not the kernel's module: where the container runtime has put NVIDIA's forward-compatible
    /// library into place, an old module serves a newer CUDA.
    pub fn find(root: &Path, search: &str) -> Self {
        let files: Vec<_> = libraries(root, search).iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        if !files.is_empty() {
            return Self::Found(files.iter().filter_map(|file| version_of(file)).max());
        }
        let module = fs::read_to_string(below(root, "/proc/driver/nvidia/version")).unwrap_or_default();
        module.split_whitespace().find_map(|word| word.parse().ok()).map_or(Self::Missing, Self::Withheld)
    }
}

/// The oldest driver that runs kernels of CUDA `version` (12.8.1); none where that is not known.
pub fn needed(version: &str) -> Option<Version> {
    let mut parts = version.split('.');
    let minor = format!("{}.{}", parts.next()?, parts.next()?);
    NEEDED.iter().find(|(cuda, _)| *cuda == minor).and_then(|(_, driver)| driver.parse().ok())
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Wherever the loader may find the library.
fn libraries(root: &Path, search: &str) -> Vec<PathBuf> {
    let cache = fs::read(below(root, "/etc/ld.so.cache")).unwrap_or_default();
    // a table of numbers, then names that end in a zero byte
    let cached = cache.split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok());
    let cached = cached.filter(|name| name.starts_with('/') && name.ends_with(&format!("/{LIBRARY}")));
    let searched = search.split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join(LIBRARY));
    let usual = FOLDERS.iter().map(|folder| below(root, folder).join(LIBRARY));
    searched.chain(cached.map(|name| below(root, name))).chain(usual).collect()
}

/// The version that a library's file is named by.
fn version_of(file: &Path) -> Option<Version> {
    file.file_name()?.to_str()?.strip_prefix("libcuda.so.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    /// A folder with the library of `version` in it.
    fn library(folder: &Path, version: &str) {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join(format!("libcuda.so.{version}"));
        fs::write(&file, "").unwrap();
        symlink(file.file_name().unwrap(), folder.join(LIBRARY)).unwrap();
    }

    fn module(root: &Path, line: &str) {
        fs::create_dir_all(root.join("proc/driver/nvidia")).unwrap();
        fs::write(root.join("proc/driver/nvidia/version"), line).unwrap();
    }

    #[test]
    fn versions_compare_by_number() {
        for (older, newer) in [("570.26", "570.124.06"), ("535.104.05", "570.26"), ("570.26", "570.26.01")] {
            assert!(version(older) < version(newer), "{older} {newer}");
        }
        assert_eq!(version("570.124.06").to_string(), "570.124.06");
        assert!("x86_64".parse::<Version>().is_err() && "570".parse::<Version>().is_err());
    }

    #[test]
    fn cuda_needs_the_driver_of_its_minor_version() {
        assert_eq!(needed("12.8.1"), Some(version("570.26")));
        assert_eq!(needed("13.0"), Some(version("580.65.06")));
        for unknown in ["12.7.0", "99.0", "12", ""] {
            assert_eq!(needed(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_node_without_a_driver_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Driver::find(root.path(), ""), Driver::Missing);
    }

    #[test]
    fn a_module_without_a_library_is_a_driver_that_the_pod_was_not_given() {
        let lines = [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build",
        ];
        for line in lines {
            let root = tempfile::tempdir().unwrap();
            module(root.path(), line);
            assert_eq!(Driver::find(root.path(), ""), Driver::Withheld(version("535.104.05")), "{line}");
        }
    }

    #[test]
    fn the_newest_library_counts_whatever_the_module_is() {
        let root = tempfile::tempdir().unwrap();
        module(root.path(), "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19");
        library(&root.path().join("usr/lib/x86_64-linux-gnu"), "535.104.05");
        assert_eq!(Driver::find(root.path(), ""), Driver::Found(Some(version("535.104.05"))));

        library(&root.path().join("usr/local/cuda/compat"), "570.124.06");
        let still = Driver::Found(Some(version("535.104.05")));
        assert_eq!(Driver::find(root.path(), ""), still, "no loader looks there by itself");
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/ld.so.cache"),
            b"glibc\x01\0\0libcuda.so.1\0/usr/local/cuda/compat/libcuda.so.1\0",
        )
        .unwrap();
        assert_eq!(Driver::find(root.path(), ""), Driver::Found(Some(version("570.124.06"))));

        let more = tempfile::tempdir().unwrap();
        library(more.path(), "580.65.06");
        let search = format!(":/nowhere:{}", more.path().display());
        assert_eq!(Driver::find(root.path(), &search), Driver::Found(Some(version("580.65.06"))));
    }

    #[test]
    fn a_library_whose_name_does_not_tell_is_one_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib64")).unwrap();
        fs::write(root.path().join("usr/lib64/libcuda.so.1"), "").unwrap();
        assert_eq!(Driver::find(root.path(), ""), Driver::Found(None));
    }
}
