//! Seeded randomness: the same seed gives the same numbers on every machine.

use std::f64::consts::TAU;

/// Different uses draw from different streams, so that one more draw in one leaves the others as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// When jobs arrive and how long they take: the same for every policy.
    Trace,
    /// Starts, receives and counts.
    World,
    /// The clocks of a policy.
    Policy,
}

/// A stream of numbers.
#[derive(Debug)]
pub(super) struct Random(fastrand::Rng);

impl Random {
    pub(super) fn new(seed: u64, stream: Stream) -> Self {
        // Any odd constants do: they only keep neighbouring seeds and streams apart.
        Self(fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((stream as u64 + 1) << 56)))
    }

    /// Uniform in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// One of `0..count`; 0 where there is none.
    pub(super) fn index(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.usize(..count) }
    }

    /// Lognormal with this mean and coefficient of variation: for cv² = exp(σ²) − 1 and mean = exp(μ + σ²/2), by
    /// Box and Muller's transformation.
    pub(super) fn lognormal(&mut self, mean: f64, cv: f64) -> f64 {
        if cv <= 0.0 || mean <= 0.0 {
            return mean;
        }
        let variance = cv.mul_add(cv, 1.0).ln();
        let normal = (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (TAU * self.unit()).cos();
        variance.sqrt().mul_add(normal, mean.ln() - variance / 2.0).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lognormal_has_the_mean_and_the_spread_that_it_was_asked_for() {
        let mut random = Random::new(7, Stream::World);
        let drawn: Vec<f64> = (0..100_000).map(|_| random.lognormal(5.0, 0.5)).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let deviation = (drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / drawn.len() as f64).sqrt();
        assert!((mean - 5.0).abs() < 0.05, "{mean}");
        assert!((deviation / mean - 0.5).abs() < 0.02, "{deviation}");
    }

    #[test]
    fn without_variation_nothing_is_drawn() {
        let mut random = Random::new(7, Stream::World);
        assert!((random.lognormal(5.0, 0.0) - 5.0).abs() < f64::EPSILON);
    }
}
