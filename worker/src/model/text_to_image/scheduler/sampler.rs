//! One job on its way from noise to a picture: where it stands, and what its next steps must remember.

use candle_core::{Result, Tensor};

use super::kind::Kind;
use super::plan::Plan;
use super::{alphas, dpm, euler, pndm, unipc};
use crate::model::text_to_image::noise::Noise;

/// The state of one job's denoising. All its pictures take the same steps, so latents are (pictures, channels, height,
/// width); they stay f32 whatever the model computes in, since rounding them at each step would add up.
#[derive(Debug)]
pub(in super::super) struct Sampler {
    plan: Plan,
    index: usize,
    memory: Memory,
}

/// What multistep kinds keep from the steps before, the latest last.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Earlier outputs, as noise or as pictures.
    pub(super) outputs: Vec<Tensor>,
    /// The latents that the last step began from.
    pub(super) began: Option<Tensor>,
    /// What a step of several passes has gathered so far.
    pub(super) gathered: Option<Tensor>,
    /// The order of the last step.
    pub(super) order: usize,
    /// Steps that were taken.
    pub(super) taken: usize,
}

impl Memory {
    /// Keeps an output, and no more than `count`.
    pub(super) fn keep(&mut self, output: Tensor, count: usize) {
        if self.outputs.len() >= count {
            self.outputs.drain(..=self.outputs.len() - count);
        }
        self.outputs.push(output);
    }

    /// The output `back` steps ago.
    pub(super) fn output(&self, back: usize) -> Result<&Tensor> {
        let found = self.outputs.iter().rev().nth(back);
        found.ok_or_else(|| candle_core::Error::Msg(format!("the scheduler has no output of {back} steps ago")))
    }
}

impl Sampler {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, index: 0, memory: Memory::default() }
    }

    /// What the UNet is told at each step, from the first.
    #[cfg(test)]
    pub(in super::super) fn timesteps(&self) -> &[f64] {
        &self.plan.timesteps
    }

    /// Standard deviation of the first latents of a job that begins from noise.
    pub(in super::super) fn init_noise_sigma(&self) -> f64 {
        f64::from(self.plan.init_noise_sigma())
    }

    /// The next step, counted from 0.
    #[cfg(test)]
    pub(in super::super) fn index(&self) -> usize {
        self.index
    }

    /// Steps that are still to be taken.
    pub(in super::super) fn left(&self) -> usize {
        self.plan.timesteps.len() - self.index
    }

    /// Whether all steps are taken.
    pub(in super::super) fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// What the UNet is told at the next step; the last step's where all are taken.
    pub(in super::super) fn timestep(&self) -> f64 {
        let last = self.plan.timesteps.len().saturating_sub(1);
        self.plan.timesteps.get(self.index.min(last)).copied().unwrap_or_default()
    }

    /// Leaves out the first steps, as a picture that is already there needs only `strength` (0 to 1) of them. None are
    /// left where that is less than one step: ask `is_done`.
    pub(in super::super) fn begin_at(&mut self, strength: f64) {
        let steps = self.plan.steps;
        let wanted = ((steps as f64 * strength) as usize).min(steps);
        // A strength of 0 leaves none, also where a kind takes more steps than it was asked for.
        self.index = if wanted == 0 { self.plan.timesteps.len() } else { steps - wanted };
    }

    /// What the UNet reads for these latents at the next step.
    pub(in super::super) fn scale_input(&self, latents: &Tensor) -> Result<Tensor> {
        match self.sigma(self.index) {
            Some(sigma) if self.plan.settings.kind.is_unscaled() => latents / f64::from((sigma * sigma + 1.0).sqrt()),
            _ => Ok(latents.clone()),
        }
    }

    /// A picture's latents under noise, as the next step expects them. Both (pictures, channels, height, width).
    pub(in super::super) fn add_noise(&self, original: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (picture, added) = match self.sigma(self.index) {
            Some(sigma) if self.plan.settings.kind.is_unscaled() => (1.0, sigma),
            Some(sigma) => dpm::alpha_sigma(sigma),
            None => {
                let left = self.plan.alpha_at(self.timestep() as i64);
                (left.sqrt(), (1.0 - left).sqrt())
            }
        };
        sum(&[(picture, original), (added, noise)])
    }

    /// Takes the next step. `output` is the UNet's for `scale_input(latents)` at `timestep()`, guidance applied; kinds
    /// that add fresh noise draw it from `noise`.
    pub(in super::super) fn step(&mut self, output: &Tensor, latents: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        if self.is_done() {
            return Err(candle_core::Error::Msg("the scheduler has no step left".into()));
        }
        let (plan, index, memory) = (&self.plan, self.index, &mut self.memory);
        let next = match plan.settings.kind {
            Kind::Euler => euler::step(plan, index, output, latents),
            Kind::EulerAncestral => euler::ancestral_step(plan, index, output, latents, noise),
            Kind::Ddim => alphas::ddim_step(plan, index, output, latents),
            Kind::Lcm => alphas::lcm_step(plan, index, output, latents, noise),
            Kind::Pndm => pndm::step(plan, index, memory, output, latents),
            Kind::Dpm => dpm::step(plan, index, memory, output, latents, noise),
            Kind::UniPc => unipc::step(plan, index, memory, output, latents),
        }?;
        self.memory.taken += 1;
        self.index += 1;
        Ok(next)
    }

    fn sigma(&self, index: usize) -> Option<f32> {
        self.plan.sigmas.get(index).copied()
    }

    #[cfg(test)]
    pub(super) fn sigmas(&self) -> &[f32] {
        &self.plan.sigmas
    }
}

/// The sum of tensors, each times its factor.
pub(super) fn sum(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    let mut scaled = terms.iter().map(|(factor, tensor)| *tensor * f64::from(*factor));
    let first = scaled.next().unwrap_or_else(|| Err(candle_core::Error::Msg("a sum of nothing".into())))?;
    scaled.try_fold(first, |sum, term| sum + term?)
}
