//! Functions of f32 that a compiler can compute several of at a time: without branches, calls and tables.

/// Numbers that are summed, or compared, beside each other.
const SIDE_BY_SIDE: usize = 16;

/// e to the power of `x`, to 2 units in the last place; 0 below −87 and no more than e⁸⁸ above.
///
/// `x` is split into n · ln 2 and a rest of at most half of that, whose power is a Taylor polynomial; 2ⁿ is made of
/// bits.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves a number's nearest integer in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that the product with the first is exact
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let small = x < -87.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let rest = x - n * LN_2_HIGH - n * LN_2_LOW;
    let power = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]
        .into_iter()
        .fold(1.0 / 5040.0, |sum, term| sum * rest + term);
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if small { 0.0 } else { power * scale }
}

/// The error function, to 3e-7: the rational approximation of the Eigen library (`generic_fast_erf_float`), which
/// XLA uses too; beyond ±4 it is ±1.
#[inline]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let over = [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2]
        .into_iter()
        .fold(-2.726_142_3e-10, |sum, term| sum * square + term);
    let under = [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2]
        .into_iter()
        .fold(-1.456_607_2e-5, |sum, term| sum * square + term);
    x * over / under
}

/// x · sigmoid(x).
#[inline]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x · Φ(x), by the error function.
#[inline]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The sum of what `each` makes of the values: in f32 over a few at a time, which the processor adds side by side, and in
/// f64 over those sums.
pub(super) fn sum(values: &[f32], each: impl Fn(f32) -> f32) -> f64 {
    const BLOCK: usize = 64 * SIDE_BY_SIDE;
    let block = |block: &[f32]| {
        let mut sums = [0.0_f32; SIDE_BY_SIDE];
        let chunks = block.chunks_exact(SIDE_BY_SIDE);
        let rest: f32 = chunks.remainder().iter().map(|value| each(*value)).sum();
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += each(*value));
        }
        f64::from(rest) + sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
    };
    values.chunks(BLOCK).map(block).sum()
}

/// The largest of the values.
pub(super) fn most(values: &[f32]) -> f32 {
    let chunks = values.chunks_exact(SIDE_BY_SIDE);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut mosts = [f32::NEG_INFINITY; SIDE_BY_SIDE];
    for chunk in chunks {
        mosts.iter_mut().zip(chunk).for_each(|(most, value)| *most = if *value > *most { *value } else { *most });
    }
    mosts.into_iter().fold(rest, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From −100 to 100, close together around 0.
    fn numbers() -> impl Iterator<Item = f32> {
        (-100_000..=100_000).map(|i| (i as f32 / 100_000.0).powi(3) * 100.0)
    }

    #[test]
    fn exp_is_the_standard_librarys() {
        for x in numbers().filter(|x| (-87.0..=88.0).contains(x)) {
            let known = f64::from(x).exp();
            assert!((f64::from(exp(x)) / known - 1.0).abs() < 4e-7, "{x}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn sums_and_the_largest_are_of_all() {
        for count in [0, 1, 15, 16, 17, 1024, 5000] {
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin() - 2.0).collect();
            let known: f64 = values.iter().map(|value| f64::from(*value) * 2.0).sum();
            assert!((sum(&values, |value| value * 2.0) - known).abs() < 1e-3, "{count}");
            let known = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(most(&values).to_bits(), known.to_bits(), "{count}");
        }
    }

    #[test]
    fn gelu_and_silu_are_candles() {
        use candle_core::{Device, Tensor};
        let x: Vec<f32> = numbers().collect();
        let tensor = Tensor::from_slice(&x, x.len(), &Device::Cpu).unwrap();
        let gelus = tensor.gelu_erf().unwrap().to_vec1::<f32>().unwrap();
        let silus = tensor.silu().unwrap().to_vec1::<f32>().unwrap();
        for ((x, known_gelu), known_silu) in x.into_iter().zip(gelus).zip(silus) {
            assert!((gelu(x) - known_gelu).abs() < 1e-6 * x.abs().max(1.0), "gelu({x}): {} {known_gelu}", gelu(x));
            assert!((silu(x) - known_silu).abs() < 1e-6 * x.abs().max(1.0), "silu({x}): {} {known_silu}", silu(x));
        }
        assert!(gelu(f32::NAN).is_nan() && silu(f32::NAN).is_nan());
    }
}
