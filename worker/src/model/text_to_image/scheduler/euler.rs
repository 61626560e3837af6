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

/// x + (x − x₀) / σ · (σ' − σ), in the very order of diffusers: at the noise levels of a schedule without signal at its end
/// (σ = 4096) the rounding of each operation is seen in the result.
fn toward(plan: &Plan, sigma: f32, next: f32, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let variance = sigma * sigma + 1.0;
    let picture = match plan.settings.prediction {
        Prediction::Epsilon => sum(&[(1.0, latents), (-sigma, output)])?,
        Prediction::Velocity => (divide(latents, variance)? + (output * f64::from(-sigma / variance.sqrt()))?)?,
        Prediction::Sample => output.clone(),
    };
    let slope = divide(&(latents - picture)?, sigma)?;
    sum(&[(1.0, latents), (next - sigma, &slope)])
}

/// A division; a tensor over a number would be multiplied by its reciprocal.
fn divide(tensor: &Tensor, by: f32) -> Result<Tensor> {
    tensor.broadcast_div(&Tensor::new(by, tensor.device())?)
}
