//! What encoder and decoder have in common.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use millrace_nn::activation::gelu;
use millrace_nn::linear::{Linear, linear, linear_no_bias};

const EPSILON: f64 = 1e-5;

/// A layer norm.
#[derive(Debug)]
pub(super) struct Norm(candle_nn::LayerNorm);

impl Norm {
    pub(super) fn new(vb: &VarBuilder, width: usize) -> Result<Self> {
        candle_nn::layer_norm(width, EPSILON, vb.clone()).map(Self)
    }

    /// (…, width).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&x.contiguous()?)
    }
}

/// The linear layers around an attention.
#[derive(Debug)]
pub(super) struct Projections {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) out: Linear,
}

impl Projections {
    pub(super) fn new(vb: &VarBuilder, width: usize) -> Result<Self> {
        Ok(Self {
            query: linear(width, width, &vb.pp("q_proj"))?,
            key: linear_no_bias(width, width, &vb.pp("k_proj"))?,
            value: linear(width, width, &vb.pp("v_proj"))?,
            out: linear(width, width, &vb.pp("out_proj"))?,
        })
    }
}

/// A norm, and two linear layers with an activation between them.
#[derive(Debug)]
pub(super) struct Inner {
    norm: Norm,
    up: Linear,
    down: Linear,
}

impl Inner {
    pub(super) fn new(vb: &VarBuilder, width: usize, inner: usize) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(&vb.pp("final_layer_norm"), width)?,
            up: linear(width, inner, &vb.pp("fc1"))?,
            down: linear(inner, width, &vb.pp("fc2"))?,
        })
    }

    /// Added to what it is of, (…, width).
    pub(super) fn add(&self, x: &Tensor) -> Result<Tensor> {
        let inner = gelu(&self.up.forward(&self.norm.forward(x)?)?)?;
        self.down.forward_add(&inner, x)
    }
}

/// A convolution over three neighbours in time, and its activation: a linear layer over the three.
#[derive(Debug)]
pub(super) struct Convolution {
    linear: Linear,
    stride: usize,
}

impl Convolution {
    pub(super) fn new(vb: &VarBuilder, inputs: usize, outputs: usize, stride: usize) -> Result<Self> {
        let spread = (3.0 * inputs as f64).powf(-0.5);
        let weight = vb.get_with_hints((outputs, inputs, 3), "weight", Init::Randn { mean: 0.0, stdev: spread })?;
        let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
        let weight = weight.transpose(1, 2)?.contiguous()?.reshape((outputs, 3 * inputs))?;
        Ok(Self { linear: Linear::new(weight, Some(bias))?, stride })
    }

    /// (windows, frames, inputs) to (windows, frames / stride, outputs). The frames are a multiple of the stride.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (windows, frames, inputs) = x.dims3()?;
        let padded = x.pad_with_zeros(1, 1, 1)?;
        let neighbour = |offset: usize| {
            let shifted = padded.narrow(1, offset, frames)?.contiguous()?;
            shifted.reshape((windows, frames / self.stride, self.stride, inputs))?.narrow(2, 0, 1)?.squeeze(2)
        };
        let three = Tensor::cat(&[neighbour(0)?, neighbour(1)?, neighbour(2)?], 2)?;
        gelu(&self.linear.forward(&three)?)
    }
}
