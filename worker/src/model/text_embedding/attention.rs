//! Attention among the tokens of each text of a pack.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::rope;

use super::pack::Run;

/// Most scores that are held at a time: those of long texts are worked off in parts, or they alone would take more memory
/// than the model.
const MOST_SCORES: usize = 1 << 24;

/// Which tokens a token attends to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sight<'a> {
    /// All of its text.
    All,
    /// All, with something added to each score: (heads, tokens, tokens) of a text at least as long as any.
    Biased(&'a Tensor),
    /// Those that are at most so many tokens away.
    Near(usize),
}

/// Angles by which queries and keys are turned at each place: two tables of (places, width of a head / 2).
#[derive(Debug)]
pub(super) struct Rope {
    cosines: Tensor,
    sines: Tensor,
}

impl Rope {
    /// Of so many places; `theta` is the base of the wavelengths (Su et al. 2021, section 3.2.2).
    pub(super) fn new(places: usize, head: usize, theta: f64, dtype: DType, device: &Device) -> Result<Self> {
        let rate = |pair: usize| theta.powf(-2.0 * pair as f64 / head as f64);
        let angles = |place: usize| (0..head / 2).map(move |pair| (place as f64 * rate(pair)) as f32);
        let angles: Vec<f32> = (0..places).flat_map(angles).collect();
        let angles = Tensor::from_vec(angles, (places, head / 2), &Device::Cpu)?;
        let table = |x: Tensor| x.to_dtype(dtype)?.to_device(device);
        Ok(Self { cosines: table(angles.cos()?)?, sines: table(angles.sin()?)? })
    }

    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        rope(x, &self.cosines, &self.sines)
    }
}

/// How the tokens of a text attend to each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) heads: usize,
    pub(super) sight: Sight<'a>,
    pub(super) rope: Option<&'a Rope>,
}

impl Attention<'_> {
    /// `stacked` has the tokens' queries, keys and values side by side, the queries scaled: (tokens, 3 · width). Gives (tokens,
    /// width).
    pub(super) fn forward(&self, stacked: &Tensor, runs: &[Run]) -> Result<Tensor> {
        let mut outputs = Vec::with_capacity(runs.len());
        for run in runs {
            let most = (MOST_SCORES / (self.heads * run.length * run.length).max(1)).max(1);
            for first in (0..run.texts).step_by(most) {
                let texts = most.min(run.texts - first);
                let tokens = stacked.narrow(0, run.start + first * run.length, texts * run.length)?;
                outputs.push(self.texts(&tokens, texts, run.length)?);
            }
        }
        if outputs.len() == 1 { Ok(outputs.remove(0)) } else { Tensor::cat(&outputs, 0) }
    }

    /// Texts of one length.
    fn texts(&self, stacked: &Tensor, texts: usize, length: usize) -> Result<Tensor> {
        let width = stacked.dim(D::Minus1)? / 3;
        let split = stacked.reshape((texts, length, 3, self.heads, width / self.heads))?;
        let split = split.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (mut query, mut key, value) = (split.get(0)?, split.get(1)?, split.get(2)?);
        if let Some(rope) = self.rope {
            (query, key) = (rope.turn(&query)?, rope.turn(&key)?);
        }
        let at_once = (MOST_SCORES / (texts * self.heads * length).max(1)).max(1);
        // of a few neighbours, queries that are few need few keys
        let at_once = if let Sight::Near(reach) = self.sight { at_once.min(2 * reach.max(1)) } else { at_once };
        let parts = (0..length).step_by(at_once).map(|from| {
            let part = Part { from, to: length.min(from + at_once), length };
            self.part(&query, &key, &value, part)
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let out = if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 2)? };
        out.transpose(1, 2)?.reshape((texts * length, width))
    }

    /// What some of the queries come to: each of (texts, heads, tokens, width of a head).
    fn part(&self, query: &Tensor, key: &Tensor, value: &Tensor, part: Part) -> Result<Tensor> {
        let (first, last) = match self.sight {
            Sight::Near(reach) => (part.from.saturating_sub(reach), part.length.min(part.to + reach)),
            Sight::All | Sight::Biased(_) => (0, part.length),
        };
        let slice = |x: &Tensor, from: usize, to: usize| {
            if (from, to) == (0, part.length) { Ok(x.clone()) } else { x.narrow(2, from, to - from)?.contiguous() }
        };
        let (query, key) = (slice(query, part.from, part.to)?, slice(key, first, last)?);
        // in f32 whatever the tensors are: f16 has no room for a softmax's sums
        let scores = query.matmul(&key.t()?)?.to_dtype(DType::F32)?;
        let scores = match self.sight {
            Sight::All => scores,
            Sight::Biased(bias) => {
                let bias = bias.narrow(1, part.from, part.to - part.from)?.narrow(2, 0, part.length)?;
                scores.broadcast_add(&bias.unsqueeze(0)?)?
            }
            Sight::Near(reach) => scores.broadcast_add(&part.mask(reach, first, last, scores.device())?)?,
        };
        softmax_last_dim(&scores)?.to_dtype(value.dtype())?.matmul(&slice(value, first, last)?)
    }
}

