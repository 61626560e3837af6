//! Numbers as sinusoids: how timesteps, sizes and guidance enter the UNet. Computed in f32 on the CPU, whatever the model
//! is in: f16 cannot tell timestep 999 from 999.5.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder, ops::silu};
use millrace_nn::linear::{Linear, linear, linear_no_bias};

/// The slowest sinusoid's period, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// How diffusers' `Timesteps` lays out its sinusoids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sinusoids {
    pub(super) channels: usize,
    pub(super) cosines_first: bool,
    pub(super) shift: f64,
}

impl Sinusoids {
    /// Sinusoids of `values`: (values, channels), f32.
    pub(super) fn of(self, values: &[f32], device: &Device) -> Result<Tensor> {
        let half = self.channels / 2;
        let rate = |i: usize| (-MAX_PERIOD.ln() * i as f32 / (half as f32 - self.shift as f32)).exp();
        let rates: Vec<f32> = (0..half).map(rate).collect();
        let mut rows = Vec::with_capacity(values.len() * self.channels);
        for value in values {
            let sines = rates.iter().map(|rate| (value * rate).sin());
            let cosines = rates.iter().map(|rate| (value * rate).cos());
            if self.cosines_first {
                rows.extend(cosines.chain(sines));
            } else {
                rows.extend(sines.chain(cosines));
            }
        }
        Tensor::from_vec(rows, (values.len(), half * 2), device)
    }

    /// How guidance is laid out in models that were distilled to take it as an input: (guidance − 1) in thousandths.
    pub(super) fn of_guidance(channels: usize, guidance: &[f32], device: &Device) -> Result<Tensor> {
        let scaled: Vec<f32> = guidance.iter().map(|guidance| (guidance - 1.0) * 1000.0).collect();
        Self { channels, cosines_first: false, shift: 1.0 }.of(&scaled, device)
    }
}

/// diffusers' `TimestepEmbedding`: two layers over sinusoids.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    condition: Option<Linear>,
    first: Linear,
    second: Linear,
}

impl TimeEmbedding {
    /// From `input` to `output` channels; `condition` is the width of what is added before.
    pub(super) fn new(vb: &VarBuilder, input: usize, output: usize, condition: Option<usize>) -> Result<Self> {
        let project = |width| linear_no_bias(width, input, &vb.pp("cond_proj"));
        Ok(Self {
            condition: condition.map(project).transpose()?,
            first: linear(input, output, &vb.pp("linear_1"))?,
            second: linear(output, output, &vb.pp("linear_2"))?,
        })
    }

    /// (rows, input) to (rows, output) in `dtype`.
    pub(super) fn forward(&self, x: &Tensor, condition: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
        let x = x.to_dtype(dtype)?;
        let x = match (&self.condition, condition) {
            (Some(project), Some(condition)) => (x + project.forward(&condition.to_dtype(dtype)?)?)?,
            _ => x,
        };
        self.second.forward(&silu(&self.first.forward(&x)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(sinusoids: Sinusoids, values: &[f32]) -> Vec<Vec<f32>> {
        sinusoids.of(values, &Device::Cpu).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn sinusoids_are_those_of_diffusers() {
        let cosines_first = Sinusoids { channels: 4, cosines_first: true, shift: 0.0 };
        let found = rows(cosines_first, &[0.0, 500.0]);
        // The second rate is 10000^(-1/2), so its angle is 5.
        let known = [[1.0, 1.0, 0.0, 0.0], [500_f32.cos(), 5_f32.cos(), 500_f32.sin(), 5_f32.sin()]];
        for (found, known) in found.iter().flatten().zip(known.iter().flatten()) {
            assert!((found - known).abs() < 1e-5, "{found} is not {known}");
        }
        let sines_first = rows(Sinusoids { cosines_first: false, shift: 1.0, ..cosines_first }, &[500.0]);
        // With a shift of 1 the rates end at 1/10000.
        for (found, known) in sines_first[0].iter().zip([500_f32.sin(), 0.05_f32.sin(), 500_f32.cos(), 0.05_f32.cos()])
        {
            assert!((found - known).abs() < 1e-5, "{found} is not {known}");
        }
    }

    #[test]
    fn guidance_of_one_is_nothing() {
        let found: Vec<Vec<f32>> = Sinusoids::of_guidance(4, &[1.0], &Device::Cpu).unwrap().to_vec2().unwrap();
        assert_eq!(found, [[0.0, 0.0, 1.0, 1.0]]);
    }
}
