//! Euler's method along the probability flow (Karras et al. 2022, equation 5), with and without fresh noise.

use candle_core::{Result, Tensor};

use super::plan::Plan;
use super::sampler::sum;
use super::settings::Prediction;
use crate::model::text_to_image::noise::Noise;

/// From the noise level of this step to that of the next.
pub(super) fn step(plan: &Plan, index: usize, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let (sigma, next) = (plan.sigmas[index], plan.sigmas[index + 1]);
    toward(plan, sigma, next, output, latents)
}

/// To a lower noise level than that of the next step, which fresh noise makes up for.
pub(super) fn ancestral_step(
    plan: &Plan,
    index: usize,
    output: &Tensor,
    latents: &Tensor,
    noise: &mut Noise,
) -> Result<Tensor> {
    let (sigma, next) = (plan.sigmas[index], plan.sigmas[index + 1]);
    let (square, next_square) = (sigma * sigma, next * next);
    let up = (next_square * (square - next_square) / square).sqrt();
    let down = (next_square - up * up).max(0.0).sqrt();
    let there = toward(plan, sigma, down, output, latents)?;
    // Drawn at the last step too, where none of it is left: the generator goes on as in diffusers.
    sum(&[(1.0, &there), (up, &noise.like(latents)?)])
}

/// x + (x − x₀) / σ · (σ' − σ), with x₀ put in as the output says it.
fn toward(plan: &Plan, sigma: f32, next: f32, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let (delta, variance) = (next - sigma, sigma * sigma + 1.0);
    let (keep, model) = match plan.settings.prediction {
        Prediction::Epsilon => (1.0, delta),
        // x₀ = x / (σ² + 1) − v σ / √(σ² + 1)
        Prediction::Velocity => (1.0 + delta * sigma / variance, delta / variance.sqrt()),
        Prediction::Sample => (1.0 + delta / sigma, -delta / sigma),
    };
    sum(&[(keep, latents), (model, output)])
}
