//! The gate of a transformer's feed-forward.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::math::gelu;
use super::plain::{is_plain, read};

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
            out.iter_mut().zip(values).zip(gates).for_each(|((out, value), gate)| *out = value * gelu(*gate));
        });
        Ok(())
    })?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_candles_own() {
        let wide: Vec<f32> = (0..3 * 5 * 14).map(|i| (i as f32 * 0.37).sin() * 4.0).collect();
        let wide = Tensor::from_vec(wide, (3, 5, 14), &Device::Cpu).unwrap();
        let found = geglu(&wide).unwrap();
        let known = geglu(&wide.to_dtype(candle_core::DType::F64).unwrap()).unwrap();
        assert_eq!(found.dims(), [3, 5, 7]);
        let apart = (found.to_dtype(candle_core::DType::F64).unwrap() - known).unwrap().abs().unwrap();
        assert!(apart.flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap() < 4e-6);
    }
}
