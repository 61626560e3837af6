//! A message: what its producer gave, what the queue knows of it, and the digests that clients check.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::attributes::LARGEST;
use super::error::{Code, Error};
use crate::clock::Moment;

/// A message in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub id: Arc<str>,
    pub content: Arc<Content>,
    /// When it came in; a standard dead-letter queue keeps it.
    pub sent: Moment,
    /// Its place in a FIFO queue.
    pub sequence: Option<u64>,
    /// How often it was received, over all queues.
    pub receives: u32,
    /// How often in this queue.
    pub receives_here: u32,
    pub first_received: Option<Moment>,
    /// The queue that it was given up in.
    pub given_up_by: Option<Arc<str>>,
    pub state: State,
    /// What its newest receipt handle ends with; none has been given out where it is zero.
    pub receipt: u64,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Delayed { until: Moment },
    InFlight { since: Moment, until: Moment },
}

/// What a producer sends. It never changes.
#[derive(Debug)]
pub(crate) struct Content {
    pub body: String,
    pub md5: String,
    pub attributes: MessageAttributes,
    pub trace_header: Option<String>,
    pub group: Option<Arc<str>>,
    pub deduplication: Option<String>,
}

pub(crate) type MessageAttributes = BTreeMap<String, AttributeValue>;

/// A message attribute as both sides write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct AttributeValue {
    pub data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
    /// In Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_value: Option<String>,
}

impl AttributeValue {
    /// The value's octets, and whether it is binary.
    fn octets(&self) -> Option<(Vec<u8>, bool)> {
        match (&self.string_value, &self.binary_value) {
            (Some(text), None) => Some((text.clone().into_bytes(), false)),
            (None, Some(base64)) => Some((BASE64_STANDARD.decode(base64).ok()?, true)),
            _ => None,
        }
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::new(Code::InvalidParameterValue, reason));
        let (kind, _) = self.data_type.split_once('.').unwrap_or((&self.data_type, ""));
        let Some((octets, is_binary)) = self.octets() else {
            return refuse(format!("The message attribute '{name}' must contain either a string or a binary value."));
        };
        if octets.is_empty() {
            return refuse(format!("The message attribute '{name}' must contain a non-empty message attribute value."));
        }
        match (kind, is_binary) {
            ("String", false) => check_text(self.string_value.as_deref().unwrap_or_default()),
            ("Binary", true) => Ok(()),
            ("Number", false) if self.string_value.as_ref().is_some_and(|text| text.parse::<f64>().is_ok()) => Ok(()),
            _ => refuse(format!(
                "The message attribute '{name}' has an invalid message attribute type or a value that is not of it, \
                 the set of supported type prefixes is Binary, Number, and String."
            )),
        }
    }
}

impl Content {
    /// Its size as SQS counts it.
    pub fn size(&self) -> usize {
        self.body.len() + size(&self.attributes)
    }

    /// What every queue refuses.
    pub fn check(&self, largest: usize) -> Result<(), Error> {
        if self.body.is_empty() {
            return Err(Error::missing("MessageBody"));
        }
        check_text(&self.body)?;
        if self.attributes.len() > 10 {
            let message =
                format!("Number of message attributes [{}] exceeds the allowed maximum [10].", self.attributes.len());
            return Err(Error::new(Code::InvalidParameterValue, message));
        }
        for (name, value) in &self.attributes {
            check_name(name)?;
            value.check(name)?;
        }
        if self.size() > largest.min(LARGEST) {
            let message =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {largest} bytes.");
            return Err(Error::new(Code::InvalidParameterValue, message));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let lower = name.to_ascii_lowercase();
    let sound = (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..");
    if sound { Ok(()) } else { Err(Error::value(name, "MessageAttributeName", "no name of a message attribute.")) }
}

/// SQS takes what XML 1.0 can carry.
fn check_text(text: &str) -> Result<(), Error> {
    let is_sound =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
    match text.chars().find(|c| !is_sound(*c)) {
        None => Ok(()),
        Some(c) => {
            let message = format!(
                "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | \
                 #xE000 to #xFFFD | #x10000 to #x10FFFF, and this is #x{:X}",
                u32::from(c)
            );
            Err(Error::new(Code::InvalidMessageContents, message))
        }
    }
}

/// The size of attributes as SQS counts it.
pub(crate) fn size(attributes: &MessageAttributes) -> usize {
    let attribute = |(name, value): (&String, &AttributeValue)| {
        name.len() + value.data_type.len() + value.octets().map_or(0, |(octets, _)| octets.len())
    };
    attributes.iter().map(attribute).sum()
}

/// MD5 in hexadecimal, of a body.
pub(crate) fn md5(octets: &[u8]) -> String {
    hex(&Md5::digest(octets))
}

/// MD5 of attributes as SQS computes it: by name, each part with its length before it; none where there are none.
pub(crate) fn md5_of_attributes(attributes: &MessageAttributes) -> Option<String> {
    let mut digest = Md5::new();
    let mut any = false;
    for (name, value) in attributes {
        let (octets, is_binary) = value.octets()?;
        any = true;
        for part in [name.as_bytes(), value.data_type.as_bytes()] {
            digest.update((part.len() as u32).to_be_bytes());
            digest.update(part);
        }
        digest.update([if is_binary { 2 } else { 1 }]);
        digest.update((octets.len() as u32).to_be_bytes());
        digest.update(&octets);
    }
    any.then(|| hex(&digest.finalize()))
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sqs() {
        let value = |data_type: &str, string: Option<&str>, binary: Option<&str>| AttributeValue {
            data_type: data_type.into(),
            string_value: string.map(str::to_owned),
            binary_value: binary.map(str::to_owned),
        };
        let attributes = MessageAttributes::from([
            ("a".to_owned(), value("String", Some("x"), None)),
            ("b".to_owned(), value("Binary", None, Some("AAE="))),
            ("n.1".to_owned(), value("Number.float", Some("1.5"), None)),
        ]);
        // as LocalStack answers the same message
        assert_eq!(md5_of_attributes(&attributes).as_deref(), Some("7dbff2d1e93a1fd6d9c8f13cb46ec2e4"));
        assert_eq!(md5_of_attributes(&MessageAttributes::new()), None);
        assert_eq!(md5("héllo".as_bytes()), "be50e8478cf24ff3595bc7307fb91b50");
    }
}
