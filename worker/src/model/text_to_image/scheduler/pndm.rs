//! PNDM (Liu et al. 2022): the outputs of up to four steps, put together, take each step; before there are four, Runge and
//! Kutta's method does, or lower orders where the model skips that.

use candle_core::{Result, Tensor};

use super::plan::{Plan, RUNGE_KUTTA_PASSES};
use super::sampler::{Memory, sum};
use super::settings::Prediction;

/// How many outputs a step is made of.
const ORDER: usize = 4;

pub(super) fn step(
    plan: &Plan,
    index: usize,
    memory: &mut Memory,
    output: &Tensor,
    latents: &Tensor,
) -> Result<Tensor> {
    if plan.settings.runge_kutta && memory.taken < RUNGE_KUTTA_PASSES {
        return pass(plan, index, memory, output, latents);
    }
    let timestep = plan.timesteps[index] as i64;
    // The second step goes the first one's way again, with the mean of what was said at both its ends.
    let again = memory.taken == 1;
    let (from, to) = if again { (timestep + plan.stride(), timestep) } else { (timestep, timestep - plan.stride()) };
    if !again {
        memory.keep(output.clone(), ORDER);
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
    onward(plan, from, to, &output, latents)
}

/// One of the four passes of a Runge-Kutta step, all of which begin at the same latents.
fn pass(plan: &Plan, index: usize, memory: &mut Memory, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let which = memory.taken % 4;
    if which == 0 {
        memory.keep(output.clone(), ORDER);
        memory.began = Some(latents.clone());
    }
    let share = if which == 0 || which == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
    let gathered = match memory.gathered.take() {
        Some(gathered) => sum(&[(1.0, &gathered), (share, output)])?,
        None => sum(&[(share, output)])?,
    };
    // The first and the third pass look ahead from the step's beginning to what the next one asks about.
    let half = if which.is_multiple_of(2) { plan.stride() / 2 } else { 0 };
    let to = plan.timesteps[index] as i64 - half;
    let from = plan.timesteps[memory.taken - which] as i64;
    let began = memory.began.clone();
    let began = began.as_ref().unwrap_or(latents);
    if which == 3 {
        return onward(plan, from, to, &gathered, began);
    }
    memory.gathered = Some(gathered);
    onward(plan, from, to, output, began)
}

/// From one timestep to another with what the model says of the noise (equation 9).
fn onward(plan: &Plan, from: i64, to: i64, output: &Tensor, latents: &Tensor) -> Result<Tensor> {
    let (alpha, next) = (plan.alpha_at(from), plan.alpha_after(to));
    let noise = match plan.settings.prediction {
        Prediction::Velocity => sum(&[(alpha.sqrt(), output), ((1.0 - alpha).sqrt(), latents)])?,
        Prediction::Epsilon | Prediction::Sample => output.clone(),
    };
    let divisor = alpha * (1.0 - next).sqrt() + (alpha * (1.0 - alpha) * next).sqrt();
    sum(&[((next / alpha).sqrt(), latents), (-(next - alpha) / divisor, &noise)])
}
