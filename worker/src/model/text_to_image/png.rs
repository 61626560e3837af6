//! Pictures as PNG files that carry how they were made.

use bytes::Bytes;
use png::{BitDepth, ColorType, Encoder, EncodingError};
use serde_json::{Map, Value};

/// Encodes 8-bit red, green, blue, row by row; `parameters` say how the picture was made.
pub(super) fn encode(
    pixels: &[u8],
    width: u32,
    height: u32,
    parameters: &Map<String, Value>,
) -> Result<Bytes, EncodingError> {
    let mut content = Vec::new();
    let mut encoder = Encoder::new(&mut content, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let description = Value::Object(parameters.clone()).to_string();
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
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;

    fn decode(file: &[u8]) -> (Vec<u8>, png::Info<'static>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (pixels, reader.info().clone())
    }

    fn parameters(prompt: &str) -> Map<String, Value> {
        object(json!({"prompt": prompt, "seed": u64::MAX}))
    }

    #[test]
    fn pixels_and_parameters_come_back() {
        let file = encode(&[0, 128, 255, 0, 255, 51], 2, 1, &parameters("a cat")).unwrap();
        let (pixels, info) = decode(&file);
        assert_eq!(pixels, [0, 128, 255, 0, 255, 51]);
        let text = &info.uncompressed_latin1_text[0];
        assert_eq!(text.keyword, "parameters");
        let value: serde_json::Value = serde_json::from_str(&text.text).unwrap();
        assert_eq!((&value["prompt"], &value["seed"]), (&"a cat".into(), &u64::MAX.into()));
    }

    #[test]
    fn a_prompt_in_any_script_is_kept() {
        let file = encode(&[0; 6], 2, 1, &parameters("一只猫 🐈")).unwrap();
        let (_, info) = decode(&file);
        let text = info.utf8_text[0].get_text().unwrap();
        assert!(text.contains("一只猫 🐈"), "{text}");
    }
}
