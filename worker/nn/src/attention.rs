//! Scaled dot-product attention, as the text encoders, the UNet and the VAE use it.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use rayon::prelude::*;

use super::math::{exp, most, sum};
use super::plain::{change, is_plain, read};

/// Most scores that are held at a time: attention among the pixels of a large picture is worked off in parts, or it alone
/// would take more memory than the model.
const MOST_SCORES: usize = 1 << 26;

/// Scores that a core of a CPU works on at a time, if that are not less than `QUERIES`: what stays in its cache.
const CACHED_SCORES: usize = 1 << 18;
/// Fewest queries of such a part: a product of fewer is slow.
const QUERIES: usize = 64;

/// How scores come about.
#[derive(Debug, Clone, Copy)]
pub enum Scores<'a> {
    Plain,
    /// Multiplied in f32, for models whose scores overflow f16.
    Upcast,
    /// With a mask added: (1, 1, tokens, tokens), f32.
    Masked(&'a Tensor),
}

/// Attention of `query` over `key` and `value`, each (rows, tokens, channels), in `heads` heads. The softmax is in f32
/// whatever the tensors are: f16 has no room for its sums. Where the device has flash attention, that is taken.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, scores: Scores) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if !matches!(scores, Scores::Masked(_)) {
        // its scores are in f32 in any case
        if let Some(out) = super::flash::attention(query, key, value, heads)? {
            return Ok(out);
        }
    }
    if [query, key, value].into_iter().all(is_plain) {
        return own(query, key, value, heads, scores);
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

/// In f32 on a CPU: heads side by side, each with a few of its queries at a time, and nothing is copied before.
fn own(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, scores: Scores) -> Result<Tensor> {
    let (rows, tokens, channels) = query.dims3()?;
    let keys = key.dim(1)?;
    let head = channels / heads;
    let mask = match scores {
        Scores::Masked(mask) => Some(mask.reshape((tokens, keys))?),
        Scores::Plain | Scores::Upcast => None,
    };
    let at_once = (CACHED_SCORES / keys.max(1)).max(QUERIES);
    let starts: Vec<usize> = (0..tokens).step_by(at_once).collect();
    let of_head = |x: &Tensor, row: usize, of: usize| x.get(row)?.narrow(1, of * head, head);
    let part = |row: usize, of: usize, from: usize| -> Result<Vec<f32>> {
        let queries = at_once.min(tokens - from);
        let query = of_head(query, row, of)?.narrow(0, from, queries)?;
        let scores = query.matmul(&of_head(key, row, of)?.t()?)?;
        let mask = mask.as_ref().map(|mask| mask.narrow(0, from, queries)).transpose()?;
        softmax(&scores, (head as f32).powf(-0.5), mask.as_ref())?;
        scores.matmul(&of_head(value, row, of)?)?.flatten_all()?.to_vec1()
    };
    let jobs = (0..rows * starts.len() * heads).into_par_iter();
    let parts: Vec<Vec<f32>> = jobs
        .map(|job| {
            let (place, of) = (job / heads, job % heads);
            part(place / starts.len(), of, starts[place % starts.len()])
        })
        .collect::<Result<_>>()?;
    let mut out = vec![0.0; rows * tokens * channels];
    out.par_chunks_mut(channels.max(1)).enumerate().for_each(|(line, out)| {
        let (row, token) = (line / tokens, line % tokens);
        let (place, within) = (row * starts.len() + token / at_once, token % at_once);
        for (of, out) in out.chunks_exact_mut(head).enumerate() {
            out.copy_from_slice(&parts[place * heads + of][within * head..][..head]);
        }
    });
    Tensor::from_vec(out, (rows, tokens, channels), &Device::Cpu)
}

/// The softmax of each row of `scale` · `scores` + `mask`, in their place.
fn softmax(scores: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<()> {
    let keys = scores.dim(1)?.max(1);
    let one = |row: &mut [f32], mask: Option<&[f32]>| {
        for score in &mut *row {
            *score *= scale;
        }
        for (score, mask) in row.iter_mut().zip(mask.unwrap_or_default()) {
            *score += mask;
        }
        let most = most(row);
        for score in &mut *row {
            *score = exp(*score - most);
        }
        let share = 1.0 / sum(row, |score| score) as f32;
        for score in row {
            *score *= share;
        }
    };
    let all = |mask: &[f32]| {
        change(scores, |scores| {
            let rows = scores.par_chunks_mut(keys).enumerate();
            rows.for_each(|(index, row)| one(row, mask.get(index * keys..(index + 1) * keys)));
            Ok(())
        })
    };
    mask.map_or_else(|| all(&[]), |mask| read(mask, all))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{apart, double, wave};

    proptest! {
        #[test]
        fn on_a_cpu_it_is_candles_own(
            (rows, heads, head) in (1_usize..3, 1_usize..4, 1_usize..9),
            (tokens, keys) in prop_oneof![(1_usize..20, 1_usize..20), Just((70, 5000))],
            masked in any::<bool>(),
        ) {
            let keys = if masked { tokens } else { keys };
            let channels = heads * head;
            let [query, key, value] =
                [(tokens, 1.0), (keys, 2.0), (keys, 3.0)].map(|(count, seed)| (wave(&[rows, count, channels], seed) * 2.0).unwrap());
            let causal: Vec<f32> = (0..tokens * tokens)
                .map(|at| if at % tokens > at / tokens { f32::NEG_INFINITY } else { 0.0 })
                .collect();
            let mask = Tensor::from_vec(causal, (1, 1, tokens, tokens), &Device::Cpu).unwrap();
            let scores = if masked { Scores::Masked(&mask) } else { Scores::Plain };
            let found = attention(&query, &key, &value, heads, scores).unwrap();
            // in other numbers it is candle that computes
            let known = attention(&double(&query), &double(&key), &double(&value), heads, scores).unwrap();
            let apart = apart(&found, &known);
            prop_assert!(apart < 1e-5, "{} apart", apart);
        }
    }
}
