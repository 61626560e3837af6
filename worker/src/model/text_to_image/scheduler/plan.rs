//! Which timesteps a number of steps visits, and at which noise levels: worked out once, before the first step.

use super::error::SchedulerError;
use super::kind::Kind;
use super::levels;
use super::settings::{Betas, Settings, Spacing};

/// Timesteps that PNDM's Runge-Kutta steps lead through.
const RUNGE_KUTTA_STEPS: usize = 4;
/// Passes of the UNet in them.
pub(super) const RUNGE_KUTTA_PASSES: usize = 4 * (RUNGE_KUTTA_STEPS - 1);

/// Karras' exponent.
const RHO: f64 = 7.0;

/// The way of a job from noise to a picture, and the settings that its steps need.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    /// Of the training, falling: see `levels`.
    pub(super) alphas_cumprod: Vec<f32>,
    /// How many steps the job asked for; PNDM takes more.
    pub(super) steps: usize,
    /// What the UNet is told at each step.
    pub(super) timesteps: Vec<f64>,
    /// The noise level at each step and after the last; empty for kinds that do without.
    pub(super) sigmas: Vec<f32>,
}

impl Plan {
    pub(super) fn new(settings: &Settings, alphas_cumprod: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let most =
            if settings.kind == Kind::Lcm { settings.train.min(settings.original_steps) } else { settings.train };
        let least = if settings.runge_kutta { RUNGE_KUTTA_STEPS } else { 1 };
        if steps < least || steps > most {
            return Err(SchedulerError::Steps { steps, least, most, class: settings.kind.class() });
        }
        let mut plan = Self {
            settings: settings.clone(),
            alphas_cumprod: alphas_cumprod.to_vec(),
            steps,
            timesteps: timesteps(settings, alphas_cumprod, steps),
            sigmas: Vec::new(),
        };
        if settings.kind.has_sigmas() {
            plan.find_sigmas();
        } else if let Some(most) = plan.steps_within_training() {
            return Err(SchedulerError::Steps { steps, least, most, class: settings.kind.class() });
        }
        Ok(plan)
    }

    /// Standard deviation of the first latents.
    pub(super) fn init_noise_sigma(&self) -> f32 {
        if !self.settings.kind.is_unscaled() {
            return 1.0;
        }
        let largest = self.sigmas.iter().copied().fold(0.0, f32::max);
        match self.settings.spacing {
            Spacing::Leading => (largest * largest + 1.0).sqrt(),
            Spacing::Linspace | Spacing::Trailing => largest,
        }
    }

    /// ᾱ at a timestep, counted from the end where it is negative.
    pub(super) fn alpha_at(&self, timestep: i64) -> f32 {
        let count = signed(self.alphas_cumprod.len());
        let index = if timestep < 0 { timestep + count } else { timestep };
        self.alphas_cumprod[index.clamp(0, count - 1) as usize]
    }

    /// ᾱ at the timestep that a step leads to, which may lie before the first.
    pub(super) fn alpha_after(&self, timestep: i64) -> f32 {
        match timestep {
            0.. => self.alpha_at(timestep),
            _ if self.settings.alpha_one => 1.0,
            _ => self.alpha_at(0),
        }
    }

    /// Training timesteps between two steps.
    pub(super) fn stride(&self) -> i64 {
        signed(self.settings.train / self.steps)
    }

    /// Where a timestep is past the last of the training: how many steps keep within it.
    fn steps_within_training(&self) -> Option<usize> {
        let train = self.settings.train;
        let beyond = self.timesteps.iter().any(|timestep| *timestep >= train as f64);
        beyond.then(|| {
            let within = |steps: &usize| (steps - 1) * (train / steps) + self.settings.steps_offset < train;
            (1..self.steps).rev().find(within).unwrap_or(0)
        })
    }

    fn find_sigmas(&mut self) {
        let settings = &self.settings;
        let training = levels::sigmas(&self.alphas_cumprod);
        let mut sigmas: Vec<f64> = self.timesteps.iter().map(|timestep| between(&training, *timestep)).collect();
        if settings.karras {
            let ends = match settings.kind {
                Kind::Euler => (sigmas.first().copied(), sigmas.last().copied()),
                _ => (training.last().copied().map(f64::from), training.first().copied().map(f64::from)),
            };
            let largest = settings.sigma_max.or(ends.0).unwrap_or(0.0);
            let smallest = settings.sigma_min.or(ends.1).unwrap_or(0.0);
            sigmas = karras(smallest, largest, self.steps);
            let logarithms: Vec<f32> = training.iter().map(|sigma| sigma.ln()).collect();
            let found = sigmas.iter().map(|sigma| timestep_of(&logarithms, *sigma));
            self.timesteps = match settings.kind {
                Kind::Euler => found.map(|timestep| f64::from(timestep as f32)).collect(),
                Kind::Dpm if settings.betas == Betas::SquaredCosine => found.map(f64::trunc).collect(),
                _ => found.map(f64::round_ties_even).collect(),
            };
        }
        let last = match (settings.ends_at_sigma_min, settings.kind) {
            (false, _) => 0.0,
            (true, Kind::UniPc) if settings.karras => sigmas.last().copied().unwrap_or(0.0),
            (true, _) => training.first().copied().map_or(0.0, f64::from),
        };
        self.sigmas = sigmas.into_iter().chain(std::iter::once(last)).map(|sigma| sigma as f32).collect();
    }
}

