//! The noise of each training timestep, in the f32 arithmetic of diffusers.

use super::error::SchedulerError;
use super::settings::{Betas, Settings};

/// The part of the picture's variance that is left at each training timestep (ᾱ), falling.
pub(super) fn alphas_cumprod(settings: &Settings) -> Result<Vec<f32>, SchedulerError> {
    let mut betas = betas(settings);
    if betas.iter().any(|beta| !(*beta > 0.0 && *beta < 1.0)) {
        return Err(SchedulerError::Betas);
    }
    if settings.zero_snr {
        betas = without_signal_at_the_end(&betas);
    }
    let mut left = product(&betas);
    if settings.zero_snr
        && settings.kind.has_sigmas()
        && let Some(last) = left.last_mut()
    {
        // Almost nothing, so that the largest noise level is not infinite.
        *last = 2.0_f32.powi(-24);
    }
    if left.iter().all(|left| left.is_finite()) { Ok(left) } else { Err(SchedulerError::Betas) }
}

/// Noise level of each training timestep, rising.
pub(super) fn sigmas(alphas_cumprod: &[f32]) -> Vec<f32> {
    alphas_cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
}

/// Running products of 1 − β: summed up in f64, handed out in f32.
fn product(betas: &[f32]) -> Vec<f32> {
    let mut left = 1.0_f64;
    let next = |beta: &f32| {
        left *= f64::from(1.0 - beta);
        left as f32
    };
    betas.iter().map(next).collect()
}

fn betas(settings: &Settings) -> Vec<f32> {
    let count = settings.train;
    match &settings.betas {
        Betas::Linear { start, end } => linspace(*start as f32, *end as f32, count),
        Betas::ScaledLinear { start, end } => {
            let roots = linspace(start.sqrt() as f32, end.sqrt() as f32, count);
            roots.into_iter().map(|root| root * root).collect()
        }
        Betas::SquaredCosine => {
            let left = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let at = |index: usize| index as f64 / count as f64;
            (0..count).map(|i| (1.0 - left(at(i + 1)) / left(at(i))).min(0.999) as f32).collect()
        }
        Betas::Trained(betas) => betas.clone(),
    }
}

/// As torch spaces numbers: from both ends to the middle.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (end - start) / (count - 1) as f32;
    let at = |i: usize| if i < count / 2 { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 };
    (0..count).map(at).collect()
}

/// Betas whose last timestep is noise alone (Lin et al. 2023, algorithm 1).
fn without_signal_at_the_end(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = product(betas).iter().map(|alpha| alpha.sqrt()).collect();
    let (first, last) = (roots.first().copied().unwrap_or(1.0), roots.last().copied().unwrap_or(0.0));
    let scale = first / (first - last);
    let left: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let before = std::iter::once(1.0).chain(left.iter().copied());
    left.iter().zip(before).map(|(left, before)| 1.0 - left / before).collect()
}
