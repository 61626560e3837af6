//! MPNet's bias: how much more or less a token attends to one that is so far before or after it. Near distances have a number
//! of their own, far ones share it by the logarithm (Raffel et al. 2020, section 2.1).

use candle_core::{DType, Result, Tensor};

/// From here on all distances share the last number.
const FARTHEST: f32 = 128.0;

/// What is added to the scores of a text of so many tokens: (heads, tokens, tokens), f32. `table` is (buckets, heads).
pub(super) fn bias(table: &Tensor, tokens: usize) -> Result<Tensor> {
    let buckets = table.dim(0)?;
    let ids: Vec<u32> = (0..tokens).flat_map(|query| (0..tokens).map(move |key| bucket(query, key, buckets))).collect();
    let ids = Tensor::from_vec(ids, tokens * tokens, table.device())?;
    let bias = table.index_select(&ids, 0)?.t()?.contiguous()?;
    bias.reshape((table.dim(1)?, tokens, tokens))?.to_dtype(DType::F32)
}

/// The number of the distance from a query to a key. Keys that come after have the upper half.
fn bucket(query: usize, key: usize, buckets: usize) -> u32 {
    let half = (buckets / 2) as u32;
    let side = if key > query { half } else { 0 };
    let exact = half / 2;
    let far = query.abs_diff(key) as u32;
    if far < exact {
        return side + far;
    }
    // in f32 as there: on the border between two numbers the last bit decides
    let share = (far as f32 / exact as f32).ln() / (f64::from(FARTHEST) / f64::from(exact)).ln() as f32;
    side + (exact + (share * (half - exact) as f32) as u32).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_a_number_of_their_own() {
        let before = |far: &[usize]| -> Vec<u32> { far.iter().map(|far| bucket(500, 500 - far, 32)).collect() };
        let after = |far: &[usize]| -> Vec<u32> { far.iter().map(|far| bucket(0, *far, 32)).collect() };
        assert_eq!(before(&[0, 1, 7, 8, 11, 12, 127, 128, 500]), [0, 1, 7, 8, 8, 9, 15, 15, 15]);
        assert_eq!(after(&[0, 1, 7, 8, 128, 500]), [0, 17, 23, 24, 31, 31]);
    }
}
