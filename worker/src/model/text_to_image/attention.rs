//! Scaled dot-product attention, as the text encoders, the UNet and the VAE use it.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// Most scores that are held at a time: attention among the pixels of a large picture is worked off in parts, or it alone
/// would take more memory than the model.
const MOST_SCORES: usize = 1 << 26;

/// How scores come about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scores<'a> {
    Plain,
    /// Multiplied in f32, for models whose scores overflow f16.
    Upcast,
    /// With a mask added: (1, 1, tokens, tokens), f32.
    Masked(&'a Tensor),
}

/// Attention of `query` over `key` and `value`, each (rows, tokens, channels), in `heads` heads. The softmax is in f32
/// whatever the tensors are: f16 has no room for its sums. Where the device has flash attention, that is taken.
pub(super) fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, scores: Scores) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if !matches!(scores, Scores::Masked(_)) {
        // its scores are in f32 in any case
        if let Some(out) = super::flash::attention(query, key, value, heads)? {
            return Ok(out);
        }
    }
    let (rows, tokens, channels) = query.dims3()?;
    let head = channels / heads;
    let dtype = query.dtype();
    let split = |x: &Tensor| x.reshape((rows, x.dim(1)?, heads, head))?.transpose(1, 2)?.contiguous();
    let (query, key) = match scores {
        Scores::Upcast => (query.to_dtype(DType::F32)?, key.to_dtype(DType::F32)?),
        Scores::Plain | Scores::Masked(_) => (query.clone(), key.clone()),
    };
    // Scaling the query rather than the scores keeps f16 products in range.
    let query = (split(&query)? * (head as f64).powf(-0.5))?;
    let (key, value) = (split(&key)?.t()?, split(value)?);
    let part = |query: &Tensor| {
        let found = query.matmul(&key)?.to_dtype(DType::F32)?;
        let found = match scores {
            Scores::Masked(mask) => found.broadcast_add(mask)?,
            Scores::Plain | Scores::Upcast => found,
        };
        softmax_last_dim(&found)?.to_dtype(dtype)?.matmul(&value)
    };
    let at_once = (MOST_SCORES / (rows * heads * key.dim(3)?).max(1)).max(1);
    // a mask is as long as all tokens, and those of texts are few
    let out = if tokens <= at_once || matches!(scores, Scores::Masked(_)) {
        part(&query)?
    } else {
        let starts = (0..tokens).step_by(at_once);
        let parts = starts.map(|from| part(&query.narrow(2, from, at_once.min(tokens - from))?.contiguous()?));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)?
    };
    out.transpose(1, 2)?.reshape((rows, tokens, channels))
}
