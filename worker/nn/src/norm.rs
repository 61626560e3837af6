//! Group norms, and the activation that follows most of them.
//!
//! On a CPU in f32 a group is read twice and written once, activation included. Elsewhere it is candle's own, in which each
//! step passes over all of it.

use candle_core::{Device, Error, Module, Result, Tensor};
use candle_nn::ops::silu;
use candle_nn::{GroupNorm, Init, VarBuilder};
use rayon::prelude::*;

use super::math::{self, sum};
use super::plain::{is_plain, read};

/// A group norm with a scale and a shift for each channel.
#[derive(Debug)]
pub enum Norm {
    Own(Own),
    Candle(GroupNorm),
}

impl Norm {
    pub fn new(vb: &VarBuilder, groups: usize, channels: usize, epsilon: f64) -> Result<Self> {
        let scale = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        let shift = vb.get_with_hints(channels, "bias", Init::Const(0.0))?;
        if is_plain(&scale) && channels.is_multiple_of(groups) {
            let channels = scale.to_vec1()?.into_iter().zip(shift.to_vec1()?).collect();
            return Ok(Self::Own(Own { channels, groups, epsilon }));
        }
        Ok(Self::Candle(GroupNorm::new(scale, shift, channels, groups, epsilon)?))
    }

    /// (rows, channels, height, width).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.forward(x, None, |value| value),
            Self::Candle(norm) => norm.forward(x),
        }
    }

    /// The norm, and the sigmoid linear unit of it.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.forward(x, None, math::silu),
            Self::Candle(norm) => silu(&norm.forward(x)?),
        }
    }

    /// As [`Norm::forward_silu`], of `x` with `shift` (rows, channels) added to all pixels of a channel.
    pub fn shift_forward_silu(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(own) => own.forward(x, Some(shift), math::silu),
            Self::Candle(norm) => silu(&norm.forward(&x.broadcast_add(&shift.unsqueeze(2)?.unsqueeze(3)?)?)?),
        }
    }
}

/// One that is computed here.
#[derive(Debug)]
pub struct Own {
    /// Each channel's scale and shift.
    channels: Vec<(f32, f32)>,
    groups: usize,
    epsilon: f64,
}

impl Own {
    fn forward(&self, x: &Tensor, shift: Option<&Tensor>, activation: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
        let x = x.contiguous()?;
        let (rows, count, height, width) = x.dims4()?;
        if count != self.channels.len() {
            return Err(Error::Msg(format!("a norm of {} channels was given {count}", self.channels.len())));
        }
        let (size, together) = (height * width, count / self.groups);
        let shifts = match shift {
            Some(shift) => shift.flatten_all()?.to_vec1()?,
            None => vec![0.0; rows * count],
        };
        if shifts.len() != rows * count {
            return Err(Error::Msg(format!("{} shifts were given for {rows} rows of {count} channels", shifts.len())));
        }
        let one = |group: usize, values: &[f32], out: &mut [f32]| {
            let shifts = &shifts[group * together..][..together];
            let channels = || values.chunks_exact(size).zip(shifts);
            let total =
                |of: &dyn Fn(&[f32], f32) -> f64| channels().map(|(values, shift)| of(values, *shift)).sum::<f64>();
            let mean = total(&|values, shift| sum(values, |value| value + shift)) / values.len() as f64;
            let off = mean as f32;
            let variance =
                total(&|values, shift| sum(values, |value| (value + shift - off).powi(2))) / values.len() as f64;
            let narrow = 1.0 / (variance + self.epsilon).sqrt();
            let own = &self.channels[group % self.groups * together..];
            for ((out, (values, by)), (scale, shift)) in out.chunks_exact_mut(size).zip(channels()).zip(own) {
                let scale = (f64::from(*scale) * narrow) as f32;
                out.iter_mut()
                    .zip(values)
                    .for_each(|(out, value)| *out = activation((value + by - off) * scale + shift));
            }
        };
        let mut out = vec![0.0; x.elem_count()];
        read(&x, |values| {
            let groups = out.par_chunks_mut(together * size).zip(values.par_chunks(together * size)).enumerate();
            groups.for_each(|(group, (out, values))| one(group, values, out));
            Ok(())
        })?;
        Tensor::from_vec(out, (rows, count, height, width), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::DType;

    use super::*;
    use crate::testing::{apart, wave};

    #[test]
    fn it_is_candles_own() {
        for (rows, groups, channels, height, width) in [(1, 1, 1, 1, 2), (2, 4, 8, 5, 7), (3, 2, 6, 33, 31)] {
            let wave = |shape: &[usize], seed| (wave(shape, seed) + 0.3).unwrap();
            let (scale, shift) = (wave(&[channels], 1.0), wave(&[channels], 2.0));
            let candles = GroupNorm::new(scale.clone(), shift.clone(), channels, groups, 1e-5).unwrap();
            let weights = HashMap::from([("weight".to_owned(), scale), ("bias".to_owned(), shift)]);
            let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
            let norm = Norm::new(&vb, groups, channels, 1e-5).unwrap();
            let x = wave(&[rows, channels, height, width], 3.0);
            let known = candles.forward(&x).unwrap();
            let shift = wave(&[rows, channels], 4.0);
            let shifted = x.broadcast_add(&shift.reshape((rows, channels, 1, 1)).unwrap()).unwrap();
            let shifted = silu(&candles.forward(&shifted).unwrap()).unwrap();
            for (found, known) in [
                (norm.forward(&x), known.clone()),
                (norm.forward_silu(&x), silu(&known).unwrap()),
                (norm.shift_forward_silu(&x, &shift), shifted),
            ] {
                assert!(apart(&found.unwrap(), &known) < 1e-5, "{channels} channels in {groups} groups");
            }
        }
    }
}
