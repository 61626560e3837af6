//! LoRA adapters, merged into a model's weights while they are loaded: steps cost what they cost without.
//!
//! An adapter's keys are found among the model's own tensors (`lora_names`); one that has no place is an error that names
//! it, because an adapter of another model would otherwise do half of its work in silence.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use serde_json::{Map, Value, json};

use super::lora_names::{Key, Names, Part, split};
use super::lora_settings::LoraSettings;
use crate::model::folder::{Folder, corrupt, unsupported};
use crate::model::weights::{self, Weights};
use crate::model::{InvalidInput, LoadError};

/// Where a model folder has its adapters.
const FOLDER: &str = "lora";
/// The consumer's parameter that chooses among them.
const PARAMETER: &str = "model.parameters.lora";
/// Largest scale, either way.
const MOST_SCALE: f64 = 10.0;
/// Endings of files that hold the same adapter in another number format.
const FORMATS: [&str; 4] = [".fp16", ".bf16", ".fp32", ".f16"];

/// An adapter that is to be merged.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// Relative to the model's folder.
    file: String,
    /// How much of it.
    pub(super) scale: f64,
}

impl Choice {
    /// Reads `lora` of a consumer's parameters: none where it says nothing.
    pub(super) fn read(parameters: &Map<String, Value>) -> Result<Option<Vec<Self>>, InvalidInput> {
        let list = match parameters.get("lora") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(InvalidInput::field(PARAMETER, "must be a list of {file, scale}")),
        };
        let one = |(index, value): (usize, &Value)| {
            let wrong = |what: String| InvalidInput::field(format!("{PARAMETER}[{index}]"), what);
            let Value::Object(fields) = value else { return Err(wrong("must be {file, scale}".into())) };
            if let Some(stray) = fields.keys().find(|key| !["file", "scale"].contains(&key.as_str())) {
                return Err(wrong(format!("unknown field {stray} (valid: file, scale)")));
            }
            let file = fields.get("file").and_then(Value::as_str).unwrap_or_default();
            let plain = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            if !plain || Path::new(file).extension().is_none_or(|extension| extension != "safetensors") {
                return Err(wrong(format!("file must be a .safetensors file below the model's folder, not {file:?}")));
            }
            let scale = fields.get("scale").map_or(Some(1.0), Value::as_f64).filter(|scale| scale.abs() <= MOST_SCALE);
            let scale =
                scale.ok_or_else(|| wrong(format!("scale must be a number from -{MOST_SCALE} to {MOST_SCALE}")))?;
            Ok(Self { file: file.to_owned(), scale })
        };
        list.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
    }

    /// As a consumer's parameters say it.
    pub(super) fn told(&self) -> Value {
        json!({ "file": self.file, "scale": self.scale })
    }

    /// The adapters of a folder whose consumer chooses none: all that lie in `lora/`, as they are.
    fn all(folder: &Folder) -> Result<Vec<Self>, LoadError> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for file in folder.safetensors(FOLDER) {
            let stem = file.trim_end_matches(".safetensors");
            let stem = FORMATS.iter().find_map(|format| stem.strip_suffix(format)).unwrap_or(stem).to_owned();
            if let Some(other) = files.insert(stem, file.clone()) {
                let what = format!("is the same adapter as {other}: remove one, or name one in {PARAMETER}");
                return Err(unsupported(&format!("{FOLDER}/{file}"), &what));
            }
        }
        Ok(files.into_values().map(|file| Self { file: format!("{FOLDER}/{file}"), scale: 1.0 }).collect())
    }
}

/// One adapter's pair for one layer, and how much of it is added.
#[derive(Debug, Clone)]
struct Delta {
    source: Arc<Weights>,
    down: String,
    up: String,
    factor: f64,
}

impl weights::Delta for Delta {
    fn of_shape(&self, shape: &[usize]) -> CandleResult<Tensor> {
        let read = |name: &str| self.source.read(name, DType::F32, &Device::Cpu);
        let (down, up) = (read(&self.down)?, read(&self.up)?);
        let product = up.flatten_from(1)?.matmul(&down.flatten_from(1)?)?;
        product.reshape(shape)? * self.factor
    }
}