/// Queries of a text of so many tokens.
#[derive(Debug, Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
    length: usize,
}

impl Part {
    /// Hides of the keys from `first` to `last` those that are out of reach.
    fn mask(self, reach: usize, first: usize, last: usize, device: &Device) -> Result<Tensor> {
        let hidden = |query: usize, key: usize| if query.abs_diff(key) > reach { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> =
            (self.from..self.to).flat_map(|query| (first..last).map(move |key| hidden(query, key))).collect();
        Tensor::from_vec(mask, (self.to - self.from, last - first), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..count).map(|i| (1.0 + i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn apart(one: &Tensor, other: &Tensor) -> f32 {
        (one - other).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// One text with all of its scores at once, those that are out of reach hidden.
    fn plainly(stacked: &Tensor, heads: usize, reach: usize) -> Tensor {
        let (length, width) = (stacked.dim(0).unwrap(), stacked.dim(1).unwrap() / 3);
        let side = |index: usize| {
            let x = stacked.narrow(1, index * width, width).unwrap();
            x.reshape((length, heads, width / heads)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
        };
        let mask = Part { from: 0, to: length, length }.mask(reach, 0, length, &Device::Cpu).unwrap();
        let scores = side(0).matmul(&side(1).t().unwrap()).unwrap().broadcast_add(&mask).unwrap();
        let out = softmax_last_dim(&scores).unwrap().matmul(&side(2)).unwrap();
        out.transpose(0, 1).unwrap().reshape((length, width)).unwrap()
    }

    #[test]
    fn texts_attend_to_themselves_alone_and_as_far_as_they_see() {
        let (heads, width) = (2, 8);
        let lengths = [1, 3, 3, 5, 40];
        let tokens: usize = lengths.iter().sum();
        let stacked = wave(tokens * 3 * width, &[tokens, 3 * width]);
        let run = |start, texts, length| Run { start, texts, length };
        let runs = [run(0, 1, 1), run(1, 2, 3), run(7, 1, 5), run(12, 1, 40)];
        for (sight, reach) in [(Sight::All, 100), (Sight::Near(2), 2), (Sight::Near(7), 7)] {
            let found = Attention { heads, sight, rope: None }.forward(&stacked, &runs).unwrap();
            let mut start = 0;
            for length in lengths {
                let own = stacked.narrow(0, start, length).unwrap();
                let far = apart(&found.narrow(0, start, length).unwrap(), &plainly(&own, heads, reach));
                assert!(far < 1e-6, "{sight:?}, {length} tokens: {far}");
                start += length;
            }
        }
    }

    #[test]
    fn a_bias_that_hides_the_far_is_as_if_they_were_not_seen() {
        let (heads, width, length) = (2, 8, 9);
        let stacked = wave(length * 3 * width, &[length, 3 * width]);
        let mask = Part { from: 0, to: 12, length: 12 }.mask(3, 0, 12, &Device::Cpu).unwrap();
        let bias = Tensor::stack(&[&mask, &mask], 0).unwrap();
        let runs = [Run { start: 0, texts: 1, length }];
        let found = Attention { heads, sight: Sight::Biased(&bias), rope: None }.forward(&stacked, &runs).unwrap();
        assert!(apart(&found, &plainly(&stacked, heads, 3)) < 1e-6);
    }
}
