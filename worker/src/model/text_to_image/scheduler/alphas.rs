//! Kinds that work with the part of the picture's variance that is left at a timestep (ᾱ), one step at a time: DDIM and LCM.

use candle_core::{Result, Tensor};

use super::plan::Plan;
use super::sampler::sum;
use super::settings::Prediction;
use crate::model::text_to_image::noise::Noise;

/// The variance of the data that consistency models assume: σ_data = 0.5.
const DATA_VARIANCE: f32 = 0.25;

/// The picture that the output points to.
fn picture(plan: &Plan, alpha: f32, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let (root, noise_root) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    let picture = match plan.settings.prediction {
        Prediction::Epsilon => sum(&[(1.0, latents), (-noise_root, output)])? / f64::from(root),
        Prediction::Velocity => sum(&[(root, latents), (-noise_root, output)]),
        Prediction::Sample => Ok(output.clone()),
    }?;
    match plan.settings.clip {
        Some(reach) => picture.clamp(-reach, reach),
        None => Ok(picture),
    }
}

/// Song et al. 2020, equation 12, without noise of its own.
pub(super) fn ddim_step(plan: &Plan, index: usize, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let timestep = plan.timesteps[index] as i64;
    let (alpha, next) = (plan.alpha_at(timestep), plan.alpha_after(timestep - plan.stride()));
    let (root, noise_root) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    let noise = match plan.settings.prediction {
        Prediction::Epsilon => output.clone(),
        Prediction::Velocity => sum(&[(root, output), (noise_root, latents)])?,
        Prediction::Sample => (sum(&[(1.0, latents), (-root, output)])? / f64::from(noise_root))?,
    };
    sum(&[(next.sqrt(), &picture(plan, alpha, output, latents)?), ((1.0 - next).sqrt(), &noise)])
}

/// Luo et al. 2023: straight to the picture, then fresh noise for the next step.
pub(super) fn lcm_step(
    plan: &Plan,
    index: usize,
    output: &Tensor,
    latents: &Tensor,
    noise: &mut Noise,
) -> Result<Tensor> {
    let timestep = plan.timesteps[index];
    let picture = picture(plan, plan.alpha_at(timestep as i64), output, latents)?;
    let scaled = (timestep * plan.settings.timestep_scaling) as f32;
    let variance = scaled * scaled + DATA_VARIANCE;
    let denoised = sum(&[(scaled / variance.sqrt(), &picture), (DATA_VARIANCE / variance, latents)])?;
    match plan.timesteps.get(index + 1) {
        None => Ok(denoised),
        Some(next) => {
            let next = plan.alpha_at(*next as i64);
            sum(&[(next.sqrt(), &denoised), ((1.0 - next).sqrt(), &noise.like(latents)?)])
        }
    }
}
