//! The text of windows, token by token. The tokens of a pass lie end to end, whichever window they are of: linear layers see
//! rows and nothing else; attention looks at each window by itself, over its own text and over what was heard.

use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use millrace_nn::linear::Linear;

use super::config::Config;
use super::layers::{Inner, Norm, Projections};
use crate::model::attending::{Sees, attend};
use crate::model::cache::Cache;
use crate::model::passes::{each, ends, lasts};

/// What was heard in a window, as each layer attends to it: keys and values (heads, places, head).
#[derive(Debug)]
pub(super) struct Heard(Vec<(Tensor, Tensor)>);

/// The next tokens of one window.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) tokens: Vec<u32>,
    /// Of those before them.
    pub(super) cache: Cache,
    pub(super) heard: Arc<Heard>,
}

/// A loaded decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Tells how near a state is to each token; its weights are the tokens' vectors as well.
    head: Linear,
    /// (places, width).
    places: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    device: Device,
}

#[derive(Debug)]
struct Block {
    before_own: Norm,
    own: Projections,
    before_heard: Norm,
    heard: Projections,
    inner: Inner,
    heads: usize,
}

impl Decoder {
    pub(super) fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let vb = vb.pp("model.decoder");
        let width = config.d_model;
        let init = Init::Randn { mean: 0.0, stdev: 0.5 };
        let block = |index: usize| {
            let vb = vb.pp("layers").pp(index);
            Ok(Block {
                before_own: Norm::new(&vb.pp("self_attn_layer_norm"), width)?,
                own: Projections::new(&vb.pp("self_attn"), width)?,
                before_heard: Norm::new(&vb.pp("encoder_attn_layer_norm"), width)?,
                heard: Projections::new(&vb.pp("encoder_attn"), width)?,
                inner: Inner::new(&vb, width, config.decoder_ffn_dim)?,
                heads: config.decoder_attention_heads,
            })
        };
        let tokens = vb.pp("embed_tokens").get_with_hints((config.vocab_size, width), "weight", init)?;
        let places = (config.max_target_positions, width);
        Ok(Self {
            head: Linear::new(tokens, None)?,
            places: vb.pp("embed_positions").get_with_hints(places, "weight", init)?,
            blocks: (0..config.decoder_layers).map(block).collect::<Result<_>>()?,
            norm: Norm::new(&vb.pp("layer_norm"), width)?,
            device: vb.device().clone(),
        })
    }

    /// Room for the keys and values of so many tokens.
    pub(super) fn cache(&self, tokens: usize) -> Cache {
        Cache::new(self.blocks.len(), tokens)
    }

    /// What the encoder made of a window, (places, width), as this attends to it.
    pub(super) fn hear(&self, encoded: &Tensor) -> Result<Heard> {
        let one = |block: &Block| {
            let heads = |x: Tensor| {
                let (places, width) = x.dims2()?;
                x.reshape((places, block.heads, width / block.heads))?.transpose(0, 1)?.contiguous()
            };
            Ok((heads(block.heard.key.forward(encoded)?)?, heads(block.heard.value.forward(encoded)?)?))
        };
        self.blocks.iter().map(one).collect::<Result<_>>().map(Heard)
    }

    /// The logits after each piece, f32. The keys and values of its tokens are put into its cache, and do not count there yet.
    pub(super) fn forward(&self, pieces: &mut [Piece]) -> Result<Vec<Vec<f32>>> {
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        let places: Vec<u32> = pieces
            .iter()
            .flat_map(|piece| (piece.cache.length()..).take(piece.tokens.len()).map(|place| place as u32))
            .collect();
        let places = self.places.index_select(&Tensor::new(places, &self.device)?, 0)?;
        let mut x = (self.head.weights_of(&Tensor::new(tokens, &self.device)?)? + places)?;
        let ends = ends(pieces.iter().map(|piece| piece.tokens.len()));
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, index, pieces, &ends)?;
        }
        let x = x.index_select(&lasts(&ends, &self.device)?, 0)?;
        self.head.forward(&self.norm.forward(&x)?)?.to_dtype(DType::F32)?.to_vec2()
    }
}

impl Block {
    /// (tokens, width), of all pieces.
    fn forward(&self, x: &Tensor, index: usize, pieces: &mut [Piece], ends: &[usize]) -> Result<Tensor> {
        let normed = self.before_own.forward(x)?;
        let (key, value) = (self.own.key.forward(&normed)?, self.own.value.forward(&normed)?);
        let (key, value) = (self.split(&key)?, self.split(&value)?);
        let query = self.split(&self.own.query.forward(&normed)?)?;
        let attended = each(pieces, ends, x.device(), |piece, own| {
            let kept = |x: &Tensor| x.i(own.clone())?.transpose(0, 1)?.contiguous();
            let (keys, values) = piece.cache.put(index, &kept(&key)?, &kept(&value)?)?;
            attend(&query.i(own)?, &keys, &values, Sees::Before(None))
        })?;
        let x = self.own.out.forward_add(&attended, x)?;
        let query = self.split(&self.heard.query.forward(&self.before_heard.forward(&x)?)?)?;
        let attended = each(pieces, ends, x.device(), |piece, own| {
            let (keys, values) = &piece.heard.0[index];
            attend(&query.i(own)?, keys, values, Sees::All)
        })?;
        self.inner.add(&self.heard.out.forward_add(&attended, &x)?)
    }

    /// (tokens, heads, head).
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        x.reshape((tokens, self.heads, width / self.heads))
    }
}
