//! Tensors of f32 on a CPU as the numbers that they are, for what is computed here and not by candle.

use candle_core::{CpuStorage, D, DType, Device, Error, InplaceOp1, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

/// Whether a tensor is one of these.
pub(super) fn is_plain(x: &Tensor) -> bool {
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
    let (width, count) = (x.dim(D::Minus1)?.max(1), x.elem_count());
    let all = |to: &[f32]| {
        change(x, |x| {
            x.par_chunks_mut(width).enumerate().for_each(|(index, row)| {
                let to = to.get(index * width..(index + 1) * width).unwrap_or_default();
                row.iter_mut().zip(to).for_each(|(x, to)| *x += to);
                row.iter_mut().zip(bias.unwrap_or_default()).for_each(|(x, bias)| *x += bias);
            });
            Ok(())
        })
    };
    match to {
        None => all(&[]),
        Some(to) if to.elem_count() == count => read(to, all),
        Some(to) => Err(Error::Msg(format!("{} numbers are to be added to {count}", to.elem_count()))),
    }
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
