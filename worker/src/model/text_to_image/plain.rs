//! Tensors of f32 on a CPU as the numbers that they are, for what is computed here and not by candle.

use candle_core::{CpuStorage, DType, Device, Error, Result, Storage, Tensor};

/// Whether a tensor is one of these.
pub(super) fn is_plain(x: &Tensor) -> bool {
    matches!((x.device(), x.dtype()), (Device::Cpu, DType::F32))
}

/// Reads a contiguous tensor's numbers, row by row; an error where it is on another device or of other numbers.
pub(super) fn read<T>(x: &Tensor, with: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => with(&values[start..end]),
        _ => Err(Error::Msg("what computes in f32 on a CPU was given another tensor".into())),
    }
}
