//! The keys and values of one text's tokens, so that a token is computed once.

use candle_core::{Error, Result, Tensor};

/// Tokens that there is room for at first.
const FIRST: usize = 64;

/// Of all layers of one text.
#[derive(Debug)]
pub(super) struct Cache {
    layers: Vec<Option<Kept>>,
    /// Tokens that are in it.
    length: usize,
    /// Most that ever will be.
    most: usize,
}

/// Each (heads, room for tokens, head).
#[derive(Debug)]
struct Kept {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    pub(super) fn new(layers: usize, most: usize) -> Self {
        Self { layers: std::iter::repeat_with(|| None).take(layers).collect(), length: 0, most }
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Most tokens that it will ever have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Puts a layer's keys and values of new tokens, each (heads, tokens, head), behind those that are there, and gives all.
    /// They count only when [`Cache::advance`] says so: a pass that failed can be done again.
    pub(super) fn put(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let (heads, tokens, head) = keys.dims3()?;
        let (from, whole) = (self.length, self.length + tokens);
        if whole > self.most {
            return Err(Error::Msg(format!("{whole} tokens are more than the {} that there is room for", self.most)));
        }
        let most = self.most;
        let kept = self.layers.get_mut(layer).ok_or_else(|| Error::Msg(format!("there is no layer {layer}")))?;
        if kept.as_ref().is_none_or(|kept| kept.keys.dims()[1] < whole) {
            let room = (2 * whole).max(FIRST).min(most);
            let grown = |old: Option<&Tensor>, like: &Tensor| {
                let new = Tensor::zeros((heads, room, head), like.dtype(), like.device())?;
                old.map_or(Ok(()), |old| new.slice_set(old, 1, 0)).map(|()| new)
            };
            let old = kept.take();
            *kept = Some(Kept {
                keys: grown(old.as_ref().map(|old| &old.keys), keys)?,
                values: grown(old.as_ref().map(|old| &old.values), values)?,
            });
        }
        let Some(kept) = kept else { return Err(Error::Msg("a cache has no room".into())) };
        kept.keys.slice_set(&keys.contiguous()?, 1, from)?;
        kept.values.slice_set(&values.contiguous()?, 1, from)?;
        Ok((kept.keys.narrow(1, 0, whole)?, kept.values.narrow(1, 0, whole)?))
    }

    /// So many tokens more are in it, in every layer.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}
