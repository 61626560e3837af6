//! Kinds that work with the part of the picture's variance that is left at a timestep (ᾱ): DDIM, LCM and PNDM.

use candle_core::{Result, Tensor};

use super::plan::Plan;
use super::sampler::{Memory, sum};
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

/// Liu et al. 2022, linear multistep: the outputs of up to four steps, put together, take a step as in equation 9.
pub(super) fn pndm_step(
    plan: &Plan,
    index: usize,
    memory: &mut Memory,
    output: &Tensor,
    latents: &Tensor,
) -> Result<Tensor> {
    let timestep = plan.timesteps[index] as i64;
    // The second step goes the first one's way again, with the mean of what was said at both its ends.
    let again = memory.taken == 1;
    let (from, to) = if again { (timestep + plan.stride(), timestep) } else { (timestep, timestep - plan.stride()) };
    if !again {
        memory.keep(output.clone(), 4);
    }
    let output = match memory.outputs.len() {
        1 if again => sum(&[(0.5, output), (0.5, memory.output(0)?)])?,
        1 => output.clone(),
        2 => sum(&[(1.5, memory.output(0)?), (-0.5, memory.output(1)?)])?,
        3 => sum(&[
            (23.0 / 12.0, memory.output(0)?),
            (-16.0 / 12.0, memory.output(1)?),
            (5.0 / 12.0, memory.output(2)?),
        ])?,
        _ => sum(&[
            (55.0 / 24.0, memory.output(0)?),
            (-59.0 / 24.0, memory.output(1)?),
            (37.0 / 24.0, memory.output(2)?),
            (-9.0 / 24.0, memory.output(3)?),
        ])?,
    };
    let began = if again { memory.began.take() } else { None };
    let latents = began.as_ref().unwrap_or(latents);
    if memory.taken == 0 {
        memory.began = Some(latents.clone());
    }

    let (alpha, next) = (plan.alpha_at(from), plan.alpha_after(to));
    let noise = match plan.settings.prediction {
        Prediction::Velocity => sum(&[(alpha.sqrt(), &output), ((1.0 - alpha).sqrt(), latents)])?,
        Prediction::Epsilon | Prediction::Sample => output,
    };
    let divisor = alpha * (1.0 - next).sqrt() + (alpha * (1.0 - alpha) * next).sqrt();
    sum(&[((next / alpha).sqrt(), latents), (-(next - alpha) / divisor, &noise)])
}
