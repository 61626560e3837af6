//! Pictures as PNG files that carry how they were made.

use bytes::Bytes;
use png::{BitDepth, ColorType, Encoder, EncodingError};
use serde::Serialize;

/// How a picture was made: what its `parameters` chunk says.
#[derive(Debug, Serialize)]
pub(super) struct Parameters<'a> {
    pub(super) prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) negative_prompt: Option<&'a str>,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) steps: u32,
    pub(super) guidance_scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guidance_rescale: Option<f64>,
    /// Of a picture that began with another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strength: Option<f64>,
    pub(super) seed: u64,
    /// Which of the request's pictures it is, from 0.
    pub(super) index: u32,
    pub(super) scheduler: &'a str,
}

/// Why a picture could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PngError {
    #[error("cannot describe the picture: {0}")]
    Parameters(#[from] serde_json::Error),
    #[error("cannot encode the picture: {0}")]
    Encode(#[from] EncodingError),
}

/// Encodes 8-bit red, green, blue, row by row.
pub(super) fn encode(pixels: &[u8], parameters: &Parameters) -> Result<Bytes, PngError> {
    let mut content = Vec::new();
    let mut encoder = Encoder::new(&mut content, parameters.width as u32, parameters.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let description = serde_json::to_string(parameters)?;
    // tEXt is what every tool reads, and holds no more than Latin-1.
    if description.is_ascii() {
        encoder.add_text_chunk("parameters".into(), description)?;
    } else {
        encoder.add_itxt_chunk("parameters".into(), description)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(file: &[u8]) -> (Vec<u8>, png::Info<'static>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (pixels, reader.info().clone())
    }

    fn parameters(prompt: &str) -> Parameters<'_> {
        Parameters {
            prompt,
            negative_prompt: None,
            width: 2,
            height: 1,
            steps: 4,
            guidance_scale: 0.0,
            guidance_rescale: None,
            strength: None,
            seed: u64::MAX,
            index: 0,
            scheduler: "EulerDiscreteScheduler",
        }
    }

    #[test]
    fn pixels_and_parameters_come_back() {
        let file = encode(&[0, 128, 255, 0, 255, 51], &parameters("a cat")).unwrap();
        let (pixels, info) = decode(&file);
        assert_eq!(pixels, [0, 128, 255, 0, 255, 51]);
        let text = &info.uncompressed_latin1_text[0];
        assert_eq!(text.keyword, "parameters");
        let value: serde_json::Value = serde_json::from_str(&text.text).unwrap();
        assert_eq!((&value["prompt"], &value["seed"]), (&"a cat".into(), &u64::MAX.into()));
    }

    #[test]
    fn a_prompt_in_any_script_is_kept() {
        let file = encode(&[0; 6], &parameters("一只猫 🐈")).unwrap();
        let (_, info) = decode(&file);
        let text = info.utf8_text[0].get_text().unwrap();
        assert!(text.contains("一只猫 🐈"), "{text}");
    }
}