/// What a file says of one layer.
#[derive(Debug, Default)]
struct Pair {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

/// Finds the adapters that `chosen` names, else all of the folder's, and lays them over `components` (each with its
/// weights). Gives what was merged.
pub(super) fn merge(
    folder: &Folder,
    chosen: Option<Vec<Choice>>,
    components: &mut [(&'static str, Weights)],
) -> Result<Vec<Choice>, LoadError> {
    let choices = chosen.map_or_else(|| Choice::all(folder), Ok)?;
    if choices.is_empty() {
        return Ok(choices);
    }
    let names: Vec<Names> =
        components.iter().map(|(component, weights)| Names::new(component, weights.names())).collect();
    for choice in &choices {
        let in_folder = format!("{FOLDER}/{}", choice.file);
        let file = if folder.has(&choice.file) || !folder.has(&in_folder) { &choice.file } else { &in_folder };
        let source = Arc::new(folder.open_weights(file)?);
        let settings = LoraSettings::read(folder, file, &source)?;
        let adapter = Adapter { file, source: &source, settings: &settings, scale: choice.scale };
        for (place, pair) in pairs(file, &source, &names)? {
            let (component, weights) = &mut components[place.0];
            let delta = adapter.delta(pair, component, weights, &place.1)?;
            weights.lay_over(&place.1, delta);
        }
        tracing::info!(file, scale = choice.scale, "a LoRA is merged");
    }
    Ok(choices)
}

/// The file's keys by the component's number and the tensor that they are for.
fn pairs(file: &str, source: &Weights, names: &[Names]) -> Result<BTreeMap<(usize, String), Pair>, LoadError> {
    let mut found: BTreeMap<(usize, String), Pair> = BTreeMap::new();
    let mut keys: Vec<&str> = source.names().collect();
    keys.sort_unstable();
    for key in keys {
        let Some(Key { layer, part }) = split(key) else {
            return Err(unsupported(
                file,
                &format!("key {key} is not one of a LoRA (lora_A, lora_B or lora_down, lora_up)"),
            ));
        };
        let place = names.iter().enumerate().find_map(|(number, names)| Some((number, names.find(&layer)?)));
        let Some(place) = place else {
            return Err(unsupported(file, &format!("key {key} has no place in this model; it is of another one")));
        };
        let pair = found.entry(place).or_default();
        let slot = match part {
            Part::Down => &mut pair.down,
            Part::Up => &mut pair.up,
            Part::Alpha => &mut pair.alpha,
        };
        if let Some(other) = slot.replace(key.to_owned()) {
            return Err(unsupported(file, &format!("keys {other} and {key} are for the same layer")));
        }
    }
    Ok(found)
}

/// An adapter's file that is being merged.
struct Adapter<'a> {
    file: &'a str,
    source: &'a Arc<Weights>,
    settings: &'a LoraSettings,
    scale: f64,
}

impl Adapter<'_> {
    /// What a pair adds to `tensor`, which is one of `component`'s.
    fn delta(&self, pair: Pair, component: &str, weights: &Weights, tensor: &str) -> Result<Delta, LoadError> {
        let (down, up) = match (pair.down, pair.up) {
            (Some(down), Some(up)) => (down, up),
            (down, up) => {
                let alone = down.or(up).or(pair.alpha).unwrap_or_default();
                return Err(corrupt(self.file, &format!("key {alone} lacks the other half of its pair")));
            }
        };
        let shape = |weights: &Weights, name: &str| weights.shape(name).unwrap_or_default();
        let (down_shape, up_shape, target) =
            (shape(self.source, &down), shape(self.source, &up), shape(weights, tensor));
        let rank = down_shape.first().copied().unwrap_or(0);
        let count = |shape: &[usize]| shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
        let fits = down_shape.len() >= 2
            && up_shape.len() >= 2
            && rank > 0
            && count(&up_shape[1..]) == Some(rank)
            && up_shape.first() == target.first()
            && count(&down_shape[1..]) == count(target.get(1..).unwrap_or_default());
        if !fits {
            return Err(unsupported(
                self.file,
                &format!("{down} {down_shape:?} and {up} {up_shape:?} do not fit {component}/{tensor} {target:?}"),
            ));
        }
        let rank = rank as f64;
        let own = match pair.alpha {
            Some(key) => self.alpha(&key)? / rank,
            None => self.settings.scale(component, tensor.trim_end_matches(".weight"), rank),
        };
        Ok(Delta { source: Arc::clone(self.source), down, up, factor: self.scale * own })
    }

    /// An alpha that is a tensor of the file.
    fn alpha(&self, key: &str) -> Result<f64, LoadError> {
        let alpha = self.source.read(key, DType::F64, &Device::Cpu).and_then(|x| x.flatten_all()?.to_vec1::<f64>());
        let alpha = alpha.map_err(|error| corrupt(self.file, &format!("{key}: {error}")))?;
        match alpha.as_slice() {
            [alpha] if alpha.is_finite() => Ok(*alpha),
            _ => Err(corrupt(self.file, &format!("{key} is not one finite number"))),
        }
    }
}
