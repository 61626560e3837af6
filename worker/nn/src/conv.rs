//! Two-dimensional convolutions.
//!
//! On a CPU in f32 the input is unfolded into columns, one for each pixel of the output, and multiplied with the weights
//! (Chellapilla et al. 2006): nearly all of the time then passes in a matrix product. Elsewhere it is candle's own.

use candle_core::{Device, Error, Module, Result, Tensor};
use candle_nn::init::DEFAULT_KAIMING_NORMAL;
use candle_nn::{Conv2d, Conv2dConfig, Init, VarBuilder};
use rayon::prelude::*;

use super::plain::{is_plain, read};

/// Numbers of a tile of columns, if it has not less than `PIXELS` of them: what stays in a core's cache.
const TILE: usize = 1 << 21;
/// Fewest columns of a tile: the weights are read once for each tile.
const PIXELS: usize = 512;

/// A convolution with a square kernel, with its bias.
#[derive(Debug)]
pub enum Conv {
    Unfolding(Unfolding),
    Candle(Conv2d),
}

/// How the kernel goes over the input.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    pub side: usize,
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Kernel {
    pub const POINT: Self = Self { side: 1, stride: 1, padding: 0 };

    fn output(self, side: usize) -> Result<usize> {
        let room = (side + 2 * self.padding).checked_sub(self.side);
        let room = room.ok_or_else(|| Error::Msg(format!("{side} pixels are fewer than a kernel of {}", self.side)))?;
        Ok(room / self.stride + 1)
    }
}

impl Conv {
    pub fn new(vb: &VarBuilder, input: usize, output: usize, kernel: Kernel) -> Result<Self> {
        // how a made model's weights begin is as in candle and torch
        let bound = 1.0 / (input as f64).sqrt();
        let shape = (output, input, kernel.side, kernel.side);
        let weight = vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
        let bias = vb.get_with_hints(output, "bias", Init::Uniform { lo: -bound, up: bound })?;
        if is_plain(&weight) {
            // the bias is the weight of a column's last number, which is 1
            let matrix = Tensor::cat(&[&weight.flatten_from(1)?, &bias.unsqueeze(1)?], 1)?;
            return Ok(Self::Unfolding(Unfolding { matrix, channels: input, kernel }));
        }
        let Kernel { stride, padding, .. } = kernel;
        Ok(Self::Candle(Conv2d::new(weight, Some(bias), Conv2dConfig { stride, padding, ..Conv2dConfig::default() })))
    }

    /// The convolution of `x`, added to `to` (rows, output channels, height, width).
    pub fn forward_add(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        match self {
            Self::Unfolding(conv) => conv.forward(x, Some(&to.contiguous()?)),
            Self::Candle(conv) => to + conv.forward(x)?,
        }
    }
}

impl Module for Conv {
    /// (rows, input channels, height, width) to (rows, output channels, height, width).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Unfolding(conv) => conv.forward(x, None),
            Self::Candle(conv) => conv.forward(x),
        }
    }
}

/// One that unfolds its input.
#[derive(Debug)]
pub struct Unfolding {
    /// (output channels, input channels · side² + 1).
    matrix: Tensor,
    channels: usize,
    kernel: Kernel,
}

impl Unfolding {
    fn forward(&self, x: &Tensor, to: Option<&Tensor>) -> Result<Tensor> {
        let x = x.contiguous()?;
        let (rows, channels, height, width) = x.dims4()?;
        if channels != self.channels {
            return Err(Error::Msg(format!("a convolution of {} channels was given {channels}", self.channels)));
        }
        let (out_height, out_width) = (self.kernel.output(height)?, self.kernel.output(width)?);
        let (outputs, depth) = self.matrix.dims2()?;
        let lines = (TILE / (depth * out_width)).max(PIXELS.div_ceil(out_width)).min(out_height);
        let area = out_height * out_width;
        let one = |values: &[f32], out: &mut [f32]| {
            for from in (0..out_height).step_by(lines) {
                let lines = from..(from + lines).min(out_height);
                let pixels = lines.len() * out_width;
                let columns = self.unfold(Picture { values, height, width }, lines, out_width);
                let tile = self.matrix.matmul(&Tensor::from_vec(columns, (depth, pixels), &Device::Cpu)?)?;
                read(&tile, |tile| {
                    let channels = out.par_chunks_mut(area).zip(tile.par_chunks(pixels));
                    channels.for_each(|(out, tile)| {
                        out[from * out_width..].iter_mut().zip(tile).for_each(|(out, value)| *out += value);
                    });
                    Ok(())
                })?;
            }
            Ok(())
        };
        let mut out = match to {
            Some(to) => read(to, |to| Ok(to.to_vec()))?,
            None => vec![0.0; rows * outputs * area],
        };
        if out.len() != rows * outputs * area {
            return Err(Error::Msg(format!("{} numbers are to be added to {}", rows * outputs * area, out.len())));
        }
        read(&x, |values| {
            let mut rows = values.chunks_exact(channels * height * width).zip(out.chunks_exact_mut(outputs * area));
            rows.try_for_each(|(values, out)| one(values, out))
        })?;
        Tensor::from_vec(out, (rows, outputs, out_height, out_width), &Device::Cpu)
    }

