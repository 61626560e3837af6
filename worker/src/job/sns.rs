//! What came through an SNS topic without raw delivery: the body is an envelope around the one that was published.

use std::borrow::Cow;
use std::collections::BTreeMap;

use millrace_api::BodyFormat;
use serde::Deserialize;

use crate::message::Message;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notification {
    r#type: String,
    // told apart from a producer's own object by what only SNS writes
    #[serde(rename = "TopicArn")]
    _topic_arn: String,
    message: String,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    r#type: String,
    value: String,
}

/// The message as it was published: its body, and its attributes beside those that SQS tells.
pub fn unwrap(message: &Message, format: BodyFormat) -> Cow<'_, Message> {
    // a look at the text spares nearly every body a second parse
    if format == BodyFormat::Text || !message.body.contains("\"TopicArn\"") {
        return Cow::Borrowed(message);
    }
    match serde_json::from_str::<Notification>(&message.body) {
        Ok(notification) if notification.r#type == "Notification" => {
            let published = notification.message_attributes.into_iter();
            let readable = published.filter(|(_, a)| !a.r#type.starts_with("Binary")).map(|(name, a)| (name, a.value));
            let mut attributes: BTreeMap<_, _> = readable.collect();
            attributes.extend(message.attributes.clone());
            Cow::Owned(Message { body: notification.message, attributes, ..message.clone() })
        }
        _ => Cow::Borrowed(message),
    }
}
