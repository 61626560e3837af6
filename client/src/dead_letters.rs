//! Reads a consumer's dead-letter queue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName as Name};
use jiff::Timestamp;
use millrace_api::{FIRST_MESSAGE_ATTRIBUTE, JOB_ID_ATTRIBUTE};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::Error;
use crate::fan_out::task_word;
use crate::queue::purge;

/// Most messages of one receive.
const RECEIVE: i32 = 10;
/// Most attributes of a message.
const MOST_ATTRIBUTES: usize = 10;
/// What the attributes begin with that tell why a worker gave a message up.
pub(crate) const ERROR_ATTRIBUTES: &str = "millrace-error-";
/// What tells a task envelope, whose job id is made of other fields.
const TASK_KEYS: [&str; 3] = ["entity_id", "task_name", "task_config"];

/// A consumer's dead-letter queue.
#[derive(Debug)]
pub struct DeadLetters<'a> {
    pub(crate) client: &'a Client,
    /// Its URL.
    pub url: String,
}

/// A message that was given up.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// The job's id, as far as the message tells.
    pub job_id: String,
    /// SQS's id of it in the dead-letter queue.
    pub message_id: String,
    /// The record's error code, where a worker sent it here; SQS gives no reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// What was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_field: Option<String>,
    /// When it was sent: to the queue where SQS moved it, else to the dead-letter queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// As it was sent.
    pub body: String,
    /// The other attributes of text and number.
    pub attributes: BTreeMap<String, String>,
    #[serde(skip)]
    pub(crate) handle: String,
    #[serde(skip)]
    pub(crate) all: HashMap<String, MessageAttributeValue>,
    #[serde(skip)]
    pub(crate) group: Option<String>,
    #[serde(skip)]
    pub(crate) trace_header: Option<String>,
}

impl Client {
    /// The dead-letter queue that the queue's redrive policy names.
    pub async fn dead_letters(&self) -> Result<DeadLetters<'_>, Error> {
        Ok(DeadLetters { client: self, url: self.dead_letter_url().await? })
    }
}

impl DeadLetters<'_> {
    /// Takes up to `most` messages, which stay hidden from others for so long, or until they are released.
    pub async fn take(&self, most: usize, hidden: Duration) -> Result<Vec<DeadLetter>, Error> {
        let (mut letters, mut seen) = (Vec::new(), HashSet::new());
        while letters.len() < most {
            let call = self.client.sqs.receive_message().queue_url(&self.url).wait_time_seconds(1);
            let call = call.visibility_timeout(i32::try_from(hidden.as_secs()).unwrap_or(i32::MAX));
            let asked = i32::try_from(most - letters.len()).unwrap_or(RECEIVE).min(RECEIVE);
            let call = call.max_number_of_messages(asked);
            let call = call.message_attribute_names("All").message_system_attribute_names(Name::All);
            let answer = call.send().await.map_err(|e| Error::aws("sqs:ReceiveMessage", &self.url, &e))?;
            let received = answer.messages.unwrap_or_default();
            let new = received.into_iter().filter_map(DeadLetter::new).filter(|l| seen.insert(l.message_id.clone()));
            let before = letters.len();
            letters.extend(new);
            if letters.len() == before {
                break;
            }
        }
        Ok(letters)
    }

    /// Makes messages visible again, for whoever looks next. Best effort: they come back by themselves.
    pub async fn release(&self, letters: &[DeadLetter]) {
        for letter in letters {
            let call = self.client.sqs.change_message_visibility().queue_url(&self.url);
            let _ = call.receipt_handle(&letter.handle).visibility_timeout(0).send().await;
        }
    }

    /// Deletes all of them, for good. SQS takes up to a minute.
    pub async fn purge(&self) -> Result<(), Error> {
        purge(&self.client.sqs, &self.url).await
    }
}

impl DeadLetter {
    fn new(message: Message) -> Option<Self> {
        let all = message.message_attributes.unwrap_or_default();
        let system = message.attributes.unwrap_or_default();
        let text = |name: &str| Some(all.get(name)?.string_value()?.to_owned());
        let error = |what: &str| text(&format!("{ERROR_ATTRIBUTES}{what}"));
        let body = message.body?;
        let message_id = message.message_id?;
        let ours = |name: &str| {
            name.starts_with(ERROR_ATTRIBUTES) || [JOB_ID_ATTRIBUTE, FIRST_MESSAGE_ATTRIBUTE].contains(&name)
        };
        let own = all.iter().filter(|(name, _)| !ours(name));
        let sent = system.get(&Name::SentTimestamp).and_then(|ms| ms.parse().ok());
        Some(Self {
            job_id: text(JOB_ID_ATTRIBUTE)
                .or_else(|| job_id_in(&body))
                .or_else(|| text(FIRST_MESSAGE_ATTRIBUTE))
                .unwrap_or_else(|| message_id.clone()),
            error_code: error("code"),
            error_message: error("message"),
            error_field: error("field"),
            sent_at: sent.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            attributes: own
                .filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned())))
                .collect(),
            handle: message.receipt_handle?,
            group: system.get(&Name::MessageGroupId).cloned(),
            trace_header: system.get(&Name::AwsTraceHeader).cloned(),
            message_id,
            body,
            all,
        })
    }

    /// The id that its message had first, where a message that is sent for it must tell so: a job that nothing names then stays
    /// the same one. Which forms name a job only its worker knows for certain, so this goes along whatever the body is.
    pub(crate) fn first_message(&self) -> Option<&str> {
        let told = [JOB_ID_ATTRIBUTE, FIRST_MESSAGE_ATTRIBUTE].into_iter().any(|name| self.all.contains_key(name));
        // SQS takes no more; where it is needed, the error says so
        let full = self.all.keys().filter(|name| !name.starts_with(ERROR_ATTRIBUTES)).count() >= MOST_ATTRIBUTES;
        let needless = told || (full && job_id_in(&self.body).is_some());
        (!needless).then_some(self.message_id.as_str())
    }
}

/// The job id that a body tells by itself.
fn job_id_in(body: &str) -> Option<String> {
    let object: Map<String, Value> = serde_json::from_str(body).ok()?;
    let word = |key: &str| task_word(object.get(key)?);
    if let Some(id) = object.get("job_id").and_then(Value::as_str) {
        return Some(id.to_owned());
    }
    let is_task = TASK_KEYS.iter().all(|key| object.contains_key(*key));
    is_task.then(|| Some(format!("{}-{}-{}", word("entity_id")?, word("task_name")?, word("timestamp")?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_tell_its_job() {
        for (body, wanted) in [
            ("a cat", None),
            (r#"{"prompt":"x"}"#, None),
            (r#"{"prompt":"x","job_id":"j"}"#, Some("j")),
            (r#"{"job_id":7,"prompt":"x"}"#, None),
            (r#"{"entity_id":17,"task_name":"a","task_config":{},"timestamp":"t"}"#, Some("17-a-t")),
            (r#"{"entity_id":17,"task_name":"a","task_config":{}}"#, None),
        ] {
            assert_eq!(job_id_in(body).as_deref(), wanted, "{body}");
        }
    }
}
