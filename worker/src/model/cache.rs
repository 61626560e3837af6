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
            // the old ones stay until the new ones are whole: a pass that found no memory is done again
            let old = kept.as_ref();
            let new = Kept {
                keys: grown(old.map(|old| &old.keys), keys)?,
                values: grown(old.map(|old| &old.values), values)?,
            };
            *kept = Some(new);
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn what_a_failed_pass_did_not_add_to_is_still_there() {
        let some = |tokens: usize| {
            let all = Tensor::arange(1f32, (2 * tokens + 1) as f32, &Device::Cpu);
            all.and_then(|all| all.reshape((1, tokens, 2)))
        };
        let mut cache = Cache::new(1, 1000);
        cache.put(0, &some(3).unwrap(), &some(3).unwrap()).unwrap();
        cache.advance(3);
        // more room is made for these, and what was there does not go into it
        let others = some(FIRST).unwrap().to_dtype(DType::F64).unwrap();
        assert!(cache.put(0, &others, &others).is_err());
        let (keys, values) = cache.put(0, &some(FIRST).unwrap(), &some(FIRST).unwrap()).unwrap();
        for all in [keys, values] {
            let known = all.narrow(1, 0, 3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(known, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
    }
}
