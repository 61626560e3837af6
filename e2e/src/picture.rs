//! A PNG as a user's tools would read it.

use std::io::Cursor;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A decoded picture.
#[derive(Debug)]
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How it was made: its text chunk `parameters`.
    pub parameters: Value,
}

impl Picture {
    /// Decodes every pixel of a PNG, and its text.
    pub fn decode(file: &[u8]) -> Result<Self> {
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().context("too large")?];
        let frame = reader.next_frame(&mut pixels)?;
        ensure!(frame.buffer_size() == (frame.width * frame.height * 3) as usize, "not 8-bit RGB");
        let info = reader.info();
        let latin =
            info.uncompressed_latin1_text.iter().filter(|t| t.keyword == "parameters").map(|t| Ok(t.text.clone()));
        let utf8 =
            info.utf8_text.iter().filter(|t| t.keyword == "parameters").map(png::text_metadata::ITXtChunk::get_text);
        let text = latin.chain(utf8).next().context("no text chunk named parameters")??;
        Ok(Self { width: frame.width, height: frame.height, parameters: serde_json::from_str(&text)? })
    }
}
