//! Passes of several pieces at a time.

use candle_core::Result as CandleResult;

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
