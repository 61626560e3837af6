//! Passes of several pieces at a time, whose rows lie end to end.

use std::ops::Range;

use candle_core::{Device, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::RunError;
use super::weights::run_error;

/// What `pass` makes of each piece. Where it fails, halves are tried: what fails is the error of its piece alone.
pub(super) fn by_halves<P, T>(
    pieces: &mut [P],
    pass: &impl Fn(&mut [P]) -> CandleResult<Vec<T>>,
) -> Vec<Result<T, RunError>> {
    if pieces.is_empty() {
        return Vec::new();
    }
    match pass(pieces) {
        Ok(made) => made.into_iter().map(Ok).collect(),
        Err(error) if pieces.len() > 1 => {
            tracing::warn!(pieces = pieces.len(), %error, "a pass failed; trying halves");
            let (left, right) = pieces.split_at_mut(pieces.len() / 2);
            let mut results = by_halves(left, pass);
            results.extend(by_halves(right, pass));
            results
        }
        Err(error) => vec![Err(run_error(&error))],
    }
}

/// Where the rows of each piece end, which has so many.
pub(super) fn ends(rows: impl Iterator<Item = usize>) -> Vec<usize> {
    rows.scan(0, |end, rows| {
        *end += rows;
        Some(*end)
    })
    .collect()
}

/// The last row of each piece, by where its rows end.
pub(super) fn lasts(ends: &[usize], device: &Device) -> CandleResult<Tensor> {
    Tensor::new(ends.iter().map(|end| *end as u32 - 1).collect::<Vec<_>>(), device)
}

/// What is computed of each piece with its own rows of the whole, end to end: side by side on the cores of a CPU; a GPU takes
/// them one by one.
pub(super) fn each<P: Send>(
    pieces: &mut [P],
    ends: &[usize],
    device: &Device,
    one: impl Fn(&mut P, Range<usize>) -> CandleResult<Tensor> + Sync,
) -> CandleResult<Tensor> {
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let own: Vec<Range<usize>> = begins.zip(ends).map(|(begin, end)| begin..*end).collect();
    let one = |(piece, own): (&mut P, Range<usize>)| one(piece, own);
    let made: Vec<Tensor> = if device.is_cpu() {
        pieces.par_iter_mut().zip(own).map(one).collect::<CandleResult<_>>()?
    } else {
        pieces.iter_mut().zip(own).map(one).collect::<CandleResult<_>>()?
    };
    Tensor::cat(&made, 0)
}
