//! Tensors of f32 on a CPU as the numbers that they are, for what is computed here and not by candle.

use candle_core::{CpuStorage, D, DType, Device, Error, InplaceOp1, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

/// Whether a tensor is one of these.
pub fn is_plain(x: &Tensor) -> bool {
    matches!((x.device(), x.dtype()), (Device::Cpu, DType::F32))
}

/// Reads a contiguous tensor's numbers, row by row; an error where it is on another device or of other numbers.
pub(super) fn read<T>(x: &Tensor, with: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => with(&values[start..end]),
        _ => Err(foreign()),
    }
}

/// Changes a contiguous tensor's numbers where they are: only of one that nobody else has seen.
pub(super) fn change(x: &Tensor, with: impl Fn(&mut [f32]) -> Result<()>) -> Result<()> {
    x.inplace_op1(&Change(with))
}

/// Adds to each row of `x` (…, channels) what `bias` has for its channels, and all of `to`.
pub(super) fn add(x: &Tensor, bias: Option<&[f32]>, to: Option<&Tensor>) -> Result<()> {
    let width = x.dim(D::Minus1)?.max(1);
    let with_bias = |row: &mut [f32]| row.iter_mut().zip(bias.unwrap_or_default()).for_each(|(x, bias)| *x += bias);
    let Some(to) = to else {
        return change(x, |x| {
            x.par_chunks_mut(width).for_each(with_bias);
            Ok(())
        });
    };
    read(to, |to| {
        change(x, |x| {
            if x.len() != to.len() {
                return Err(Error::Msg(format!("{} numbers are to be added to {}", x.len(), to.len())));
            }
            x.par_chunks_mut(width).zip(to.par_chunks(width)).for_each(|(row, to)| {
                row.iter_mut().zip(to).for_each(|(x, to)| *x += to);
                with_bias(row);
            });
            Ok(())
        })
    })
}

struct Change<F>(F);

impl<F: Fn(&mut [f32]) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => (self.0)(&mut values[start..end]),
            _ => Err(foreign()),
        }
    }
}

fn foreign() -> Error {
    Error::Msg("what computes in f32 on a CPU was given another tensor".into())
}
