//! Texts of one pass, end to end. Nothing is padded: what works on single tokens sees them as the rows of one matrix, and
//! attention works on the texts of one length together.

use candle_core::{Device, Result, Tensor};

/// Texts of one pass, each as its tokens, those of one length side by side.
#[derive(Debug)]
pub(super) struct Pack<'a> {
    texts: Vec<&'a [u32]>,
}

/// Texts of one length, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Where the first begins, in tokens.
    pub(super) start: usize,
    /// How many they are.
    pub(super) texts: usize,
    /// Tokens of each.
    pub(super) length: usize,
}

impl<'a> Pack<'a> {
    /// Of texts that are sorted by length.
    pub(super) fn new(texts: Vec<&'a [u32]>) -> Self {
        Self { texts }
    }

    /// Of all texts.
    pub(super) fn tokens(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum()
    }

    /// Of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.texts.iter().map(|text| text.len()).max().unwrap_or_default()
    }

    /// Tokens of each text, in order.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.texts.iter().map(|text| text.len())
    }

    /// The texts of each length.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut start = 0;
        let run = |same: &[&[u32]]| {
            let length = same[0].len();
            let run = Run { start, texts: same.len(), length };
            start += length * same.len();
            run
        };
        self.texts.chunk_by(|a, b| a.len() == b.len()).map(run).collect()
    }

    /// The tokens: (tokens).
    pub(super) fn ids(&self, device: &Device) -> Result<Tensor> {
        let ids: Vec<u32> = self.texts.iter().flat_map(|text| text.iter().copied()).collect();
        let count = ids.len();
        Tensor::from_vec(ids, count, device)
    }

    /// The numbers of the tokens' places, of each text on its own: (tokens).
    pub(super) fn positions(&self, places: Places, device: &Device) -> Result<Tensor> {
        let mut positions = Vec::with_capacity(self.tokens());
        for text in &self.texts {
            match places {
                Places::FromZero => positions.extend(0..text.len() as u32),
                Places::AfterPadding(pad) => {
                    let mut last = pad;
                    // a text may spell out the padding token, which has no place and moves nobody's
                    positions.extend(text.iter().map(|token| {
                        last += u32::from(*token != pad);
                        if *token == pad { pad } else { last }
                    }));
                }
            }
        }
        let count = positions.len();
        Tensor::from_vec(positions, count, device)
    }
}

/// How a model numbers the places of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    /// 0, 1, 2, …
    FromZero,
    /// From the number after the padding token's.
    AfterPadding(u32),
}

impl Places {
    /// Tokens of the longest text that a table of so many places has room for.
    pub(super) fn room(self, table: usize) -> usize {
        match self {
            Self::FromZero => table,
            Self::AfterPadding(pad) => table.saturating_sub(pad as usize + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_length_are_a_run() {
        let texts: [&[u32]; 4] = [&[1, 2], &[3, 4], &[5, 6, 7], &[8, 9, 10, 11]];
        let pack = Pack::new(texts.to_vec());
        let run = |start, texts, length| Run { start, texts, length };
        assert_eq!(pack.runs(), [run(0, 2, 2), run(4, 1, 3), run(7, 1, 4)]);
        assert_eq!((pack.tokens(), pack.longest()), (11, 4));
        assert_eq!(pack.ids(&Device::Cpu).unwrap().to_vec1::<u32>().unwrap(), (1..=11).collect::<Vec<_>>());
    }

    #[test]
    fn places_begin_anew_with_each_text() {
        let texts: [&[u32]; 2] = [&[5, 6], &[7, 1, 8]];
        let pack = Pack::new(texts.to_vec());
        let positions = |places| pack.positions(places, &Device::Cpu).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(positions(Places::FromZero), [0, 1, 0, 1, 2]);
        assert_eq!(positions(Places::AfterPadding(1)), [2, 3, 2, 1, 3]);
        assert_eq!((Places::FromZero.room(512), Places::AfterPadding(1).room(514)), (512, 512));
    }
}
