//! The Euler schedulers of diffusers, as a list of steps with all their numbers worked out beforehand.
//!
//! Each step of `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler` is linear in the latents, the UNet's
//! output and the noise, so a schedule is three coefficients a step and the loop that applies them has no cases.

use candle_core::{Result as CandleResult, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

use super::folder::{Folder, corrupt, unsupported};
use super::noise::Noise;
use crate::model::LoadError;

const FILE: &str = "scheduler/scheduler_config.json";

/// A model's scheduler: how it was trained to be sampled.
#[derive(Debug, Clone)]
pub(super) struct Scheduler {
    config: Config,
    /// Noise level of each training timestep, ascending.
    sigmas: Vec<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "default_timesteps")]
    num_train_timesteps: usize,
    #[serde(default = "default_beta_start")]
    beta_start: f64,
    #[serde(default = "default_beta_end")]
    beta_end: f64,
    #[serde(default)]
    beta_schedule: BetaSchedule,
    #[serde(default)]
    prediction_type: Prediction,
    #[serde(default)]
    timestep_spacing: Spacing,
    #[serde(default)]
    steps_offset: usize,
}

fn default_timesteps() -> usize {
    1000
}

fn default_beta_start() -> f64 {
    0.0001
}

fn default_beta_end() -> f64 {
    0.02
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BetaSchedule {
    #[default]
    Linear,
    ScaledLinear,
}

/// What the UNet's output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prediction {
    #[default]
    Epsilon,
    VPrediction,
}

/// Which training timesteps are visited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spacing {
    #[default]
    Linspace,
    Leading,
    Trailing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Euler,
    Ancestral,
}

/// The steps from noise to a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    /// Standard deviation of the first latents.
    pub(super) initial: f64,
    pub(super) steps: Vec<Step>,
}

/// One step: `latents ← keep · latents + model · output + noise · N(0, 1)`, where `output` is the UNet's for
/// `input · latents` at `timestep`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) timestep: f64,
    pub(super) input: f64,
    pub(super) keep: f64,
    pub(super) model: f64,
    pub(super) noise: f64,
}

impl Scheduler {
    pub(super) fn load(folder: &Folder) -> Result<Self, LoadError> {
        // Settings of diffusers' schedulers that change the noise levels and are not built here.
        let off = [json!(false), Value::Null];
        let fixed: &[(&str, &[Value])] = &[
            ("_class_name", &[json!("EulerDiscreteScheduler"), json!("EulerAncestralDiscreteScheduler")]),
            ("beta_schedule", &[json!("linear"), json!("scaled_linear")]),
            ("prediction_type", &[json!("epsilon"), json!("v_prediction")]),
            ("timestep_spacing", &[json!("linspace"), json!("leading"), json!("trailing")]),
            ("timestep_type", &[json!("discrete")]),
            ("interpolation_type", &[json!("linear")]),
            ("final_sigmas_type", &[json!("zero")]),
            ("trained_betas", &[Value::Null]),
            ("use_karras_sigmas", &off),
            ("use_exponential_sigmas", &off),
            ("use_beta_sigmas", &off),
            ("rescale_betas_zero_snr", &off),
        ];
        let config: Config = folder.config(FILE, fixed)?;
        if config.num_train_timesteps == 0 || config.num_train_timesteps > 100_000 {
            return Err(corrupt(FILE, "num_train_timesteps is not between 1 and 100000"));
        }
        let scheduler = Self { sigmas: training_sigmas(&config), config };
        if scheduler.sigmas.iter().any(|sigma| !sigma.is_finite() || *sigma <= 0.0) {
            return Err(unsupported(FILE, "beta_start and beta_end give no finite noise levels"));
        }
        Ok(scheduler)
    }

    /// diffusers' name of this scheduler, for a picture's parameters.
    pub(super) fn name(&self) -> &str {
        &self.config.class_name
    }

    fn kind(&self) -> Kind {
        if self.config.class_name.contains("Ancestral") { Kind::Ancestral } else { Kind::Euler }
    }

    /// The schedule of `count` steps.
    pub(super) fn schedule(&self, count: usize) -> Schedule {
        let timesteps = self.timesteps(count);
        let sigmas: Vec<f64> = timesteps.iter().map(|timestep| self.sigma_at(*timestep)).collect();
        let next = sigmas.iter().skip(1).copied().chain(std::iter::once(0.0));
        let steps =
            timesteps.iter().zip(&sigmas).zip(next).map(|((timestep, sigma), next)| self.step(*timestep, *sigma, next));
        let largest = sigmas.iter().copied().fold(0.0, f64::max);
        let initial = match self.config.timestep_spacing {
            Spacing::Leading => (largest * largest + 1.0).sqrt(),
            Spacing::Linspace | Spacing::Trailing => largest,
        };
        Schedule { initial, steps: steps.collect() }
    }

