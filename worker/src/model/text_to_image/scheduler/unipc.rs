//! UniPC (Zhao et al. 2023): each step is first corrected by what the model says at its end, then the next is predicted.

use candle_core::{Result, Tensor};

use super::dpm::{alpha_sigma, lambda, picture};
use super::plan::Plan;
use super::sampler::{Memory, sum};
use super::settings::Solver;

pub(super) fn step(
    plan: &Plan,
    index: usize,
    memory: &mut Memory,
    output: &Tensor,
    latents: &Tensor,
) -> Result<Tensor> {
    let settings = &plan.settings;
    let now = picture(plan, index, output, latents)?;
    let corrects = index > 0 && !settings.disable_corrector.contains(&(index - 1));
    let latents = match &memory.began {
        Some(began) if corrects => correct(plan, index, memory, &now, began)?,
        _ => latents.clone(),
    };
    memory.keep(now, settings.order);
    let order =
        if settings.lower_order_final { settings.order.min(plan.timesteps.len() - index) } else { settings.order };
    memory.order = order.min(memory.taken + 1);
    let next = predict(plan, index, memory, &latents)?;
    memory.began = Some(latents);
    Ok(next)
}

/// A step from one noise level to another, and what the formulas need of it.
struct Stride {
    /// λ where it begins.
    from: f32,
    /// Its length in λ.
    h: f32,
    /// Factors of the latents, of the picture at its beginning, and of the pictures' differences.
    latents: f32,
    picture: f32,
    differences: f32,
    solver: Solver,
}

impl Stride {
    fn new(plan: &Plan, from: usize, to: usize) -> Self {
        let (alpha, sigma) = alpha_sigma(plan.sigmas[to]);
        let (_, sigma_from) = alpha_sigma(plan.sigmas[from]);
        let h = lambda(plan.sigmas[to]) - lambda(plan.sigmas[from]);
        let grown = (-h).exp_m1();
        let solver = plan.settings.solver;
        let b = if solver == Solver::Bh1 { -h } else { grown };
        let latents = sigma / sigma_from;
        Self { from: lambda(plan.sigmas[from]), h, latents, picture: -alpha * grown, differences: -alpha * b, solver }
    }

    /// Where in units of this stride the noise level `index` lies.
    fn at(&self, plan: &Plan, index: usize) -> f32 {
        (lambda(plan.sigmas[index]) - self.from) / self.h
    }

    /// Weights of the differences: R ρ = b, with R of powers of `places` and b of the φ functions of −h.
    fn weights(&self, places: &[f32], count: usize) -> Result<Vec<f32>> {
        let hh = -self.h;
        let b_h = if self.solver == Solver::Bh1 { hh } else { hh.exp_m1() };
        let mut phi = hh.exp_m1() / hh - 1.0;
        let mut factorial = 1.0;
        let mut powers = vec![1.0; count];
        let mut rows = Vec::new();
        for row in 0..count {
            rows.push(powers.iter().copied().chain([phi * factorial / b_h]).collect());
            powers.iter_mut().zip(places).for_each(|(power, place)| *power *= place);
            factorial *= (row + 2) as f32;
            phi = phi / hh - 1.0 / factorial;
        }
        solve(rows)
    }
}

/// Takes the last step again, now that the model has said what it thinks of its end.
fn correct(plan: &Plan, index: usize, memory: &Memory, now: &Tensor, began: &Tensor) -> Result<Tensor> {
    let stride = Stride::new(plan, index - 1, index);
    let before = memory.output(0)?;
    let places: Vec<f32> = (1..memory.order).map(|i| stride.at(plan, index - 1 - i)).chain([1.0]).collect();
    // With one weight its equation is not solved: a half is as good, and what UniPC was tuned with.
    let weights = if memory.order == 1 { vec![0.5] } else { stride.weights(&places, memory.order)? };
    let mut next = sum(&[(stride.latents, began), (stride.picture, before)])?;
    for (back, (place, weight)) in places.iter().zip(weights).enumerate() {
        let earlier = if back + 1 == places.len() { now } else { memory.output(back + 1)? };
        next = sum(&[(1.0, &next), (stride.differences * weight / place, &(earlier - before)?)])?;
    }
    Ok(next)
}

/// Takes the next step with what is known so far.
fn predict(plan: &Plan, index: usize, memory: &Memory, latents: &Tensor) -> Result<Tensor> {
    let stride = Stride::new(plan, index, index + 1);
    let now = memory.output(0)?;
    let places: Vec<f32> = (1..memory.order).map(|back| stride.at(plan, index - back)).collect();
    let weights = match memory.order {
        1 => Vec::new(),
        2 => vec![0.5],
        order => stride.weights(&places, order - 1)?,
    };
    let mut next = sum(&[(stride.latents, latents), (stride.picture, now)])?;
    for (back, (place, weight)) in places.iter().zip(weights).enumerate() {
        next = sum(&[(1.0, &next), (stride.differences * weight / place, &(memory.output(back + 1)? - now)?)])?;
    }
    Ok(next)
}

/// Solves up to three linear equations, each a row of factors and its right side, by elimination with pivots.
fn solve(mut rows: Vec<Vec<f32>>) -> Result<Vec<f32>> {
    let count = rows.len();
    for column in 0..count {
        let pivot = (column..count).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        if rows[column][column] == 0.0 {
            return Err(candle_core::Error::Msg("two steps of the scheduler have the same noise level".into()));
        }
        let by = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(index, _)| *index != column) {
            let factor = row[column] / by[column];
            row.iter_mut().zip(&by).skip(column).for_each(|(value, by)| *value -= factor * by);
        }
    }
    Ok((0..count).map(|i| rows[i][count] / rows[i][i]).collect())
}
