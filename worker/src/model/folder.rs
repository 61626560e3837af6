//! A published model's folder: where each file is, and what to say when it is not. Its parts (a text encoder, a UNet) lie
//! in folders of their own, and the part that is named "" in the folder itself.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::LoadError;
use super::source::only_gguf;
use super::weights::Weights;

/// Largest file besides weights, in bytes: indexes of sharded weights have a few hundred thousand, tokenizers a few million.
const MAX_SMALL: u64 = 64 << 20;

/// A model folder, and which variant of its weights is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Folder<'a> {
    root: &'a Path,
    variant: Option<&'a str>,
}

impl<'a> Folder<'a> {
    pub(super) fn open(root: &'a Path, variant: Option<&'a str>) -> Result<Self, LoadError> {
        if !root.is_dir() {
            let message = format!("the model folder {} does not exist or is not a folder", root.display());
            return Err(LoadError { reason: "ModelFileMissing", message });
        }
        Ok(Self { root, variant })
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    /// The path of a file that must be there and small. `file` is relative to the folder, as messages name it.
    pub(super) fn small(&self, file: &str) -> Result<PathBuf, LoadError> {
        let path = self.path(file);
        let bytes = std::fs::metadata(&path).map_err(|error| unreadable(file, &error))?.len();
        if bytes > MAX_SMALL {
            return Err(corrupt(file, &format!("it has {bytes} bytes; {MAX_SMALL} is the most")));
        }
        Ok(path)
    }

    /// Reads a small file. `file` is relative to the folder, as messages name it.
    pub(super) fn read(&self, file: &str) -> Result<Vec<u8>, LoadError> {
        std::fs::read(self.small(file)?).map_err(|error| unreadable(file, &error))
    }

    /// Reads a JSON file. `file` is relative to the folder, as messages name it.
    pub(super) fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, LoadError> {
        let content = self.read(file)?;
        serde_json::from_slice(&content).map_err(|error| corrupt(file, &error.to_string()))
    }

    /// Reads a component's settings, refusing those that would change the computation in a way not built here.
    /// `fixed` lists the only supported values of a setting; one that is absent has its library's default, which is among
    /// them.
    pub(super) fn config<T: DeserializeOwned>(&self, file: &str, fixed: &[(&str, &[Value])]) -> Result<T, LoadError> {
        let raw: Value = self.json(file)?;
        for (name, supported) in fixed {
            match raw.get(name) {
                Some(value) if !supported.contains(value) => {
                    let supported: Vec<_> = supported.iter().map(ToString::to_string).collect();
                    let only = supported.join(" or ");
                    return Err(unsupported(file, &format!("{name} is {value}; only {only} is supported")));
                }
                _ => {}
            }
        }
        serde_json::from_value(raw).map_err(|error| corrupt(file, &error.to_string()))
    }

    /// Opens a component's weights: one file or shards, of the wanted variant where there is one.
    pub(super) fn weights(&self, component: &str, stem: &str) -> Result<Weights, LoadError> {
        let variants = match self.variant {
            Some(variant) => vec![Some(variant.to_owned()), None],
            None => std::iter::once(None).chain(self.only_variant(component, stem).map(Some)).collect(),
        };
        for variant in variants {
            let dot = variant.map(|v| format!(".{v}")).unwrap_or_default();
            let single = within(component, &format!("{stem}{dot}.safetensors"));
            if self.has(&single) {
                return Weights::open(&single, self.root, std::slice::from_ref(&single));
            }
            // Both places of the variant in the index's name are found in published repositories.
            for index in [format!("{stem}{dot}.safetensors.index.json"), format!("{stem}.safetensors.index{dot}.json")]
            {
                let index = within(component, &index);
                if self.has(&index) {
                    return Weights::open(&index, self.root, &self.shards(component, &index)?);
                }
            }
        }
        Err(self.no_weights(component, stem))
    }

    /// Opens one file of weights.
    pub(super) fn open_weights(&self, file: &str) -> Result<Weights, LoadError> {
        Weights::open(file, self.root, &[file.to_owned()])
    }

    fn shards(&self, component: &str, index: &str) -> Result<Vec<String>, LoadError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let Index { weight_map } = self.json(index)?;
        let mut shards: Vec<_> = weight_map.into_values().collect();
        shards.sort();
        shards.dedup();
        match shards.iter().find(|shard| Path::new(shard).components().count() != 1 || shard.contains("..")) {
            Some(shard) => Err(corrupt(index, &format!("weight_map names {shard:?}, which is not a plain file name"))),
            None => Ok(shards.into_iter().map(|shard| within(component, &shard)).collect()),
        }
    }

