//! Rows of any jobs through the UNet: as many to a pass as agree in shape and fit into memory.

use candle_core::{DType, Device, Error, Result, Tensor};

use super::room::{Room, RowShape};
use super::unet::{Conditioning, TextAndSizes, UNet};
use crate::model::Cancel;
use crate::model::weights::is_out_of_memory;

/// Rows of one job on one side of guidance: its pictures, all at one timestep with one text.
#[derive(Debug)]
pub(super) struct Block {
    /// Looked at before each pass: a step of many pictures takes many.
    pub(super) cancel: Cancel,
    /// (pictures, channels, height, width), in the model's number format.
    pub(super) latents: Tensor,
    pub(super) timestep: f32,
    pub(super) guidance: f32,
    /// (1, tokens, channels).
    pub(super) context: Tensor,
    /// Of SDXL: one pooled text (1, channels) and the sizes of one picture.
    pub(super) added: Option<TextAndSizes>,
}

impl Block {
    fn rows(&self) -> Result<usize> {
        self.latents.dim(0)
    }

    fn shape(&self) -> Result<RowShape> {
        let (_, _, height, width) = self.latents.dims4()?;
        Ok(RowShape { height, width, tokens: self.context.dim(1)? })
    }
}

/// Some of a block's rows.
#[derive(Debug, Clone, Copy)]
struct Piece {
    block: usize,
    from: usize,
    rows: usize,
}

/// Runs `blocks` through `unet`; each comes to its own output (pictures, channels, height, width) in f32, or its own error.
/// What one comes to that is cancelled meanwhile is of no use.
pub(super) fn run(unet: &UNet, room: &mut Room, blocks: &[Block]) -> Vec<Result<Tensor>> {
    let mut outputs: Vec<Result<Vec<Tensor>>> = blocks.iter().map(|_| Ok(Vec::new())).collect();
    let mut shapes: Vec<(RowShape, Vec<Piece>)> = Vec::new();
    for (block, of) in blocks.iter().enumerate() {
        match of.shape().and_then(|shape| Ok((shape, of.rows()?))) {
            Err(error) => outputs[block] = Err(error),
            Ok((shape, rows)) => {
                let piece = Piece { block, from: 0, rows };
                match shapes.iter_mut().find(|(known, _)| *known == shape) {
                    Some((_, pieces)) => pieces.push(piece),
                    None => shapes.push((shape, vec![piece])),
                }
            }
        }
    }
    for (shape, pieces) in shapes {
        let mut left = pieces;
        loop {
            left.retain(|piece| !blocks[piece.block].cancel.is_cancelled());
            if left.is_empty() {
                break;
            }
            let (now, later) = split(left, room.most(shape));
            left = later;
            let mut passes = Passes { unet, room: &mut *room, blocks, shape };
            for (piece, output) in passes.run(now) {
                match (&mut outputs[piece.block], output) {
                    (Ok(parts), Ok(output)) => parts.push(output),
                    (failed @ Ok(_), Err(error)) => *failed = Err(error),
                    (Err(_), _) => {}
                }
            }
        }
    }
    let whole = |parts: Vec<Tensor>| if parts.is_empty() { Err(cancelled()) } else { Tensor::cat(&parts, 0) };
    outputs.into_iter().map(|parts| parts.and_then(whole)).collect()
}

fn cancelled() -> Error {
    Error::Msg("cancelled between passes".into())
}

/// Takes the first `most` rows off.
fn split(pieces: Vec<Piece>, most: usize) -> (Vec<Piece>, Vec<Piece>) {
    let mut free = most.max(1);
    let (mut now, mut later) = (Vec::new(), Vec::new());
    for piece in pieces {
        let rows = piece.rows.min(free);
        free -= rows;
        if rows > 0 {
            now.push(Piece { rows, ..piece });
        }
        if rows < piece.rows {
            later.push(Piece { from: piece.from + rows, rows: piece.rows - rows, ..piece });
        }
    }
    (now, later)
}

struct Passes<'a> {
    unet: &'a UNet,
    room: &'a mut Room,
    blocks: &'a [Block],
    shape: RowShape,
}

impl Passes<'_> {
    /// One pass, in order; one that fails is tried again in halves, so that an error is that of its row alone.
    fn run(&mut self, pieces: Vec<Piece>) -> Vec<(Piece, Result<Tensor>)> {
        let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
        let before = self.room.before();
        let error = match self.forward(&pieces).and_then(|output| cut(&output, &pieces)) {
            Ok(outputs) => {
                self.room.after(self.shape, rows, before);
                return outputs;
            }
            Err(error) => error,
        };
        let out_of_memory = is_out_of_memory(&error);
        if out_of_memory {
            self.room.was_too_much(self.shape, rows);
        }
        if rows < 2 {
            let mut error = Some(error);
            let gone = || Error::Msg("the pass gave no output".into());
            return pieces.into_iter().map(|piece| (piece, Err(error.take().unwrap_or_else(gone)))).collect();
        }
        let why = if out_of_memory { "does not fit into memory" } else { "failed" };
        tracing::warn!(rows, %error, "a pass of the UNet {why}; trying halves");
        let (first, second) = split(pieces, rows / 2);
        let mut outputs = self.run(first);
        outputs.extend(self.run(second));
        outputs
    }

    fn forward(&self, pieces: &[Piece]) -> Result<Tensor> {
        let mut latents = Vec::with_capacity(pieces.len());
        let mut contexts = Vec::new();
        let mut pooled = Vec::new();
        let (mut timesteps, mut guidance, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let block = &self.blocks[piece.block];
            latents.push(block.latents.narrow(0, piece.from, piece.rows)?);
            for _ in 0..piece.rows {
                contexts.push(&block.context);
                timesteps.push(block.timestep);
                guidance.push(block.guidance);
                if let Some(added) = &block.added {
                    pooled.push(&added.pooled);
                    sizes.extend(&added.sizes);
                }
            }
        }
        let added =
            if pooled.is_empty() { None } else { Some(TextAndSizes { pooled: Tensor::cat(&pooled, 0)?, sizes }) };
        let conditioning = Conditioning { timesteps, guidance, context: Tensor::cat(&contexts, 0)?, added };
        let output = self.unet.forward(&Tensor::cat(&latents, 0)?, &conditioning)?;
        let output = output.to_dtype(DType::F32)?;
        // what a GPU has no memory for is told only when it is waited for
        if !matches!(output.device(), Device::Cpu) {
            output.device().synchronize()?;
        }
        Ok(output)
    }
}

/// A pass's output, each piece's to itself.
fn cut(output: &Tensor, pieces: &[Piece]) -> Result<Vec<(Piece, Result<Tensor>)>> {
    let mut from = 0;
    let mut outputs = Vec::with_capacity(pieces.len());
    for piece in pieces {
        outputs.push((*piece, Ok(output.narrow(0, from, piece.rows)?)));
        from += piece.rows;
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dealt_out_in_order() {
        let piece = |block, from, rows| Piece { block, from, rows };
        let told = |pieces: &[Piece]| pieces.iter().map(|p| (p.block, p.from, p.rows)).collect::<Vec<_>>();
        let (now, later) = split(vec![piece(0, 0, 2), piece(1, 0, 3), piece(2, 0, 1)], 4);
        assert_eq!(told(&now), [(0, 0, 2), (1, 0, 2)]);
        assert_eq!(told(&later), [(1, 2, 1), (2, 0, 1)]);
        let (now, later) = split(later, 0);
        assert_eq!((told(&now), told(&later)), (vec![(1, 2, 1)], vec![(2, 0, 1)]), "always at least one");
    }
}
