//! The normal numbers that torch's CPU generator draws, so that a seed here gives the picture that it gives in diffusers.
//!
//! `Noise::new(seed)` is `torch.Generator("cpu").manual_seed(seed)`: a Mersenne Twister (MT19937) seeded with the low 32
//! bits. `Noise::normal(count)` is `torch.randn(count, generator=…)` in f32, which has two ways: from 16 numbers on whole
//! blocks of eight pairs, below that one pair at a time in f64, of which an unused half waits for the next small draw.

use std::f64::consts::TAU;
use std::fmt;

use candle_core::{Device, Result, Tensor};

use super::box_muller::normal_pair;

const WORDS: usize = 624;
const SHIFT: usize = 397;
/// torch fills in blocks of this many numbers.
const BLOCK: usize = 16;

/// A job's own random numbers: they depend on its seed and on how much it has drawn, never on its batch or the device.
pub(super) struct Noise {
    state: [u32; WORDS],
    next: usize,
    /// The second half of a pair that a small draw left behind.
    half: Option<f64>,
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noise").field("next", &self.next).field("half", &self.half).finish_non_exhaustive()
    }
}

impl Noise {
    /// The generator of a seed. As in torch, seeds that have their low 32 bits in common are the same.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = [0; WORDS];
        let mut word = seed as u32;
        for (index, place) in (0_u32..).zip(&mut state) {
            if index > 0 {
                word = 1_812_433_253_u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(index);
            }
            *place = word;
        }
        Self { state, next: WORDS, half: None }
    }

    /// The next `count` numbers of mean 0 and variance 1.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.pair_by_pair() as f32).collect();
        }
        let mut drawn: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        let (blocks, rest) = drawn.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(to_normal);
        if !rest.is_empty() {
            // The last block is drawn anew as a whole, over what overlaps with the one before.
            let mut last = [0.0; BLOCK];
            last.fill_with(|| self.uniform());
            to_normal(&mut last);
            drawn[count - BLOCK..].copy_from_slice(&last);
        }
        drawn
    }

    /// The next numbers in the shape of `like`, on its device, in f32.
    pub(super) fn like(&mut self, like: &Tensor) -> Result<Tensor> {
        Tensor::from_vec(self.normal(like.elem_count()), like.shape(), &Device::Cpu)?.to_device(like.device())
    }

    /// From 0 to 1, without 1, in 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.word() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    /// From 0 to 1, without 1, in 53 bits of two words, the first of which is the upper one.
    fn uniform_f64(&mut self) -> f64 {
        let upper = u64::from(self.word()) << 32;
        ((upper | u64::from(self.word())) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller's transform in f64.
    fn pair_by_pair(&mut self) -> f64 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let angle = TAU * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.half = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..WORDS {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % WORDS] & 0x7FFF_FFFF);
            let turned = (joined >> 1) ^ if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[index] = self.state[(index + SHIFT) % WORDS] ^ turned;
        }
    }
}

/// Box and Muller's transform of a block in place: number `i` and number `i + 8` make a pair.
fn to_normal(block: &mut [f32; BLOCK]) {
    let (ones, others) = block.split_at_mut(BLOCK / 2);
    for (one, other) in ones.iter_mut().zip(others) {
        (*one, *other) = normal_pair(*one, *other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::golden;

    /// The counts of bench/parity/noise.py that follow each other.
    const CHAIN: [usize; 7] = [3, 16, 1, 2, 20, 5, 1];
    const KEPT: usize = 64;

    #[test]
    fn numbers_are_those_of_torch() {
        let goldens = golden::tensors("noise.safetensors");
        for (name, known) in &goldens {
            let (seed, count) = name.split_once('/').unwrap();
            let mut noise = Noise::new(seed.parse().unwrap());
            let known = known.to_vec1::<f32>().unwrap();
            let found = match count.parse::<usize>() {
                Ok(count) if count > 256 => {
                    let drawn = noise.normal(count);
                    let middle = count / 2;
                    [&drawn[..KEPT], &drawn[middle..middle + KEPT], &drawn[count - KEPT..]].concat()
                }
                Ok(count) => noise.normal(count),
                Err(_) => CHAIN.iter().flat_map(|count| noise.normal(*count)).collect(),
            };
            assert_eq!(found.len(), known.len(), "{name}");
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&known), "{name}: {found:?} is not {known:?}");
        }
        assert!(goldens.len() >= 28, "only {} goldens", goldens.len());
    }

    #[test]
    fn a_generator_goes_on_where_it_stopped() {
        let mut one = Noise::new(5);
        let first = one.normal(32);
        let second = one.normal(32);
        assert_ne!(first, second);
        assert_eq!(Noise::new(5).normal(64), [first, second].concat());
        assert_ne!(Noise::new(5).normal(16), Noise::new(6).normal(16));
    }
}
