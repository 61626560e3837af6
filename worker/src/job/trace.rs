//! The trace that a message belongs to, by W3C trace context or X-Ray. What is malformed is no trace, as both demand;
//! it never fails a job.

use super::Trace;
use crate::message::Message;

/// The attribute, and Celery's header, that carry a W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Stands for a span that nobody names; no span has it.
const NO_SPAN: &str = "0000000000000000";

/// The trace that a message's attributes tell.
pub fn of(message: &Message) -> Option<Trace> {
    let given = message.attributes.get(TRACEPARENT).and_then(|text| w3c(text));
    given.or_else(|| message.trace_header.as_deref().and_then(x_ray))
}

/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. A later version may say more behind it.
pub fn w3c(text: &str) -> Option<Trace> {
    let mut parts = text.trim().split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    let shaped = is_hex(version, 2) && version != "ff" && is_hex(flags, 2) && !(version == "00" && more);
    let ids = is_id(trace_id, 32) && is_id(parent_id, 16);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (shaped && ids).then(|| Trace { trace_id: trace_id.into(), parent_id: parent_id.into(), sampled: flags & 1 == 1 })
}

/// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`, in any order.
fn x_ray(header: &str) -> Option<Trace> {
    let field = |name: &str| header.split(';').filter_map(|part| part.trim().split_once('=')).find(|(k, _)| *k == name);
    let root = field("Root")?.1.strip_prefix("1-")?;
    let (time, unique) = root.split_once('-')?;
    let trace_id = format!("{time}{unique}");
    if time.len() != 8 || !is_id(&trace_id, 32) {
        return None;
    }
    let parent_id = match field("Parent") {
        Some((_, parent)) if is_id(parent, 16) => parent,
        Some(_) => return None,
        None => NO_SPAN,
    };
    Some(Trace { trace_id, parent_id: parent_id.into(), sampled: field("Sampled").is_some_and(|(_, v)| v == "1") })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hex digits that are not all zero.
fn is_id(text: &str, length: usize) -> bool {
    is_hex(text, length) && text.bytes().any(|b| b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn told(trace: Option<Trace>) -> Option<(String, String, bool)> {
        trace.map(|t| (t.trace_id, t.parent_id, t.sampled))
    }

    #[test]
    fn a_w3c_context_is_read_and_a_malformed_one_is_none() {
        let is = |sampled| Some((TRACE.to_owned(), SPAN.to_owned(), sampled));
        let table = [
            (format!("00-{TRACE}-{SPAN}-01"), is(true)),
            (format!("00-{TRACE}-{SPAN}-00"), is(false)),
            (format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), is(true)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-zz"), None),
            ("é-é-é-é".into(), None),
            (String::new(), None),
        ];
        for (text, wanted) in table {
            assert_eq!(told(w3c(&text)), wanted, "{text}");
        }
    }

    #[test]
    fn an_x_ray_header_is_read_and_a_malformed_one_is_none() {
        let id = "5759e988bd862e3fe1be46a994272793";
        let is = |parent: &str, sampled| Some((id.to_owned(), parent.to_owned(), sampled));
        let table = [
            (
                "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
                is("53995c3f42cd8ad8", true),
            ),
            (
                "Sampled=0; Parent=53995c3f42cd8ad8; Root=1-5759e988-bd862e3fe1be46a994272793",
                is("53995c3f42cd8ad8", false),
            ),
            ("Root=1-5759e988-bd862e3fe1be46a994272793", is(NO_SPAN, false)),
            ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=x", None),
            ("Root=2-5759e988-bd862e3fe1be46a994272793;Sampled=1", None),
            ("Root=1-5759e988bd862e3f-e1be46a994272793", None),
            ("Parent=53995c3f42cd8ad8;Sampled=1", None),
        ];
        for (text, wanted) in table {
            assert_eq!(told(x_ray(text)), wanted, "{text}");
        }
    }
}