    /// The variant of a folder that holds no other: a bucket often has nothing but the fp16 files.
    fn only_variant(&self, component: &str, stem: &str) -> Option<String> {
        let single = |name: &str| name.strip_suffix(".safetensors").map(str::to_owned);
        // both places of the variant in the index's name, as above
        let sharded = |name: &str| {
            let before = name.strip_suffix(".safetensors.index.json");
            let after = || name.strip_prefix("safetensors.index.")?.strip_suffix(".json");
            before.or_else(after).map(str::to_owned)
        };
        let names = self.names(component).into_iter();
        let names = names.filter_map(|name| Some(name.strip_prefix(stem)?.strip_prefix('.')?.to_owned()));
        let variants = names.filter_map(|name| sharded(&name).or_else(|| single(&name)));
        let mut found: Vec<String> = variants.filter(|name| !name.contains(['.', '-'])).collect();
        found.dedup();
        if found.len() == 1 { found.pop() } else { None }
    }

    fn names(&self, component: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(component)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The safetensors files of a folder in the folder, sorted.
    pub(super) fn safetensors(&self, component: &str) -> Vec<String> {
        let mut names = self.names(component);
        names.retain(|name| name.ends_with(".safetensors"));
        names
    }

    /// The GGUF file of a folder that has no safetensors, of the wanted variant where there are several.
    pub(super) fn gguf(&self) -> Result<Option<String>, LoadError> {
        let named = |extension: &str| {
            let mut names = self.names("");
            names.retain(|name| Path::new(name).extension().is_some_and(|own| own == extension));
            names
        };
        let found = named("gguf");
        let is_sharded = self.names("").iter().any(|name| name.contains(".safetensors.index"));
        if found.is_empty() || is_sharded || !named("safetensors").is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = found.iter().map(String::as_str).collect();
        let only = only_gguf(&names, self.variant).ok_or_else(|| {
            let held = found.join(", ");
            let message = format!(
                "the folder holds {held}: keep one of them, or set variant in model.source to a part of its name"
            );
            LoadError { reason: "ModelFileMissing", message }
        })?;
        Ok(Some(only.to_owned()))
    }

    fn no_weights(&self, component: &str, stem: &str) -> LoadError {
        let file = within(component, &format!("{stem}.safetensors"));
        let found = self.safetensors(component);
        let hint = match found.as_slice() {
            [] => "the model must be published as safetensors".to_owned(),
            found => format!("found {}; name the variant in model.source", found.join(", ")),
        };
        LoadError { reason: "ModelFileMissing", message: format!("{file} is missing ({hint})") }
    }
}

/// The path of a part's file, relative to the model's folder.
pub(super) fn within(component: &str, file: &str) -> String {
    if component.is_empty() { file.to_owned() } else { format!("{component}/{file}") }
}

/// A file that is not there, or cannot be read.
pub(super) fn unreadable(file: &str, error: &std::io::Error) -> LoadError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let message = format!("{file} is missing from the model folder");
        return LoadError { reason: "ModelFileMissing", message };
    }
    LoadError { reason: "ModelUnreadable", message: format!("{file} cannot be read: {error}") }
}

/// A file that does not hold what it should.
pub(super) fn corrupt(file: &str, what: &str) -> LoadError {
    LoadError { reason: "ModelCorrupt", message: format!("{file}: {what}; upload or download the model again") }
}

/// A file that is right, of a model that is not built here.
pub(super) fn unsupported(file: &str, what: &str) -> LoadError {
    LoadError { reason: "ModelUnsupported", message: format!("{file}: {what}") }
}
