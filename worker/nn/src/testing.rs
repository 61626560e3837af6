//! What tests of layers have in common.

use candle_core::{DType, Device, Tensor};

/// Numbers from −1 to 1, of which two seeds make others.
pub(crate) fn wave(shape: &[usize], seed: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (seed + i as f32 * 0.7).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same numbers, of a kind that candle computes with.
pub(crate) fn double(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

/// How far the furthest of two tensors' numbers are apart.
pub(crate) fn apart(one: &Tensor, other: &Tensor) -> f64 {
    let apart = (double(one) - double(other)).unwrap().abs().unwrap();
    apart.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}