    /// From noise level `sigma` to `next`, by Euler's method along the probability flow (Karras et al. 2022, equation
    /// 5), for the ancestral kind to a lower level that fresh noise makes up for.
    fn step(&self, timestep: f64, sigma: f64, next: f64) -> Step {
        let (down, noise) = match self.kind() {
            Kind::Euler => (next, 0.0),
            Kind::Ancestral => {
                let up = (next.powi(2) * (sigma.powi(2) - next.powi(2)) / sigma.powi(2)).max(0.0).sqrt();
                ((next.powi(2) - up.powi(2)).max(0.0).sqrt(), up)
            }
        };
        let delta = down - sigma;
        let variance = sigma * sigma + 1.0;
        let (keep, model) = match self.config.prediction_type {
            Prediction::Epsilon => (1.0, delta),
            // d = (x − x₀) / σ with x₀ = x / (σ² + 1) − v σ / √(σ² + 1)
            Prediction::VPrediction => (1.0 + delta * sigma / variance, delta / variance.sqrt()),
        };
        Step { timestep, input: 1.0 / variance.sqrt(), keep, model, noise }
    }

    /// The training timesteps that `count` steps visit, descending.
    fn timesteps(&self, count: usize) -> Vec<f64> {
        let train = self.config.num_train_timesteps;
        let last = (train - 1) as f64;
        let count_f = count as f64;
        let at = |i: usize| match self.config.timestep_spacing {
            Spacing::Linspace if count == 1 => 0.0,
            Spacing::Linspace => last * (count - 1 - i) as f64 / (count_f - 1.0),
            Spacing::Leading => ((count - 1 - i) * (train / count) + self.config.steps_offset) as f64,
            Spacing::Trailing => (train as f64 - i as f64 * (train as f64 / count_f)).round_ties_even() - 1.0,
        };
        (0..count).map(at).collect()
    }

    /// The noise level at a timestep, interpolated between training timesteps and held at their ends.
    fn sigma_at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let timestep = timestep.clamp(0.0, last as f64);
        let below = timestep.floor() as usize;
        let part = timestep - below as f64;
        let (low, high) = (self.sigmas[below], self.sigmas[(below + 1).min(last)]);
        low + (high - low) * part
    }
}

/// One job's way through its steps.
#[derive(Debug)]
pub(super) struct Sampler {
    schedule: Schedule,
    index: usize,
}

impl Scheduler {
    pub(super) fn begin_job(&self, steps: usize) -> Result<Sampler, crate::model::RunError> {
        Ok(Sampler { schedule: self.schedule(steps), index: 0 })
    }

    pub(super) fn named(&self, name: &str) -> Result<Self, String> {
        let class_name = match name {
            "euler" | "EulerDiscreteScheduler" => "EulerDiscreteScheduler",
            "euler_a" | "EulerAncestralDiscreteScheduler" => "EulerAncestralDiscreteScheduler",
            other => return Err(format!("{other} is not known")),
        };
        let mut scheduler = self.clone();
        scheduler.config.class_name = class_name.into();
        Ok(scheduler)
    }
}

impl Sampler {
    pub(super) fn init_noise_sigma(&self) -> f64 {
        self.schedule.initial
    }

    pub(super) fn left(&self) -> usize {
        self.schedule.steps.len() - self.index
    }

    pub(super) fn begin_at(&mut self, strength: f64) {
        let steps = self.schedule.steps.len();
        self.index = steps - ((steps as f64 * strength) as usize).min(steps);
    }

    pub(super) fn add_noise(&self, original: &Tensor, noise: &Tensor) -> CandleResult<Tensor> {
        let input = self.schedule.steps[self.index].input;
        original + (noise * (1.0 / (input * input) - 1.0).sqrt())?
    }

    pub(super) fn is_done(&self) -> bool {
        self.index >= self.schedule.steps.len()
    }

    pub(super) fn timestep(&self) -> f64 {
        self.schedule.steps[self.index].timestep
    }

    pub(super) fn scale_input(&self, latents: &Tensor) -> CandleResult<Tensor> {
        latents * self.schedule.steps[self.index].input
    }

    pub(super) fn step(&mut self, output: &Tensor, latents: &Tensor, noise: &mut Noise) -> CandleResult<Tensor> {
        let step = self.schedule.steps[self.index];
        self.index += 1;
        let latents = ((latents * step.keep)? + (output * step.model)?)?;
        if step.noise > 0.0 {
            let fresh = Tensor::from_vec(noise.normal(latents.elem_count()), latents.shape(), latents.device())?;
            return latents + (fresh * step.noise)?;
        }
        Ok(latents)
    }
}

