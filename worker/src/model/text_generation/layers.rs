//! The layers that decoders are made of, and where their weights come from.

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use millrace_nn::linear;

/// A source of weights, asked in the words of transformers.
pub(super) trait Weights {
    /// `name`.weight (outputs, inputs) and, if it has one, `name`.bias (outputs).
    fn linear(&self, name: &str, inputs: usize, outputs: usize, biased: bool) -> Result<Linear>;
    /// `name`.weight (width).
    fn norm(&self, name: &str, width: usize, epsilon: f64) -> Result<Norm>;
    /// `name`.weight (tokens, width).
    fn embedding(&self, name: &str, tokens: usize, width: usize) -> Result<Embedding>;
}

impl Weights for VarBuilder<'_> {
    fn linear(&self, name: &str, inputs: usize, outputs: usize, biased: bool) -> Result<Linear> {
        let read = candle_nn::linear_b(inputs, outputs, biased, self.pp(name))?;
        linear::Linear::new(read.weight().clone(), read.bias().cloned()).map(Linear::Whole)
    }

    fn norm(&self, name: &str, width: usize, epsilon: f64) -> Result<Norm> {
        let weight = self.pp(name).get_with_hints(width, "weight", Init::Const(1.0))?;
        Ok(Norm { weight, epsilon: epsilon as f32 })
    }

    fn embedding(&self, name: &str, tokens: usize, width: usize) -> Result<Embedding> {
        let init = Init::Randn { mean: 0.0, stdev: 0.5 };
        self.pp(name).get_with_hints((tokens, width), "weight", init).map(Embedding::Whole)
    }
}

/// A linear layer.
#[derive(Debug)]
pub(super) enum Linear {
    Whole(linear::Linear),
    /// Whose weights are blocks of few bits.
    Quantized {
        weight: QMatMul,
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// (rows, inputs) to (rows, outputs).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(linear) => linear.forward(x),
            Self::Quantized { weight, bias } => {
                let y = weight.forward(&x.contiguous()?)?;
                match bias {
                    Some(bias) => y.broadcast_add(bias),
                    None => Ok(y),
                }
            }
        }
    }

    /// The same, added to `to`.
    pub(super) fn forward_add(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(linear) => linear.forward_add(x, to),
            Self::Quantized { .. } => self.forward(x)? + to,
        }
    }

    /// The weights of some outputs, by their numbers (outputs): (outputs, inputs).
    pub(super) fn weights_of(&self, outputs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(linear) => linear.weights_of(outputs),
            Self::Quantized { weight, .. } => weight.embedding(outputs),
        }
    }
}

/// A norm by the root of the mean square, with a scale for each number.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) epsilon: f32,
}

impl Norm {
    /// (…, width).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.epsilon)
    }
}

/// A vector for each token.
#[derive(Debug)]
pub(super) enum Embedding {
    Whole(Tensor),
    Quantized(QTensor),
}

impl Embedding {
    /// (tokens) to (tokens, width).
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole(weight) => weight.index_select(tokens, 0),
            Self::Quantized(weight) => weight.embedding(tokens),
        }
    }
}
