//! What a folder in the layout of sentence-transformers consists of: `modules.json` and the settings beside it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::Config;
use super::dense::Dense;
use super::pooling::Pooling;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported, within};

const MODULES: &str = "modules.json";
/// Beside the transformer's own config.
pub(super) const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
const PROMPTS: &str = "config_sentence_transformers.json";

/// What is done after the transformer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) pooling: Pooling,
    pub(super) dense: Vec<Dense>,
    /// Whether the folder's last step makes vectors as long as one.
    pub(super) normalizes: bool,
}

/// What `sentence_bert_config.json` says.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SentenceConfig {
    pub(super) max_seq_length: Option<usize>,
    #[serde(default)]
    pub(super) do_lower_case: bool,
}

/// Texts that are put before a text, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Prompts {
    #[serde(default)]
    pub(super) prompts: BTreeMap<String, String>,
    /// That of a job which names none.
    pub(super) default_prompt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Module {
    /// The class's own name, whichever of the library's packages it was in.
    fn class(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or_default()
    }
}

/// The modules of a folder in their order.
#[derive(Debug)]
pub(super) struct Modules(Vec<Module>);

impl Modules {
    /// Reads them; a folder without `modules.json` is a transformer alone.
    pub(super) fn read(folder: &Folder) -> Result<Option<Self>, LoadError> {
        if !folder.has(MODULES) {
            return Ok(None);
        }
        let modules: Vec<Module> = folder.json(MODULES)?;
        let strays = |module: &&Module| module.path.starts_with('/') || module.path.split('/').any(|part| part == "..");
        if let Some(module) = modules.iter().find(strays) {
            return Err(corrupt(MODULES, &format!("path {:?} leads out of the folder", module.path)));
        }
        match modules.first().map(Module::class) {
            Some("Transformer") => Ok(Some(Self(modules))),
            Some(other) => Err(unsupported(MODULES, &format!("it begins with {other}; only Transformer is supported"))),
            None => Err(corrupt(MODULES, "it is empty")),
        }
    }

    /// Where the transformer lies.
    pub(super) fn transformer(&self) -> &str {
        self.0.first().map_or("", |module| &module.path)
    }

    /// Reads what comes after the transformer.
    pub(super) fn head(&self, folder: &Folder, config: &Config) -> Result<Head, LoadError> {
        let mut after = self.0.iter().skip(1).peekable();
        let pooling = match after.next_if(|module| module.class() == "Pooling") {
            Some(module) => Pooling::read(folder, &module.path, config.hidden_size)?,
            None => {
                return Err(unsupported(MODULES, "no Pooling follows the Transformer: it gives no vector of a text"));
            }
        };
        let (mut dense, mut width) = (Vec::new(), pooling.outputs(config.hidden_size));
        while let Some(module) = after.next_if(|module| module.class() == "Dense") {
            let next = Dense::load(folder, &module.path, width)?;
            width = next.outputs();
            dense.push(next);
        }
        let normalizes = after.next_if(|module| module.class() == "Normalize").is_some();
        match after.next() {
            Some(module) => {
                let what = format!("{} is not supported at its place", module.class());
                let known = "Transformer, Pooling, any number of Dense, and Normalize are run, in this order";
                Err(unsupported(MODULES, &format!("{what}; {known}")))
            }
            None => Ok(Head { pooling, dense, normalizes }),
        }
    }
}

impl Head {
    /// Of a folder that says nothing: the mean, as it is.
    pub(super) fn mean() -> Self {
        Self { pooling: Pooling::mean(), dense: Vec::new(), normalizes: false }
    }
}

impl SentenceConfig {
    /// Reads that of the transformer in `component`, where it has one.
    pub(super) fn read(folder: &Folder, component: &str) -> Result<Self, LoadError> {
        let file = within(component, SENTENCE_CONFIG);
        if folder.has(&file) { folder.json(&file) } else { Ok(Self::default()) }
    }
}

impl Prompts {
    /// Reads those of a folder, where it has some.
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        if !folder.has(PROMPTS) {
            return Ok(Self::default());
        }
        let all: Self = folder.json(PROMPTS)?;
        match all.default_prompt_name.as_ref().filter(|name| !all.prompts.contains_key(*name)) {
            Some(name) => Err(corrupt(PROMPTS, &format!("default_prompt_name {name} is none of its prompts"))),
            None => Ok(all),
        }
    }
}