fn training_sigmas(config: &Config) -> Vec<f64> {
    let count = config.num_train_timesteps;
    let (start, end, power) = match config.beta_schedule {
        BetaSchedule::Linear => (config.beta_start, config.beta_end, 1),
        BetaSchedule::ScaledLinear => (config.beta_start.sqrt(), config.beta_end.sqrt(), 2),
    };
    let step = (end - start) / (count.max(2) - 1) as f64;
    let mut kept = 1.0;
    let sigma = |i: usize| {
        kept *= 1.0 - (start + step * i as f64).powi(power);
        ((1.0 - kept) / kept).sqrt()
    };
    (0..count).map(sigma).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scheduler of SDXL (base: Euler, leading; Turbo: ancestral, trailing), with one setting changed at a time.
    fn sdxl(class: &str, spacing: &str, prediction: &str) -> Scheduler {
        let config: Config = serde_json::from_value(json!({
            "_class_name": class, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": spacing, "prediction_type": prediction,
        }))
        .unwrap();
        Scheduler { sigmas: training_sigmas(&config), config }
    }

    fn euler(spacing: &str) -> Scheduler {
        sdxl("EulerDiscreteScheduler", spacing, "epsilon")
    }

    fn close(found: f64, known: f64) {
        assert!((found - known).abs() < 5e-5 * known.abs().max(1.0), "{found} is not {known}");
    }

    #[test]
    fn noise_levels_are_those_of_sdxl() {
        let scheduler = euler("leading");
        // The published ends of Stable Diffusion's noise levels.
        close(scheduler.sigmas[0], 0.029_167);
        close(scheduler.sigmas[999], 14.614_6);
    }

    #[test]
    fn timesteps_are_spaced_as_diffusers_does() {
        let cases = [
            ("leading", vec![751.0, 501.0, 251.0, 1.0]),
            ("trailing", vec![999.0, 749.0, 499.0, 249.0]),
            ("linspace", vec![999.0, 666.0, 333.0, 0.0]),
        ];
        for (spacing, known) in cases {
            assert_eq!(euler(spacing).timesteps(4), known, "{spacing}");
        }
        assert_eq!(euler("trailing").timesteps(1), [999.0]);
        assert_eq!(euler("linspace").timesteps(1), [0.0]);
        assert_eq!(euler("leading").timesteps(30)[..2], [958.0, 925.0]);
        assert_eq!(euler("trailing").timesteps(3), [999.0, 666.0, 332.0]);
    }

    #[test]
    fn the_first_latents_have_the_spread_of_the_first_step() {
        let trailing = euler("trailing").schedule(4);
        close(trailing.initial, 14.614_6);
        let leading = euler("leading").schedule(4);
        let sigma = euler("leading").sigmas[751];
        close(leading.initial, (sigma * sigma + 1.0).sqrt());
        close(leading.steps[0].input, 1.0 / leading.initial);
    }

    #[test]
    fn a_perfect_guess_of_the_noise_ends_at_the_picture() {
        // x = x₀ + σ ε: with the true ε (or v) at each step, the last one must land on x₀ whatever the spacing.
        let (picture, epsilon) = (0.7, -1.3);
        for spacing in ["leading", "trailing", "linspace"] {
            for prediction in ["epsilon", "v_prediction"] {
                let scheduler = sdxl("EulerDiscreteScheduler", spacing, prediction);
                let mut x = picture + scheduler.sigma_at(scheduler.timesteps(7)[0]) * epsilon;
                for step in scheduler.schedule(7).steps {
                    let variance = 1.0 / step.input.powi(2);
                    let sigma = (variance - 1.0).sqrt();
                    let v = (epsilon - sigma * picture) / variance.sqrt();
                    let output = if prediction == "epsilon" { epsilon } else { v };
                    x = step.keep * x + step.model * output;
                }
                assert!((x - picture).abs() < 1e-9, "{spacing} {prediction}: {x}");
            }
        }
    }

    #[test]
    fn ancestral_noise_keeps_the_variance_and_ends_at_none() {
        let scheduler = sdxl("EulerAncestralDiscreteScheduler", "trailing", "epsilon");
        let timesteps = scheduler.timesteps(4);
        let schedule = scheduler.schedule(4);
        for (i, step) in schedule.steps.iter().enumerate() {
            let sigma = scheduler.sigma_at(timesteps[i]);
            let next = timesteps.get(i + 1).map_or(0.0, |timestep| scheduler.sigma_at(*timestep));
            // What is left of the old noise and what is added have together the variance of the next level.
            let left = sigma + step.model;
            assert!((left.powi(2) + step.noise.powi(2) - next.powi(2)).abs() < 1e-9);
        }
        assert!(schedule.steps[0].noise > 0.0);
        assert!(schedule.steps[3].noise.abs() < 1e-12);
        assert!(euler("trailing").schedule(4).steps.iter().all(|step| step.noise == 0.0));
    }
}
