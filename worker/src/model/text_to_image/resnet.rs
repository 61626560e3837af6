//! diffusers' `ResnetBlock2D`, with a timestep as in UNets, and without as in autoencoders.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::silu;
use millrace_nn::conv::{Conv, Kernel};
use millrace_nn::linear::{Linear, linear};
use millrace_nn::norm::Norm;

use super::unet_blocks::{Shared, conv3};

/// Two convolutions, each after a norm, and the way around them.
#[derive(Debug)]
pub(super) struct Resnet {
    norm1: Norm,
    conv1: Conv,
    time: Option<Linear>,
    norm2: Norm,
    conv2: Conv,
    /// Where the number of channels changes.
    around: Option<Conv>,
}

impl Resnet {
    pub(super) fn new(vb: &VarBuilder, input: usize, output: usize, shared: Shared) -> Result<Self> {
        let Shared { time_channels, groups, epsilon } = shared;
        let time = time_channels.map(|channels| linear(channels, output, &vb.pp("time_emb_proj")));
        let around = (input != output).then(|| Conv::new(&vb.pp("conv_shortcut"), input, output, Kernel::POINT));
        Ok(Self {
            norm1: Norm::new(&vb.pp("norm1"), groups, input, epsilon)?,
            conv1: conv3(&vb.pp("conv1"), input, output, 1)?,
            time: time.transpose()?,
            norm2: Norm::new(&vb.pp("norm2"), groups, output, epsilon)?,
            conv2: conv3(&vb.pp("conv2"), output, output, 1)?,
            around: around.transpose()?,
        })
    }

    /// `x` (rows, channels, height, width), `time` (rows, channels).
    pub(super) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let inner = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let inner = match (time, &self.time) {
            (Some(time), Some(linear)) => self.norm2.shift_forward_silu(&inner, &linear.forward(&silu(time)?)?)?,
            _ => self.norm2.forward_silu(&inner)?,
        };
        match &self.around {
            Some(around) => self.conv2.forward_add(&inner, &around.forward(x)?),
            None => self.conv2.forward_add(&inner, x),
        }
    }
}
