//! Places of tokens as angles (Su et al. 2021): pairs of a head's numbers are turned, each pair at a frequency of its own.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;

/// The base of the frequencies where a config does not say.
const THETA: f64 = 10_000.0;

/// How the frequencies were stretched for texts longer than those of the first training.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RopeType {
    #[default]
    Default,
    Linear,
    Llama3,
    #[serde(untagged)]
    Other(String),
}

/// In the words of config.json.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RopeParameters {
    #[serde(default, alias = "type")]
    pub(super) rope_type: RopeType,
    pub(super) rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl RopeParameters {
    /// Whether all that is computed with is there.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let needed = match self.rope_type {
            RopeType::Default | RopeType::Other(_) => vec![],
            RopeType::Linear => vec![("factor", self.factor)],
            RopeType::Llama3 => vec![
                ("factor", self.factor),
                ("low_freq_factor", self.low_freq_factor),
                ("high_freq_factor", self.high_freq_factor),
                ("original_max_position_embeddings", self.original_max_position_embeddings),
            ],
        };
        let theta = ("rope_theta", Some(self.rope_theta.unwrap_or(THETA)));
        for (name, value) in needed.into_iter().chain([theta]) {
            match value {
                Some(value) if value.is_finite() && value > 0.0 => {}
                Some(value) => return Err(format!("{name} is {value}; it must be above 0")),
                None => return Err(format!("the model's rope parameters lack {name}")),
            }
        }
        Ok(())
    }

    /// Radians from one place to the next, for each pair of a head of this width.
    pub(super) fn frequencies(&self, head: usize) -> Vec<f64> {
        let theta = self.rope_theta.unwrap_or(THETA);
        let plain = (0..head / 2).map(|pair| theta.powf(-2.0 * pair as f64 / head as f64));
        let factor = self.factor.unwrap_or(1.0);
        match self.rope_type {
            RopeType::Default | RopeType::Other(_) => plain.collect(),
            RopeType::Linear => plain.map(|frequency| frequency / factor).collect(),
            RopeType::Llama3 => plain.map(|frequency| self.like_llama3(frequency, factor)).collect(),
        }
    }

    /// Waves that are short beside the texts of the first training stay as they are, long ones are stretched, and those between
    /// are a mixture, as transformers has it.
    fn like_llama3(&self, frequency: f64, factor: f64) -> f64 {
        let (low, high) = (self.low_freq_factor.unwrap_or(1.0), self.high_freq_factor.unwrap_or(4.0));
        let waves = self.original_max_position_embeddings.unwrap_or(8192.0) * frequency / TAU;
        if waves < low {
            return frequency / factor;
        }
        if waves > high {
            return frequency;
        }
        let kept = (waves - low) / (high - low);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

/// Turns heads by their tokens' places.
#[derive(Debug)]
pub(super) struct Rope {
    frequencies: Vec<f64>,
    dtype: DType,
    device: Device,
}

/// Cosines and sines of a pass, each (tokens, head / 2).
#[derive(Debug)]
pub(super) struct Turns {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(super) fn new(frequencies: Vec<f64>, dtype: DType, device: &Device) -> Self {
        Self { frequencies, dtype, device: device.clone() }
    }

    /// For tokens at these places.
    pub(super) fn at(&self, places: &[usize]) -> Result<Turns> {
        let shape = (places.len(), self.frequencies.len());
        let angles = || places.iter().flat_map(|place| self.frequencies.iter().map(|each| *place as f64 * each));
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype);
        let cos = tensor(angles().map(|angle| angle.cos() as f32).collect())?;
        Ok(Turns { cos, sin: tensor(angles().map(|angle| angle.sin() as f32).collect())? })
    }
}

impl Turns {
    /// (tokens, heads, head), turned: the first half of a head goes with the second.
    pub(super) fn turn(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?.contiguous()?, &self.cos, &self.sin)?.squeeze(0)
    }
}