    /// The columns of some lines of the output, row by row: row (channel, y, x of the kernel) has what the kernel's weight
    /// there is multiplied with for each pixel; the last one has ones.
    fn unfold(&self, picture: Picture, lines: std::ops::Range<usize>, out_width: usize) -> Vec<f32> {
        let pixels = lines.len() * out_width;
        let area = self.kernel.side * self.kernel.side;
        let mut columns = vec![0.0; (self.channels * area + 1) * pixels];
        let (unfolded, ones) = columns.split_at_mut(self.channels * area * pixels);
        ones.fill(1.0);
        let size = picture.height * picture.width;
        unfolded.par_chunks_mut(area * pixels).zip(picture.values.par_chunks(size)).for_each(|(rows, values)| {
            let channel = Picture { values, ..picture };
            for (at, row) in rows.chunks_exact_mut(pixels).enumerate() {
                let (y, x) = (at / self.kernel.side, at % self.kernel.side);
                for (line, out) in lines.clone().zip(row.chunks_exact_mut(out_width)) {
                    self.line(channel, line, (y, x), out);
                }
            }
        });
        columns
    }

    /// What the kernel's weight at (y, x) sees along one line of the output; what lies outside stays zero.
    fn line(&self, channel: Picture, line: usize, (y, x): (usize, usize), out: &mut [f32]) {
        let Kernel { stride, padding, .. } = self.kernel;
        let Some(from) = (line * stride + y).checked_sub(padding).filter(|y| *y < channel.height) else { return };
        let from = &channel.values[from * channel.width..(from + 1) * channel.width];
        // pixel `o` sees input o · stride + x − padding
        let first = padding.saturating_sub(x).div_ceil(stride);
        let end = (channel.width + padding).saturating_sub(x).div_ceil(stride).min(out.len());
        if first >= end {
            return;
        }
        let start = first * stride + x - padding;
        if stride == 1 {
            out[first..end].copy_from_slice(&from[start..start + end - first]);
        } else {
            out[first..end].iter_mut().zip(from[start..].iter().step_by(stride)).for_each(|(out, value)| *out = *value);
        }
    }
}

/// Channels of a picture, one after the other, each row by row.
#[derive(Debug, Clone, Copy)]
struct Picture<'a> {
    values: &'a [f32],
    height: usize,
    width: usize,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::DType;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{apart, wave};

    proptest! {
        #[test]
        fn it_is_candles_own(
            (rows, input, output) in (1_usize..3, 1_usize..4, 1_usize..4),
            (height, width) in (1_usize..40, 1_usize..40),
            (side, stride, padding) in (1_usize..4, 1_usize..3, 0_usize..2),
        ) {
            prop_assume!(height + 2 * padding >= side && width + 2 * padding >= side);
            let (weight, bias) = (wave(&[output, input, side, side], 1.0), wave(&[output], 2.0));
            let weights = HashMap::from([("weight".to_owned(), weight.clone()), ("bias".to_owned(), bias.clone())]);
            let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
            let conv = Conv::new(&vb, input, output, Kernel { side, stride, padding }).unwrap();
            let x = wave(&[rows, input, height, width], 3.0);
            let config = Conv2dConfig { stride, padding, ..Conv2dConfig::default() };
            let known = Conv2d::new(weight, Some(bias), config).forward(&x).unwrap();
            let found = conv.forward(&x).unwrap();
            prop_assert_eq!(found.dims(), known.dims());
            prop_assert!(apart(&found, &known) < 1e-5);
            let to = wave(found.dims(), 4.0);
            prop_assert!(apart(&conv.forward_add(&x, &to).unwrap(), &(known + to).unwrap()) < 1e-5);
        }
    }

    #[test]
    fn a_large_picture_is_worked_off_in_tiles() {
        let (weight, bias) = (wave(&[2, 80, 3, 3], 1.0), wave(&[2], 2.0));
        let weights = HashMap::from([("weight".to_owned(), weight.clone()), ("bias".to_owned(), bias.clone())]);
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        let conv = Conv::new(&vb, 80, 2, Kernel { side: 3, stride: 1, padding: 1 }).unwrap();
        let x = wave(&[1, 80, 70, 70], 3.0);
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let known = Conv2d::new(weight, Some(bias), config).forward(&x).unwrap();
        const { assert!(TILE / (721 * 70) < 70, "one tile is all of it") };
        assert!(apart(&conv.forward(&x).unwrap(), &known) < 1e-4);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let weights =
            HashMap::from([("weight".to_owned(), wave(&[1, 2, 3, 3], 1.0)), ("bias".to_owned(), wave(&[1], 1.0))]);
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        let conv = Conv::new(&vb, 2, 1, Kernel { side: 3, stride: 1, padding: 0 }).unwrap();
        assert!(conv.forward(&wave(&[1, 3, 4, 4], 1.0)).unwrap_err().to_string().contains("2 channels was given 3"));
        assert!(conv.forward(&wave(&[1, 2, 2, 4], 1.0)).unwrap_err().to_string().contains("kernel of 3"));
    }
}
