//! DPM-Solver++ (Lu et al. 2022) of up to three steps' memory, and its stochastic variant.

use candle_core::{Result, Tensor};

use super::plan::Plan;
use super::sampler::{Memory, sum};
use super::settings::{Prediction, Solver};
use crate::model::text_to_image::noise::Noise;

/// With fewer steps than this the last ones may be of a lower order.
const FEW: usize = 15;

/// The factors of picture and noise at a noise level, of variance 1 together.
pub(super) fn alpha_sigma(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// Half the logarithm of the signal-to-noise ratio.
pub(super) fn lambda(sigma: f32) -> f32 {
    let (alpha, sigma) = alpha_sigma(sigma);
    alpha.ln() - sigma.ln()
}

/// The picture that the output points to.
pub(super) fn picture(plan: &Plan, index: usize, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let (alpha, sigma) = alpha_sigma(plan.sigmas[index]);
    match plan.settings.prediction {
        Prediction::Epsilon => sum(&[(1.0, latents), (-sigma, output)])? / f64::from(alpha),
        Prediction::Velocity => sum(&[(alpha, latents), (-sigma, output)]),
        Prediction::Sample => Ok(output.clone()),
    }
}

pub(super) fn step(
    plan: &Plan,
    index: usize,
    memory: &mut Memory,
    output: &Tensor,
    latents: &Tensor,
    noise: &mut Noise,
) -> Result<Tensor> {
    let settings = &plan.settings;
    memory.keep(picture(plan, index, output, latents)?, settings.order);
    let order = order(plan, index, memory.taken);

    let (alpha, sigma) = alpha_sigma(plan.sigmas[index + 1]);
    let (_, sigma_now) = alpha_sigma(plan.sigmas[index]);
    let h = lambda(plan.sigmas[index + 1]) - lambda(plan.sigmas[index]);
    // The factors of the latents, of the picture, and of what follows from how the picture changed.
    let (latents_factor, picture_factor) = if settings.stochastic {
        (sigma / sigma_now * (-h).exp(), alpha * (1.0 - (-2.0 * h).exp()))
    } else {
        (sigma / sigma_now, -(alpha * ((-h).exp() - 1.0)))
    };
    let mut next = sum(&[(latents_factor, latents), (picture_factor, memory.output(0)?)])?;
    if order > 1 {
        let changes = changes(plan, index, memory, order, h)?;
        let slope = match settings.stochastic {
            _ if order == 2 && settings.solver == Solver::Midpoint => 0.5 * picture_factor,
            false => alpha * (((-h).exp() - 1.0) / h + 1.0),
            true => alpha * ((1.0 - (-2.0 * h).exp()) / (-2.0 * h) + 1.0),
        };
        let bend = if settings.stochastic {
            alpha * ((1.0 - (-2.0 * h).exp() - 2.0 * h) / (2.0 * h).powi(2) - 0.5)
        } else {
            -(alpha * (((-h).exp() - 1.0 + h) / h.powi(2) - 0.5))
        };
        for (change, factor) in changes.iter().zip([slope, bend]) {
            next = sum(&[(1.0, &next), (factor, change)])?;
        }
    }
    if settings.stochastic {
        let fresh = sigma * (1.0 - (-2.0 * h).exp()).sqrt();
        next = sum(&[(1.0, &next), (fresh, &noise.like(latents)?)])?;
    }
    Ok(next)
}

/// How many outputs this step uses: as many as there are, and fewer at the end.
fn order(plan: &Plan, index: usize, taken: usize) -> usize {
    let settings = &plan.settings;
    let count = plan.timesteps.len();
    let eases = settings.lower_order_final && count < FEW;
    let last = index + 1 == count && (settings.euler_at_final || eases || !settings.ends_at_sigma_min);
    let last_but_one = index + 2 == count && eases;
    match settings.order.min(taken + 1) {
        _ if last => 1,
        3 if last_but_one => 2,
        order => order,
    }
}

/// The first and, at order 3, the second divided difference of the pictures over λ, in units of this step.
fn changes(plan: &Plan, index: usize, memory: &Memory, order: usize, h: f32) -> Result<Vec<Tensor>> {
    let at = |back: usize| lambda(plan.sigmas[index - back]);
    let difference = |back: usize| -> Result<(f32, Tensor)> {
        let r = (at(back) - at(back + 1)) / h;
        let (one, other) = (memory.output(back)?, memory.output(back + 1)?);
        Ok((r, ((one - other)? * f64::from(1.0 / r))?))
    };
    let (r0, first) = difference(0)?;
    if order < 3 {
        return Ok(vec![first]);
    }
    let (r1, before) = difference(1)?;
    let turn = (&first - before)?;
    Ok(vec![sum(&[(1.0, &first), (r0 / (r0 + r1), &turn)])?, (turn * f64::from(1.0 / (r0 + r1)))?])
}
