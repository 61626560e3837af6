//! The requests and answers of SQS's JSON protocol. A field that is not here is refused by its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::error::{Code, Error};
use super::message::MessageAttributes;
use crate::operation::Operation;

/// Declares the requests: an operation, its structure, and the queue that it is about.
macro_rules! requests {
    ($($operation:ident($body:ty)),* $(,)?) => {
        /// A request.
        #[derive(Debug)]
        pub(crate) enum Request {
            $($operation($body),)*
        }

        impl Request {
            /// Reads the request of operation `name`.
            pub fn parse(name: &str, body: &[u8]) -> Result<Self, Error> {
                match name {
                    $(stringify!($operation) => serde_json::from_slice(body).map(Self::$operation),)*
                    _ => {
                        let message = format!("{name:?} is not part of this model of SQS");
                        return Err(Error::new(Code::UnknownOperation, message));
                    }
                }
                .map_err(|error| Error::new(Code::Serialization, format!("{name}: {error}")))
            }

            pub fn operation(&self) -> Operation {
                match self {
                    $(Self::$operation(_) => Operation::$operation,)*
                }
            }

            /// The name of its queue; empty where it has none.
            pub fn queue(&self) -> &str {
                match self {
                    $(Self::$operation(body) => body.queue(),)*
                }
            }
        }
    };
}

requests! {
    CreateQueue(CreateQueue),
    DeleteQueue(OfQueue),
    GetQueueUrl(GetQueueUrl),
    ListQueues(ListQueues),
    ListDeadLetterSourceQueues(OfQueue),
    GetQueueAttributes(GetQueueAttributes),
    SetQueueAttributes(SetQueueAttributes),
    PurgeQueue(OfQueue),
    TagQueue(TagQueue),
    UntagQueue(UntagQueue),
    ListQueueTags(OfQueue),
    StartMessageMoveTask(StartMessageMoveTask),
    ListMessageMoveTasks(ListMessageMoveTasks),
    SendMessage(SendMessage),
    SendMessageBatch(Batch<Outgoing>),
    ReceiveMessage(ReceiveMessage),
    DeleteMessage(DeleteMessage),
    DeleteMessageBatch(Batch<Deletion>),
    ChangeMessageVisibility(ChangeMessageVisibility),
    ChangeMessageVisibilityBatch(Batch<Change>),
}

/// Of which queue a request is.
trait Named {
    fn queue(&self) -> &str;
}

/// The queue's name in its URL.
fn in_url(url: &str) -> &str {
    url.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident by $queue:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "PascalCase", deny_unknown_fields)]
        pub(crate) struct $name {
            $(pub $field: $type,)*
        }

        impl Named for $name {
            fn queue(&self) -> &str {
                in_url(&self.$queue)
            }
        }
    };
}

