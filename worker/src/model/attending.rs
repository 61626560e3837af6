//! Attention of one text's new tokens over keys and values that are kept.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// What a token sees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sees {
    /// Every key: of something else than its own text.
    All,
    /// Itself and those before it, at most so many of them where that is said. The new tokens are the last.
    Before(Option<usize>),
}

/// Attends with `query` (tokens, heads, head) of a text's new tokens over `keys` and `values` (kept heads, all, head), and gives
/// (tokens, heads · head). The softmax is in f32.
pub(super) fn attend(query: &Tensor, keys: &Tensor, values: &Tensor, sees: Sees) -> Result<Tensor> {
    let (tokens, heads, head) = query.dims3()?;
    let (kept, whole, _) = keys.dims3()?;
    let shared = heads / kept;
    // what no new token sees is not looked at
    let begin = match sees {
        Sees::Before(Some(window)) => (whole + 1).saturating_sub(tokens + window),
        Sees::Before(None) | Sees::All => 0,
    };
    let seen = whole - begin;
    let (keys, values) = (keys.narrow(1, begin, seen)?, values.narrow(1, begin, seen)?);
    // the queries that share a head of keys are rows of one product
    let query = query.reshape((tokens, kept, shared, head))?.permute((1, 2, 0, 3))?;
    let query = (query.reshape((kept, shared * tokens, head))? * (head as f64).powf(-0.5))?;
    let scores = query.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
    let scores = match sees {
        Sees::Before(window) if tokens > 1 => {
            let mask = mask(tokens, seen, window, query.device())?;
            let scores = scores.reshape((kept * shared, tokens, seen))?.broadcast_add(&mask)?;
            scores.reshape((kept, shared * tokens, seen))?
        }
        Sees::Before(_) | Sees::All => scores,
    };
    let out = softmax_last_dim(&scores)?.to_dtype(values.dtype())?.matmul(&values)?;
    let out = out.reshape((kept, shared, tokens, head))?.permute((2, 0, 1, 3))?;
    out.reshape((tokens, heads * head))
}

/// What is added to scores (tokens, seen): nothing to those that a token sees, −∞ to others.
fn mask(tokens: usize, seen: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..tokens)
        .flat_map(|token| {
            let own = seen - tokens + token;
            let first = window.map_or(0, |window| (own + 1).saturating_sub(window));
            (0..seen).map(move |other| if (first..=own).contains(&other) { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Tensor::from_vec(values, (tokens, seen), device)
}
