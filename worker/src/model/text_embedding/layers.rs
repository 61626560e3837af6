//! The layers that encoders are made of. All that they compute passes through here and through `attention`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use millrace_nn::{activation, linear};
use serde::Deserialize;

/// A linear layer.
#[derive(Debug)]
pub(super) struct Linear(linear::Linear);

impl Linear {
    /// (out, in) and, if it has one, a bias of (out).
    pub(super) fn new(vb: &VarBuilder, inputs: usize, outputs: usize, biased: bool) -> Result<Self> {
        Self::of(&read(vb, inputs, outputs, biased)?)
    }

    /// Query, key and value in one, so that what they read is read once: (3 · width, width). The scale of attention's scores is
    /// put into the query.
    pub(super) fn stacked(parts: &[VarBuilder; 3], width: usize, heads: usize) -> Result<Self> {
        let parts = parts.iter().map(|vb| read(vb, width, width, true)).collect::<Result<Vec<_>>>()?;
        let weights: Vec<_> = parts.iter().map(|part| part.weight().clone()).collect();
        let biases: Vec<_> = parts.iter().filter_map(|part| part.bias().cloned()).collect();
        let whole = candle_nn::Linear::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?));
        Self::of(&with_scale(&whole, width, heads)?)
    }

    /// The same, of a file that has the three in one already.
    pub(super) fn stacked_already(vb: &VarBuilder, width: usize, heads: usize, biased: bool) -> Result<Self> {
        Self::of(&with_scale(&read(vb, width, 3 * width, biased)?, width, heads)?)
    }

    fn of(read: &candle_nn::Linear) -> Result<Self> {
        linear::Linear::new(read.weight().clone(), read.bias().cloned()).map(Self)
    }

    /// (rows, in) to (rows, out).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }

    /// The activation of it.
    pub(super) fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        activation.forward(&self.forward(x)?)
    }
}

fn read(vb: &VarBuilder, inputs: usize, outputs: usize, biased: bool) -> Result<candle_nn::Linear> {
    candle_nn::linear_b(inputs, outputs, biased, vb.clone())
}

/// With the scale of attention's scores in the first third, the query.
fn with_scale(read: &candle_nn::Linear, width: usize, heads: usize) -> Result<candle_nn::Linear> {
    let scale = ((width / heads) as f64).powf(-0.5);
    let scaled = |x: &Tensor| Tensor::cat(&[(x.narrow(0, 0, width)? * scale)?, x.narrow(0, width, 2 * width)?], 0);
    let bias = read.bias().map(scaled).transpose()?;
    Ok(candle_nn::Linear::new(scaled(read.weight())?, bias))
}

/// A layer norm.
#[derive(Debug)]
pub(super) struct LayerNorm(candle_nn::LayerNorm);

impl LayerNorm {
    /// With a bias; files of old call the two `gamma` and `beta`.
    pub(super) fn new(vb: &VarBuilder, width: usize, epsilon: f64) -> Result<Self> {
        candle_nn::layer_norm(width, epsilon, vb.clone()).map(Self)
    }

    /// One whose bias, if it has none, is zero.
    pub(super) fn with_bias_if(vb: &VarBuilder, width: usize, epsilon: f64, biased: bool) -> Result<Self> {
        if biased {
            return Self::new(vb, width, epsilon);
        }
        let weight = vb.get_with_hints(width, "weight", Init::Const(1.0))?;
        let bias = weight.zeros_like()?;
        Ok(Self(candle_nn::LayerNorm::new(weight, bias, epsilon)))
    }

    /// (rows, width).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }

    /// The norm of a sum.
    pub(super) fn of_sum(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.forward(&(x + y)?)
    }
}

/// What lies between two linear layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Activation {
    /// The exact one, by the error function.
    #[default]
    #[serde(rename = "gelu", alias = "gelu_python")]
    Gelu,
    /// Approximated by a hyperbolic tangent.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast", alias = "gelu_accurate")]
    TanhGelu,
    #[serde(rename = "relu")]
    Relu,
    #[serde(rename = "silu", alias = "swish")]
    Silu,
}

impl Activation {
    pub(super) fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::TanhGelu => x.gelu(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}
