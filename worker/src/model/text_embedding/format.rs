//! Vectors as a job's result: a JSON value, a line of JSON for each, or a NumPy array.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::request::{Prompt, TextEmbeddingRequest, Texts};
use crate::model::{Output, Product, RunError};

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The result record's own value.
    Json,
    JsonLines,
    /// NumPy's file of an array of f32: (numbers) of one text, (texts, numbers) of several.
    Npy,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::JsonLines => "jsonl",
            Self::Npy => "npy",
        }
    }
}

/// What came of one text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Embedded {
    pub(super) vector: Vec<f32>,
    /// That were read, those around the text included.
    pub(super) tokens: usize,
}

/// The result of a request, of which these are the texts' vectors; `normalized` is what was done where it left that open.
pub(super) fn product(
    request: &TextEmbeddingRequest,
    embedded: &[Embedded],
    normalized: bool,
) -> Result<Product, RunError> {
    let parameters = told(request, embedded, normalized);
    let file = |extension: &'static str, content_type: &'static str, body: Vec<u8>| Product {
        outputs: vec![Output { extension: extension.into(), content_type: content_type.into(), body: body.into() }],
        parameters: parameters.clone(),
        ..Product::default()
    };
    Ok(match (request.format, &request.texts) {
        (Format::Npy, texts) => {
            file("npy", "application/octet-stream", npy(embedded, matches!(texts, Texts::Many { .. })))
        }
        (Format::Json | Format::JsonLines, Texts::Many { lines, .. }) => {
            let mut body = Vec::new();
            for (line, embedded) in lines.iter().zip(embedded) {
                let Embedded { vector, tokens } = embedded;
                let row = Row { id: line.id.as_ref(), embedding: vector, tokens: *tokens };
                serde_json::to_writer(&mut body, &row).map_err(|error| RunError::Model(error.to_string()))?;
                body.push(b'\n');
            }
            file("jsonl", "application/jsonl", body)
        }
        (Format::Json | Format::JsonLines, Texts::One(_)) => {
            let value = embedded.first().map(|Embedded { vector, tokens }| {
                let numbers: Vec<f64> = vector.iter().copied().map(decimal).collect();
                json!({ "embedding": numbers, "tokens": tokens })
            });
            Product { value, parameters, ..Product::default() }
        }
    })
}

/// One line of a file.
#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    embedding: &'a [f32],
    tokens: usize,
}

/// The number whose shortest decimal is that of `value`: 0.1 rather than 0.10000000149011612.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn told(request: &TextEmbeddingRequest, embedded: &[Embedded], normalized: bool) -> Map<String, Value> {
    let mut told = Map::new();
    if let Some(Prompt::Named(name)) = &request.settings.prompt {
        told.insert("prompt_name".into(), name.as_str().into());
    }
    told.insert("normalize".into(), normalized.into());
    told.insert("truncate".into(), request.settings.truncate.name().into());
    told.insert("dimensions".into(), embedded.first().map_or(0, |one| one.vector.len()).into());
    told.insert("format".into(), request.format.name().into());
    told
}

/// NumPy's format, version 1.0: a magic, the length of the header, the header as Python spells it, padded so that the numbers
/// begin at a multiple of 64, the numbers row by row.
fn npy(embedded: &[Embedded], several: bool) -> Vec<u8> {
    const BEGIN: usize = 10;
    const ALIGN: usize = 64;
    let numbers = embedded.first().map_or(0, |one| one.vector.len());
    let shape = if several { format!("({}, {numbers})", embedded.len()) } else { format!("({numbers},)") };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let whole = (BEGIN + header.len() + 1).next_multiple_of(ALIGN);
    header = format!("{header:width$}\n", width = whole - BEGIN - 1);
    let mut file = Vec::with_capacity(whole + embedded.len() * numbers * size_of::<f32>());
    file.extend(b"\x93NUMPY\x01\x00");
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    for value in embedded.iter().flat_map(|one| &one.vector) {
        file.extend(value.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::super::request::Line;
    use super::*;

    fn embedded(vector: &[f32]) -> Embedded {
        Embedded { vector: vector.to_vec(), tokens: 3 }
    }

    fn many(format: Format) -> TextEmbeddingRequest {
        let line = |id: Option<Value>| Line { id, text: "a".into() };
        let texts = Texts::Many { lines: vec![line(None), line(Some(json!("b")))], field: "texts" };
        TextEmbeddingRequest { texts, format, ..TextEmbeddingRequest::plain("") }
    }

    #[test]
    fn one_text_is_a_value_with_short_numbers() {
        let product = product(&TextEmbeddingRequest::plain("a"), &[embedded(&[0.1, -2.0])], true).unwrap();
        assert_eq!(product.value.unwrap().to_string(), r#"{"embedding":[0.1,-2.0],"tokens":3}"#);
        let told = json!({"normalize": true, "truncate": "end", "dimensions": 2, "format": "json"});
        assert_eq!((Value::Object(product.parameters), product.outputs.len()), (told, 0));
    }

    #[test]
    fn several_are_lines_with_their_ids() {
        let product = product(&many(Format::JsonLines), &[embedded(&[0.1]), embedded(&[2.5])], true).unwrap();
        let [output] = product.outputs.as_slice() else { panic!("{product:?}") };
        let lines = "{\"embedding\":[0.1],\"tokens\":3}\n{\"id\":\"b\",\"embedding\":[2.5],\"tokens\":3}\n";
        assert_eq!((&*output.extension, &output.body[..]), ("jsonl", lines.as_bytes()));
    }

    #[test]
    fn an_array_is_one_that_numpy_reads() {
        let product = product(&many(Format::Npy), &[embedded(&[1.0, 2.0]), embedded(&[3.0, 4.0])], true).unwrap();
        let body = &product.outputs[0].body;
        assert_eq!((&body[..8], &*product.outputs[0].extension), (&b"\x93NUMPY\x01\x00"[..], "npy"));
        let length = usize::from(u16::from_le_bytes([body[8], body[9]]));
        let header = std::str::from_utf8(&body[10..10 + length]).unwrap();
        assert!((10 + length).is_multiple_of(64) && header.ends_with(" \n"), "{header:?}");
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"), "{header:?}");
        let numbers: Vec<f32> =
            body[10 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(numbers, [1.0, 2.0, 3.0, 4.0]);
        let single = npy(&[embedded(&[1.0, 2.0])], false);
        assert!(String::from_utf8_lossy(&single).contains("'shape': (2,), }"));
    }
}
