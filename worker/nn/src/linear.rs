//! Linear layers.
//!
//! In f32 on a CPU the weights lie transposed, so that a product of few rows does not begin with rearranging all of them,
//! and the bias goes in together with what the result is added to.

use candle_core::{D, Device, Error, Module, Result, Tensor};
use candle_nn::init::DEFAULT_KAIMING_NORMAL;
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use super::plain::{add, is_plain, read};

/// y = x · Wᵀ + b.
#[derive(Debug)]
pub enum Linear {
    Own(Own),
    Candle(candle_nn::Linear),
}

/// With a bias.
pub fn linear(input: usize, output: usize, vb: &VarBuilder) -> Result<Linear> {
    let bound = 1.0 / (input as f64).sqrt();
    let weight = vb.get_with_hints((output, input), "weight", DEFAULT_KAIMING_NORMAL)?;
    let bias = vb.get_with_hints(output, "bias", Init::Uniform { lo: -bound, up: bound })?;
    Linear::new(weight, Some(bias))
}

/// Without one.
pub fn linear_no_bias(input: usize, output: usize, vb: &VarBuilder) -> Result<Linear> {
    Linear::new(vb.get_with_hints((output, input), "weight", DEFAULT_KAIMING_NORMAL)?, None)
}

impl Linear {
    /// `weight` (outputs, inputs) and `bias` (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        if is_plain(&weight) {
            let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
            return Ok(Self::Own(Own { weight: transposed(&weight)?, bias }));
        }
        Ok(Self::Candle(candle_nn::Linear::new(weight, bias)))
    }

    /// The weights of some outputs, by their numbers (outputs): (outputs, inputs). Of a layer that tells how near a state is to
    /// each of many vectors, these are the vectors.
    pub fn weights_of(&self, outputs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.weight.index_select(outputs, 1)?.t()?.contiguous(),
            Self::Candle(linear) => linear.weight().index_select(outputs, 0),
        }
    }

    /// The layer's output for `x` (…, inputs), added to `to` (…, outputs).
    pub fn forward_add(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.forward(x, Some(to)),
            Self::Candle(linear) => to + linear.forward(&x.contiguous()?)?,
        }
    }
}

impl Module for Linear {
    /// (…, inputs) to (…, outputs).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.forward(x, None),
            Self::Candle(linear) => linear.forward(&x.contiguous()?),
        }
    }
}

/// One that is computed here.
#[derive(Debug)]
pub struct Own {
    /// (inputs, outputs).
    weight: Tensor,
    bias: Option<Vec<f32>>,
}

impl Own {
    fn forward(&self, x: &Tensor, to: Option<&Tensor>) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        if x.dim(D::Minus1)? != inputs {
            return Err(Error::Msg(format!("a layer of {inputs} inputs was given {:?}", x.dims())));
        }
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let product = x.reshape(((), inputs))?.matmul(&self.weight)?;
        if self.bias.is_some() || to.is_some() {
            let to = to.map(Tensor::contiguous).transpose()?;
            add(&product, self.bias.as_deref(), to.as_ref())?;
        }
        product.reshape(shape)
    }
}

/// A matrix with its sides exchanged, as it lies in memory.
fn transposed(matrix: &Tensor) -> Result<Tensor> {
    /// Lines of a block that fits into a core's smallest cache.
    const LINES: usize = 16;
    let (rows, columns) = matrix.dims2()?;
    let mut out = vec![0.0; rows * columns];
    read(&matrix.contiguous()?, |values| {
        out.par_chunks_mut((rows * LINES).max(1)).enumerate().for_each(|(block, out)| {
            for (row, line) in values.chunks_exact(columns.max(1)).enumerate() {
                let line = &line[block * LINES..];
                out.chunks_exact_mut(rows).zip(line).for_each(|(out, value)| out[row] = *value);
            }
        });
        Ok(())
    })?;
    Tensor::from_vec(out, (columns, rows), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{apart, wave};

    proptest! {
        #[test]
        fn it_is_candles_own(
            (rows, tokens, inputs, outputs) in (1_usize..3, 1_usize..20, 1_usize..40, 1_usize..40),
            biased in any::<bool>(),
        ) {
            let (weight, bias) = (wave(&[outputs, inputs], 1.0), biased.then(|| wave(&[outputs], 2.0)));
            let known = candle_nn::Linear::new(weight.clone(), bias.clone());
            let linear = Linear::new(weight, bias).unwrap();
            // as it lies, and with its axes exchanged
            for x in [wave(&[rows, tokens, inputs], 3.0), wave(&[rows, inputs, tokens], 3.0).transpose(1, 2).unwrap()] {
                let known = known.forward(&x.contiguous().unwrap()).unwrap();
                let to = wave(&[rows, tokens, outputs], 4.0);
                prop_assert!(apart(&linear.forward(&x).unwrap(), &known) < 1e-4);
                prop_assert!(apart(&linear.forward_add(&x, &to).unwrap(), &(known + to).unwrap()) < 1e-4);
            }
        }
    }

    #[test]
    fn weights_are_found_by_their_outputs() {
        let weight = wave(&[7, 3], 1.0);
        let outputs = Tensor::new(&[6_u32, 0, 6], &Device::Cpu).unwrap();
        let known: Vec<Vec<f32>> = weight.index_select(&outputs, 0).unwrap().to_vec2().unwrap();
        for linear in [Linear::new(weight.clone(), None).unwrap(), Linear::Candle(candle_nn::Linear::new(weight, None))]
        {
            assert_eq!(linear.weights_of(&outputs).unwrap().to_vec2::<f32>().unwrap(), known);
        }
    }

    #[test]
    fn a_wrong_width_is_an_error() {
        let linear = Linear::new(wave(&[2, 3], 1.0), None).unwrap();
        let error = linear.forward(&wave(&[1, 4], 1.0)).unwrap_err();
        assert!(error.to_string().contains("a layer of 3 inputs was given [1, 4]"), "{error}");
    }
}
