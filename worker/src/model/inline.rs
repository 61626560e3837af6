//! Files that jobs bring along within their messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Reads base64, bare or as a data: URL. What is wrong goes behind the field's name.
pub(super) fn read(text: &str) -> Result<Vec<u8>, String> {
    let encoded = match text.strip_prefix("data:") {
        Some(rest) => {
            let (kind, content) = rest.split_once(',').ok_or("is a data: URL without a comma")?;
            if !kind.ends_with(";base64") {
                return Err("is a data: URL that is not base64".into());
            }
            content
        }
        None if text.contains("://") => {
            return Err("cannot be fetched from there; send it as base64, as a data: URL or as s3://bucket/key".into());
        }
        None => text,
    };
    // the usual tools break the lines
    let encoded: String = encoded.split_ascii_whitespace().collect();
    STANDARD.decode(encoded).map_err(|error| format!("is not base64: {error}"))
}