/// Counts of timesteps are bounded far below.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn timesteps(settings: &Settings, alphas_cumprod: &[f32], steps: usize) -> Vec<f64> {
    let (train, offset) = (settings.train, settings.steps_offset);
    match settings.kind {
        Kind::Lcm => consistency(train, settings.original_steps, steps),
        Kind::Dpm | Kind::UniPc => {
            // These end one step before the last of the spacing, whose place the noise level after the last has.
            let last = match settings.kind {
                Kind::Dpm => train - clipped(alphas_cumprod, settings.lambda_min),
                _ => train,
            };
            match settings.spacing {
                Spacing::Linspace => {
                    let all = linspace(last.saturating_sub(1) as f64, steps + 1);
                    all.into_iter().skip(1).rev().map(f64::round_ties_even).collect()
                }
                Spacing::Leading => (1..=steps).rev().map(|i| (i * (last / (steps + 1)) + offset) as f64).collect(),
                Spacing::Trailing => trailing(last, train as f64 / steps as f64),
            }
        }
        kind => {
            let falling = match settings.spacing {
                Spacing::Linspace => linspace((train - 1) as f64, steps).into_iter().rev().collect(),
                Spacing::Leading => (0..steps).rev().map(|i| (i * (train / steps) + offset) as f64).collect(),
                Spacing::Trailing => trailing(train, train as f64 / steps as f64),
            };
            match kind {
                Kind::Euler | Kind::EulerAncestral => falling.iter().map(|t: &f64| f64::from(*t as f32)).collect(),
                Kind::Pndm if settings.runge_kutta => runge_kutta(&falling, train / steps / 2),
                Kind::Pndm => second_twice(falling.into_iter().map(f64::round_ties_even).collect()),
                _ => falling.into_iter().map(f64::round_ties_even).collect(),
            }
        }
    }
}

/// From 0 to `last`, rising.
fn linspace(last: f64, count: usize) -> Vec<f64> {
    let step = if count > 1 { last / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| if i > 0 && i + 1 == count { last } else { i as f64 * step }).collect()
}

/// From `last` down in strides, each less one. Their number is reckoned as numpy does, which for some (61 steps of 1000)
/// is one more than asked for.
fn trailing(last: usize, stride: f64) -> Vec<f64> {
    let last = last as f64;
    let count = (last / stride).ceil() as usize;
    let step = (last - stride) - last;
    (0..count).map(|i| (last + i as f64 * step).round_ties_even() - 1.0).collect()
}

/// PNDM's first three strides by Runge and Kutta's method: at the beginning, twice in the middle, at the end.
fn runge_kutta(falling: &[f64], half: usize) -> Vec<f64> {
    let falling: Vec<f64> = falling.iter().copied().map(f64::round_ties_even).collect();
    let strides = falling.windows(2).take(RUNGE_KUTTA_STEPS - 1);
    let passes = strides.flat_map(|ends| {
        let middle = ends[1] + half as f64;
        [ends[0], middle, middle, ends[1]]
    });
    passes.chain(falling.iter().skip(RUNGE_KUTTA_STEPS - 1).copied()).collect()
}

/// PNDM's first stride is taken twice, the second time with what both its ends say.
fn second_twice(mut timesteps: Vec<f64>) -> Vec<f64> {
    if let Some(second) = timesteps.get(1).copied() {
        timesteps.insert(1, second);
    }
    timesteps
}

/// Evenly picked from the timesteps that a consistency model was distilled on.
fn consistency(train: usize, original: usize, steps: usize) -> Vec<f64> {
    let stride = train / original;
    let pick = |i: usize| (i as f64 * (original as f64 / steps as f64)).floor() as usize;
    (0..steps).map(|i| ((original - pick(i)) * stride) as f64 - 1.0).collect()
}

/// How many training timesteps, from the noisy end, have too little signal to be visited.
fn clipped(alphas_cumprod: &[f32], lambda_min: f32) -> usize {
    let lambda = |alpha: &f32| alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln();
    alphas_cumprod.iter().rev().take_while(|alpha| lambda(alpha) < lambda_min).count().min(alphas_cumprod.len() - 1)
}

/// The noise level at a timestep, between those of the training and held at its ends.
fn between(training: &[f32], timestep: f64) -> f64 {
    let last = training.len() - 1;
    let timestep = timestep.clamp(0.0, last as f64);
    let below = timestep as usize;
    let (low, high) = (f64::from(training[below]), f64::from(training[(below + 1).min(last)]));
    (high - low) * (timestep - below as f64) + low
}

/// Noise levels from the largest to the smallest, evenly spaced in their seventh root (Karras et al. 2022, equation 5).
fn karras(smallest: f64, largest: f64, count: usize) -> Vec<f64> {
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    linspace(1.0, count).into_iter().map(|part| (from + part * (to - from)).powf(RHO)).collect()
}

/// The timestep of a noise level, between those of the training by their logarithms.
fn timestep_of(logarithms: &[f32], sigma: f64) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let reached = logarithms.iter().rposition(|logarithm| wanted >= f64::from(*logarithm)).unwrap_or(0);
    let below = reached.min(logarithms.len().saturating_sub(2));
    let (low, high) = (logarithms[below], logarithms[(below + 1).min(logarithms.len() - 1)]);
    let part = ((f64::from(low) - wanted) / f64::from(low - high)).clamp(0.0, 1.0);
    (1.0 - part) * below as f64 + part * (below + 1) as f64
}
