//! Scaled dot-product attention, as the text encoders and the UNet use it.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// Attention of `query` over `key` and `value`, each (batch, tokens, channels), in `heads` heads. `mask` is added to
/// the scores. The softmax is in f32 whatever the tensors are: f16 has no room for its sums.
pub(super) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, tokens, channels) = query.dims3()?;
    let head = channels / heads;
    let split = |x: &Tensor| x.reshape((batch, x.dim(1)?, heads, head))?.transpose(1, 2)?.contiguous();
    // Scaling the query rather than the scores keeps f16 products in range.
    let query = (split(query)? * (head as f64).powf(-0.5))?;
    let scores = query.matmul(&split(key)?.t()?)?.to_dtype(DType::F32)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let weights = softmax_last_dim(&scores)?.to_dtype(query.dtype())?;
    weights.matmul(&split(value)?)?.transpose(1, 2)?.reshape((batch, tokens, channels))
}
