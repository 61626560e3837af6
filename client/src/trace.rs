//! Trace contexts.

/// Whether this is a trace context that a worker takes, as W3C writes it:
/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
pub fn is_traceparent(context: &str) -> bool {
    let parts: Vec<&str> = context.split('-').collect();
    let hex =
        |text: &&str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let id = |text: &&str, length| hex(text, length) && text.bytes().any(|b| b != b'0');
    matches!(parts.as_slice(), [version, trace, span, flags]
        if *version == "00" && id(trace, 32) && id(span, 16) && hex(flags, 2))
}
