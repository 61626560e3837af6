//! From features of a window to what the decoder hears: two convolutions and a stack of transformer blocks.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use millrace_nn::attention::{Scores, attention};

use super::config::Config;
use super::layers::{Convolution, Inner, Norm, Projections};

/// A loaded encoder.
#[derive(Debug)]
pub(super) struct Encoder {
    first: Convolution,
    second: Convolution,
    /// (places, width).
    places: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
}

#[derive(Debug)]
struct Block {
    norm: Norm,
    projections: Projections,
    heads: usize,
    inner: Inner,
}

impl Encoder {
    pub(super) fn new(vb: &VarBuilder, config: &Config) -> Result<Self> {
        let vb = vb.pp("model.encoder");
        let width = config.d_model;
        let block = |index: usize| {
            let vb = vb.pp("layers").pp(index);
            Ok(Block {
                norm: Norm::new(&vb.pp("self_attn_layer_norm"), width)?,
                projections: Projections::new(&vb.pp("self_attn"), width)?,
                heads: config.encoder_attention_heads,
                inner: Inner::new(&vb, width, config.encoder_ffn_dim)?,
            })
        };
        let init = Init::Randn { mean: 0.0, stdev: 0.5 };
        let places = (config.max_source_positions, width);
        Ok(Self {
            first: Convolution::new(&vb.pp("conv1"), config.num_mel_bins, width, 1)?,
            second: Convolution::new(&vb.pp("conv2"), width, width, 2)?,
            places: vb.pp("embed_positions").get_with_hints(places, "weight", init)?,
            blocks: (0..config.encoder_layers).map(block).collect::<Result<_>>()?,
            norm: Norm::new(&vb.pp("layer_norm"), width)?,
        })
    }

    /// (windows, frames, bands) to (windows, frames / 2, width).
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let features = features.to_dtype(self.places.dtype())?;
        let x = self.second.forward(&self.first.forward(&features)?)?;
        let mut x = x.broadcast_add(&self.places)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.norm.forward(&x)
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let Projections { query, key, value, out } = &self.projections;
        let (query, key, value) = (query.forward(&normed)?, key.forward(&normed)?, value.forward(&normed)?);
        let attended = attention(&query, &key, &value, self.heads, Scores::Plain)?;
        self.inner.add(&out.forward_add(&attended, x)?)
    }
}
