//! `aws-chunked` bodies: chunks with their lengths, then trailers.

use bytes::Bytes;

use super::error::Error;

/// A body without its chunks' frames, and its trailers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unframed {
    pub body: Bytes,
    /// Names in small letters.
    pub trailers: Vec<(String, String)>,
}

/// Takes the frames off.
pub(crate) fn unframe(framed: &[u8]) -> Result<Unframed, Error> {
    let mut body = Vec::with_capacity(framed.len());
    let mut rest = framed;
    loop {
        let (size, after) = line(rest)?;
        // a signed chunk has its signature after the length
        let digits = size.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits, 16).map_err(|_| broken("a chunk's length is no number"))?;
        rest = after;
        if length == 0 {
            break;
        }
        let (chunk, after) = rest.split_at_checked(length).ok_or_else(|| broken("a chunk ends early"))?;
        body.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n").ok_or_else(|| broken("a chunk is longer than it says"))?;
    }
    let mut trailers = Vec::new();
    while !rest.is_empty() {
        let (text, after) = line(rest)?;
        rest = after;
        if let Some((name, value)) = text.split_once(':') {
            trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    Ok(Unframed { body: body.into(), trailers })
}

fn line(octets: &[u8]) -> Result<(&str, &[u8]), Error> {
    let end = octets.windows(2).position(|two| two == b"\r\n").ok_or_else(|| broken("a line does not end"))?;
    let (line, rest) = octets.split_at(end);
    let line = std::str::from_utf8(line).map_err(|_| broken("a line is no text"))?;
    Ok((line, &rest[2..]))
}

fn broken(how: &str) -> Error {
    Error::new("IncompleteBody", 400, format!("The body is not aws-chunked as its headers say: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_off() {
        let framed = b"5;chunk-signature=ab\r\nhello\r\n1\r\n!\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
        let trailers = vec![("x-amz-checksum-crc32".to_owned(), "AAAA".to_owned())];
        assert_eq!(unframe(framed), Ok(Unframed { body: Bytes::from_static(b"hello!"), trailers }));
        assert_eq!(unframe(b"0\r\n\r\n"), Ok(Unframed::default()));
    }

    #[test]
    fn a_broken_frame_is_told() {
        for framed in [&b"5\r\nhell"[..], b"5\r\nhello!\r\n0\r\n\r\n", b"x\r\n", b"5"] {
            assert_eq!(unframe(framed).unwrap_err().code, "IncompleteBody", "{framed:?}");
        }
    }
}
