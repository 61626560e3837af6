//! What an adapter's file says of its scale besides its tensors: PEFT's settings, as diffusers keeps them in the file's
//! header (`lora_adapter_metadata`) and PEFT itself in an `adapter_config.json` beside it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported};
use crate::model::weights::Weights;

/// Where diffusers keeps them: a JSON object whose keys begin with the component that they are of.
const NOTE: &str = "lora_adapter_metadata";
/// PEFT's own pair of files.
const PEFT_FILE: &str = "adapter_model.safetensors";
const PEFT_SETTINGS: &str = "adapter_config.json";

/// One component's settings, in PEFT's words.
#[derive(Debug, Clone, Default, Deserialize)]
struct Peft {
    lora_alpha: Option<f64>,
    /// Other alphas, by the layers' names or their ends.
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    /// Whether the scale is alpha by the root of the rank, rather than by the rank.
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    use_dora: Option<bool>,
}

/// An adapter's settings by component.
#[derive(Debug, Default)]
pub(super) struct LoraSettings {
    components: BTreeMap<String, Peft>,
    /// Those of a file that is of one component, and does not say of which.
    all: Option<Peft>,
}

impl LoraSettings {
    /// Reads the settings of `file`, whose weights are open.
    pub(super) fn read(folder: &Folder, file: &str, weights: &Weights) -> Result<Self, LoadError> {
        let mut settings = Self::default();
        if let Some(note) = weights.note(NOTE) {
            let wrong = |error: serde_json::Error| corrupt(file, &format!("{NOTE} in its header: {error}"));
            let note: Map<String, Value> = serde_json::from_str(note).map_err(wrong)?;
            let mut components: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
            for (key, value) in note {
                if let Some((component, key)) = key.split_once('.') {
                    components.entry(component.to_owned()).or_default().insert(key.to_owned(), value);
                }
            }
            for (component, own) in components {
                let own: Peft = serde_json::from_value(own.into()).map_err(wrong)?;
                settings.components.insert(component, own.checked(file)?);
            }
        }
        if let Some(beside) = file.strip_suffix(PEFT_FILE).map(|path| format!("{path}{PEFT_SETTINGS}"))
            && folder.has(&beside)
        {
            settings.all = Some(folder.json::<Peft>(&beside)?.checked(&beside)?);
        }
        Ok(settings)
    }

    /// What the product of a pair of this rank is multiplied with. `layer` is the model's name for it. Without settings it
    /// is 1, as alpha is then taken to be the rank.
    pub(super) fn scale(&self, component: &str, layer: &str, rank: f64) -> f64 {
        let Some(own) = self.components.get(component).or(self.all.as_ref()) else { return 1.0 };
        // transformers 5 leaves the prefix out that adapters have
        let name = format!(".text_model.{layer}");
        let patterns = own.alpha_pattern.iter().flatten();
        let pattern = patterns.filter(|(end, _)| name.ends_with(&format!(".{end}"))).map(|(_, alpha)| *alpha).next();
        let Some(alpha) = pattern.or(own.lora_alpha) else { return 1.0 };
        if own.use_rslora == Some(true) { alpha / rank.sqrt() } else { alpha / rank }
    }
}

impl Peft {
    /// Refuses what is not built here.
    fn checked(self, file: &str) -> Result<Self, LoadError> {
        if self.use_dora == Some(true) {
            return Err(unsupported(file, "use_dora is true; only plain LoRA is merged"));
        }
        // PEFT reads them as regular expressions; what diffusers and trainers write are names
        let is_name = |pattern: &str| pattern.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c));
        match self.alpha_pattern.iter().flatten().find(|(pattern, _)| !is_name(pattern)) {
            Some((pattern, _)) => {
                let what = format!("alpha_pattern has {pattern:?}; only names of layers and their ends are read");
                Err(unsupported(file, &what))
            }
            None => Ok(self),
        }
    }
}