request!(OfQueue by queue_url { queue_url: String, });
request!(GetQueueUrl by queue_name { queue_name: String, });
request!(TagQueue by queue_url { queue_url: String, tags: BTreeMap<String, String>, });
request!(UntagQueue by queue_url { queue_url: String, tag_keys: Vec<String>, });
request!(SetQueueAttributes by queue_url { queue_url: String, attributes: BTreeMap<String, String>, });
request!(GetQueueAttributes by queue_url { queue_url: String, attribute_names: Option<Vec<String>>, });
request!(DeleteMessage by queue_url { queue_url: String, receipt_handle: String, });
request!(
    ChangeMessageVisibility by queue_url { queue_url: String, receipt_handle: String, visibility_timeout: i64, }
);
request!(ReceiveMessage by queue_url {
    queue_url: String,
    max_number_of_messages: Option<i64>,
    wait_time_seconds: Option<i64>,
    visibility_timeout: Option<i64>,
    attribute_names: Option<Vec<String>>,
    message_system_attribute_names: Option<Vec<String>>,
    message_attribute_names: Option<Vec<String>>,
    receive_request_attempt_id: Option<String>,
});
request!(SendMessage by queue_url {
    queue_url: String,
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    message_attributes: Option<MessageAttributes>,
    message_system_attributes: Option<MessageAttributes>,
    message_deduplication_id: Option<String>,
    message_group_id: Option<String>,
});

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct CreateQueue {
    pub queue_name: String,
    pub attributes: Option<BTreeMap<String, String>>,
    // the SDKs write it so
    #[serde(rename = "tags")]
    pub tags: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct ListQueues {
    pub queue_name_prefix: Option<String>,
    pub max_results: Option<usize>,
    pub next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct StartMessageMoveTask {
    pub source_arn: String,
    pub destination_arn: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct ListMessageMoveTasks {
    pub source_arn: String,
    pub max_results: Option<usize>,
}

impl Named for CreateQueue {
    fn queue(&self) -> &str {
        &self.queue_name
    }
}

impl Named for ListQueues {
    fn queue(&self) -> &'static str {
        ""
    }
}

impl Named for StartMessageMoveTask {
    fn queue(&self) -> &str {
        super::name_in_arn(&self.source_arn).unwrap_or_default()
    }
}

impl Named for ListMessageMoveTasks {
    fn queue(&self) -> &str {
        super::name_in_arn(&self.source_arn).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Batch<Entry> {
    pub queue_url: String,
    pub entries: Vec<Entry>,
}

impl<Entry> Named for Batch<Entry> {
    fn queue(&self) -> &str {
        in_url(&self.queue_url)
    }
}

/// An entry of a batch of messages to send; `SendMessage` is one with no id.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Outgoing {
    pub id: String,
    pub message_body: Option<String>,
    pub delay_seconds: Option<i64>,
    pub message_attributes: Option<MessageAttributes>,
    pub message_system_attributes: Option<MessageAttributes>,
    pub message_deduplication_id: Option<String>,
    pub message_group_id: Option<String>,
}

impl From<SendMessage> for Outgoing {
    fn from(one: SendMessage) -> Self {
        Self {
            id: String::new(),
            message_body: one.message_body,
            delay_seconds: one.delay_seconds,
            message_attributes: one.message_attributes,
            message_system_attributes: one.message_system_attributes,
            message_deduplication_id: one.message_deduplication_id,
            message_group_id: one.message_group_id,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Deletion {
    pub id: String,
    pub receipt_handle: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Change {
    pub id: String,
    pub receipt_handle: String,
    pub visibility_timeout: i64,
}

/// An entry of a batch, whatever it asks for.
pub(crate) trait Identified {
    fn id(&self) -> &str;
}

impl Identified for Outgoing {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Identified for Deletion {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Identified for Change {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The answer to a message sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Sent {
    #[serde(serialize_with = "text")]
    pub message_id: Arc<str>,
    #[serde(rename = "MD5OfMessageBody")]
    pub md5_of_message_body: String,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub md5_of_message_attributes: Option<String>,
    #[serde(rename = "MD5OfMessageSystemAttributes", skip_serializing_if = "Option::is_none")]
    pub md5_of_message_system_attributes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<String>,
}

/// Nothing to say.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

/// The answer to a batch.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BatchAnswer<Answer> {
    pub successful: Vec<Success<Answer>>,
    pub failed: Vec<Failure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Success<Answer> {
    pub id: String,
    #[serde(flatten)]
    pub answer: Answer,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failure {
    pub id: String,
    pub sender_fault: bool,
    pub code: &'static str,
    pub message: String,
}

/// The answer to a receive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Received {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<ReceivedMessage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReceivedMessage {
    #[serde(serialize_with = "text")]
    pub message_id: Arc<str>,
    pub receipt_handle: String,
    #[serde(rename = "MD5OfBody")]
    pub md5_of_body: String,
    pub body: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<&'static str, String>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub md5_of_message_attributes: Option<String>,
    #[serde(skip_serializing_if = "MessageAttributes::is_empty")]
    pub message_attributes: MessageAttributes,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}
