//! What a test sees of a queue without touching it.

use std::sync::Arc;

use super::Sqs;
use super::message::State;
use crate::clock::Moment;

/// A queue as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// Messages that can be received.
    pub visible: usize,
    /// Messages held by who received them.
    pub in_flight: usize,
    /// Messages whose delay has not passed.
    pub delayed: usize,
    /// All of them, as they came in.
    pub messages: Vec<MessageView>,
}

/// A message as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageView {
    /// Its id.
    pub id: Arc<str>,
    /// Its body.
    pub body: String,
    /// How often it was received.
    pub receive_count: u32,
    /// Its message group.
    pub group: Option<Arc<str>>,
    /// The attributes that its producer gave: texts as they are, binaries in Base64.
    pub attributes: Vec<(String, String)>,
    /// Since when it is held; none where it is not.
    pub in_flight_since: Option<Moment>,
}

impl Sqs {
    /// The queue of that name, if there is one.
    pub fn view(&self, name: &str) -> Option<QueueView> {
        let view = self.on(name, |queue, _| {
            let messages = queue.in_order().into_iter().map(|(_, message)| {
                let content = &message.content;
                let attribute = |(name, value): (&String, &super::message::AttributeValue)| {
                    let value = value.string_value.as_ref().or(value.binary_value.as_ref());
                    (name.clone(), value.cloned().unwrap_or_default())
                };
                MessageView {
                    id: Arc::clone(&message.id),
                    body: content.body.clone(),
                    receive_count: message.receives,
                    group: content.group.clone(),
                    attributes: content.attributes.iter().map(attribute).collect(),
                    in_flight_since: match message.state {
                        State::InFlight { since, .. } => Some(since),
                        State::Ready | State::Delayed { .. } => None,
                    },
                }
            });
            let counts = queue.counts();
            Ok(QueueView {
                visible: counts.visible,
                in_flight: counts.in_flight,
                delayed: counts.delayed,
                messages: messages.collect(),
            })
        });
        view.ok()
    }
}
