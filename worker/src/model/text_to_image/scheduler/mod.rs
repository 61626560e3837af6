//! How noise becomes a picture, step by step, as diffusers' schedulers do it.
//!
//! A `Scheduler` is a model's settings for one of diffusers' classes; a `Sampler` is one job on its way. Their numbers are
//! checked against diffusers' own by the goldens of bench/parity.

mod alphas;
mod dpm;
mod error;
mod euler;
mod kind;
mod levels;
mod plan;
mod pndm;
mod sampler;
mod settings;
#[cfg(test)]
mod tests;
mod unipc;

use serde_json::{Map, Value};

pub(super) use self::error::SchedulerError;
use self::kind::{Kind, Wish};
use self::plan::Plan;
pub(super) use self::sampler::Sampler;
use self::settings::Settings;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported};

const FILE: &str = "scheduler/scheduler_config.json";
const INDEX: &str = "model_index.json";

/// A model's scheduler: how it was trained to be sampled, and by which of diffusers' classes.
#[derive(Debug, Clone)]
pub(super) struct Scheduler {
    /// The model's own settings, as another class would be given them.
    raw: Map<String, Value>,
    settings: Settings,
    alphas_cumprod: Vec<f32>,
}

impl Scheduler {
    /// Reads a model's scheduler. Its class is the one in model_index.json, where that names it.
    pub(super) fn load(folder: &Folder) -> Result<Self, LoadError> {
        let content = String::from_utf8(folder.read(FILE)?).map_err(|error| corrupt(FILE, &error.to_string()))?;
        let raw = serde_json::from_str(&without_python_numbers(&content)).map_err(|e| corrupt(FILE, &e.to_string()))?;
        let index: Value = if folder.has(INDEX) { folder.json(INDEX)? } else { Value::Null };
        let pipeline = index["_class_name"].as_str().unwrap_or_default();
        let class = index["scheduler"][1].as_str();
        Self::read(raw, class, pipeline).map_err(|error| unsupported(FILE, &error.to_string()))
    }

    fn read(mut raw: Map<String, Value>, class: Option<&str>, pipeline: &str) -> Result<Self, SchedulerError> {
        let class = class.or(raw.get("_class_name").and_then(Value::as_str)).unwrap_or_default().to_owned();
        let kind = Kind::of_class(&class).ok_or(SchedulerError::Unknown { name: class })?;
        let mut own = raw.clone();
        if pipeline.starts_with("StableDiffusion") && !pipeline.contains("XL") {
            mend(&mut own, kind, &mut raw);
        }
        Self::new(raw, Settings::read(kind, &own)?)
    }

    fn new(raw: Map<String, Value>, settings: Settings) -> Result<Self, SchedulerError> {
        let alphas_cumprod = levels::alphas_cumprod(&settings)?;
        Ok(Self { raw, settings, alphas_cumprod })
    }

    /// The scheduler that a job names, over this model's settings: as diffusers' `from_config` makes it, a setting that
    /// the model does not state has the default of the named class. Names are diffusers' classes or short ones
    /// (`dpm++_2m_karras`).
    pub(super) fn named(&self, name: &str) -> Result<Self, SchedulerError> {
        let (kind, wish) = Kind::named(name).ok_or_else(|| SchedulerError::Unknown { name: name.to_owned() })?;
        if kind == self.settings.kind && wish == Wish::default() {
            return Ok(self.clone());
        }
        let mut raw = self.raw.clone();
        if wish.karras {
            raw.insert("use_karras_sigmas".into(), true.into());
        }
        if wish.stochastic {
            raw.insert("algorithm_type".into(), "sde-dpmsolver++".into());
        }
        let settings = Settings::read(kind, &raw)?;
        Self::new(self.raw.clone(), settings)
    }

    /// diffusers' name of this scheduler and how it differs from the class's own ways, for a picture's parameters.
    pub(super) fn name(&self) -> String {
        self.settings.name()
    }

    /// A job of `steps` steps, at its first.
    pub(super) fn begin(&self, steps: usize) -> Result<Sampler, SchedulerError> {
        Ok(Sampler::new(Plan::new(&self.settings, &self.alphas_cumprod, steps)?))
    }
}

/// What diffusers' Stable Diffusion pipelines (not SDXL's) change in a config of before these settings were known: `own`
/// is this model's scheduler, `raw` what another class is made from, which sees only a setting that was stated.
fn mend(own: &mut Map<String, Value>, kind: Kind, raw: &mut Map<String, Value>) {
    own.insert("steps_offset".into(), 1.into());
    if let Some(offset) = raw.get_mut("steps_offset") {
        *offset = 1.into();
    }
    if kind == Kind::Ddim || own.get("clip_sample") == Some(&Value::Bool(true)) {
        own.insert("clip_sample".into(), false.into());
    }
    if let Some(clip) = raw.get_mut("clip_sample") {
        *clip = false.into();
    }
}

/// JSON as Python writes it may hold `-Infinity` and `NaN`, which are no JSON; published configs have
/// `"lambda_min_clipped": -Infinity`. They become null, which is every setting's default.
fn without_python_numbers(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    for (index, piece) in content.split('"').enumerate() {
        if index > 0 {
            out.push('"');
        }
        // Every other piece is inside quotes; no setting's name or value has an escaped one.
        if index % 2 == 0 {
            out.push_str(&piece.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"));
        } else {
            out.push_str(piece);
        }
    }
    out
}
