//! What lies between the linear layers of a transformer's feed-forward.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::math;
use super::plain::{is_plain, read};

/// The exact GELU, by the error function.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    /// Numbers that a core works on at a time.
    const AT_ONCE: usize = 1 << 12;
    if !is_plain(x) {
        return x.gelu_erf();
    }
    let mut out = vec![0.0; x.elem_count()];
    read(&x.contiguous()?, |x| {
        out.par_chunks_mut(AT_ONCE).zip(x.par_chunks(AT_ONCE)).for_each(|(out, x)| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = math::gelu(*x));
        });
        Ok(())
    })?;
    Tensor::from_vec(out, x.dims(), &Device::Cpu)
}

/// diffusers' GEGLU without its linear layer: the first half of the last dimension, each times the exact GELU of its
/// partner in the second half.
pub fn geglu(wide: &Tensor) -> Result<Tensor> {
    let width = wide.dim(D::Minus1)?;
    let half = width / 2;
    if !is_plain(wide) {
        let (values, gate) = (wide.narrow(D::Minus1, 0, half)?, wide.narrow(D::Minus1, half, half)?);
        return values * gate.gelu_erf()?;
    }
    let mut shape = wide.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = half;
    }
    let mut out = vec![0.0; wide.elem_count() / 2];
    read(&wide.contiguous()?, |wide| {
        out.par_chunks_mut(half.max(1)).zip(wide.par_chunks(width.max(1))).for_each(|(out, wide)| {
            let (values, gates) = wide.split_at(half);
            out.iter_mut().zip(values).zip(gates).for_each(|((out, value), gate)| *out = value * math::gelu(*gate));
        });
        Ok(())
    })?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{apart, double, wave};

    /// What `of` makes of (3, 300, 14) numbers is what it makes of them in other numbers, which candle computes.
    fn is_candles(of: impl Fn(&Tensor) -> Result<Tensor>, width: usize) {
        let x = (wave(&[3, 300, 14], 0.0) * 4.0).unwrap();
        let found = of(&x).unwrap();
        assert_eq!(found.dims(), [3, 300, width]);
        assert!(apart(&found, &of(&double(&x)).unwrap()) < 4e-6);
    }

    #[test]
    fn they_are_candles_own() {
        is_candles(gelu, 14);
        is_candles(geglu, 7);
    }
}
