//! Prompts of any length: cut into chunks as long as the encoder reads, encoded side by side, with weights where they are
//! asked for. A prompt that fits into one chunk and has no weights is encoded exactly as diffusers does.

use candle_core::{D, DType, Result as CandleResult, Tensor};

use super::text_encoder::TextEncoder;
use super::tokenizer::Tokenizer;
use super::weighting::{Part, weighted};
use crate::model::InvalidInput;

/// Longest prompt in chunks: each lengthens what every step of the picture attends to.
const MOST_CHUNKS: usize = 8;

/// A tokenizer with the encoder that reads its tokens.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) tokenizer: Tokenizer,
    pub(super) encoder: TextEncoder,
}

/// A text as one reader reads it.
#[derive(Debug, Clone, PartialEq)]
struct Chunks {
    /// The text's own tokens, and the weight of each.
    words: Vec<(u32, f32)>,
}

impl Chunks {
    fn count(&self, room: usize) -> usize {
        self.words.len().div_ceil(room).max(1)
    }

    fn is_weighted(&self) -> bool {
        self.words.iter().any(|(_, weight)| (weight - 1.0).abs() > f32::EPSILON)
    }
}

/// A text, tokenized for every reader of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    by_reader: Vec<Chunks>,
}

/// What a model's encoders make of a text.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    /// (1, tokens, channels), the encoders side by side.
    pub(super) context: Tensor,
    /// (1, channels) of the encoder that has a projection.
    pub(super) pooled: Option<Tensor>,
}

impl Encoded {
    /// The same shape, all zeros: SDXL's blank.
    pub(super) fn zeroed(&self) -> CandleResult<Self> {
        let pooled = self.pooled.as_ref().map(Tensor::zeros_like).transpose()?;
        Ok(Self { context: self.context.zeros_like()?, pooled })
    }
}

impl Text {
    /// Tokenizes `text`, the job's field `field`; with `weights`, parts like `(this:1.3)` are weighted.
    pub(super) fn read(readers: &[Reader], field: &str, text: &str, weights: bool) -> Result<Self, InvalidInput> {
        let parts = if weights { weighted(text) } else { vec![Part { text: text.to_owned(), weight: 1.0 }] };
        let by_reader = readers.iter().map(|reader| {
            let mut words = Vec::new();
            for part in &parts {
                let tokens = reader.tokenizer.words(&part.text);
                let tokens = tokens.map_err(|error| InvalidInput::field(field, error.to_string()))?;
                words.extend(tokens.into_iter().map(|token| (token, part.weight)));
            }
            let (chunks, most) = (Chunks { words }, MOST_CHUNKS * reader.tokenizer.room());
            if chunks.words.len() > most {
                let message = format!("has {} tokens; at most {most} are read, in chunks", chunks.words.len());
                return Err(InvalidInput::field(field, message));
            }
            Ok(chunks)
        });
        Ok(Self { by_reader: by_reader.collect::<Result<_, _>>()? })
    }

    /// How many chunks it takes.
    pub(super) fn chunks(&self, readers: &[Reader]) -> usize {
        let counts = self.by_reader.iter().zip(readers).map(|(chunks, reader)| chunks.count(reader.tokenizer.room()));
        counts.max().unwrap_or(1)
    }

    /// Encodes it in `count` chunks, of which the last ones may be empty.
    pub(super) fn encode(&self, readers: &[Reader], count: usize) -> CandleResult<Encoded> {
        let mut states = Vec::with_capacity(readers.len());
        let mut pooled = None;
        for (chunks, reader) in self.by_reader.iter().zip(readers) {
            let room = reader.tokenizer.room();
            let words: Vec<u32> = chunks.words.iter().map(|(word, _)| *word).collect();
            let part = |i: usize| words.get(i * room..((i + 1) * room).min(words.len())).unwrap_or_default();
            let framed: Vec<Vec<u32>> = (0..count).map(|i| reader.tokenizer.frame(part(i))).collect();
            let rows: Vec<&[u32]> = framed.iter().map(Vec::as_slice).collect();
            let encoded = reader.encoder.encode(&rows)?;
            let (_, length, channels) = encoded.hidden.dims3()?;
            let hidden = encoded.hidden.reshape((1, count * length, channels))?;
            states.push(if chunks.is_weighted() { weigh(&hidden, chunks, count, length)? } else { hidden });
            // a text is summed up by its beginning
            pooled = pooled.or(encoded.pooled.map(|pooled| pooled.narrow(0, 0, 1)).transpose()?);
        }
        Ok(Encoded { context: Tensor::cat(&states, D::Minus1)?, pooled })
    }
}

/// Multiplies each token's state with its weight and restores the mean of all, so that a text with weights is as loud as
/// one without (as in the long prompt pipelines of diffusers' community).
fn weigh(hidden: &Tensor, chunks: &Chunks, count: usize, length: usize) -> CandleResult<Tensor> {
    let mut weights = vec![1.0_f32; count * length];
    let room = length - 2;
    for (index, (_, weight)) in chunks.words.iter().enumerate() {
        // each chunk begins with its begin token
        let at = index / room * length + 1 + index % room;
        if let Some(place) = weights.get_mut(at) {
            *place = *weight;
        }
    }
    let weights = Tensor::from_vec(weights, (1, count * length, 1), hidden.device())?;
    let full = hidden.to_dtype(DType::F32)?;
    let weighted = full.broadcast_mul(&weights)?;
    let mean = |x: &Tensor| x.mean_all()?.to_scalar::<f32>();
    let (before, after) = (mean(&full)?, mean(&weighted)?);
    let restored = if after.abs() > f32::EPSILON { (weighted * f64::from(before / after))? } else { weighted };
    restored.to_dtype(hidden.dtype())
}
