//! A job's random numbers.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// A job's own random numbers, so that it does not depend on the others of its batch, nor on the device.
#[derive(Debug)]
pub(super) struct Noise(ChaCha12Rng);

impl Noise {
    /// The noise of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    /// The next `count` numbers.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        StandardNormal.sample_iter(&mut self.0).take(count).collect()
    }
}
