//! What a receipt handle is good for: deleting a message, and saying how long it stays hidden.

use std::sync::Arc;
use std::time::Duration;

use super::Turn;
use super::error::{Code, Error};
use super::message::State;
use super::queue::Queue;
use super::ready::Key;
use crate::fault::Chance;
use crate::journal::Event;

/// Longest that a message can be held, counted from its receive.
pub(crate) const LONGEST: Duration = Duration::from_hours(12);

/// A receipt handle: which queue, which message, which receive of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Handle {
    queue: u64,
    key: Key,
    receipt: u64,
}

/// The handle of a receive.
pub(crate) fn handle(queue: &Queue, key: Key, receipt: u64) -> String {
    format!("AQEB-{:x}-{key:x}-{receipt:x}", queue.uid)
}

fn parse(queue: &Queue, text: &str) -> Result<Handle, Error> {
    let mut parts = text.strip_prefix("AQEB-").into_iter().flat_map(|rest| rest.split('-'));
    let mut part = || u64::from_str_radix(parts.next()?, 16).ok();
    let parsed = (|| Some(Handle { queue: part()?, key: part()?, receipt: part()? }))();
    parsed.filter(|handle| handle.queue == queue.uid).ok_or_else(|| {
        let message = format!("The input receipt handle \"{text}\" is not a valid receipt handle.");
        Error::new(Code::ReceiptHandleIsInvalid, message)
    })
}

/// Deletes a message, by the handle of its last receive. In a standard queue any other handle deletes nothing and is
/// answered well; a FIFO queue refuses one whose lease has run out.
pub(crate) fn delete(
    queue: &mut Queue,
    text: &str,
    lose: &mut Option<Chance>,
    turn: &mut Turn<'_>,
) -> Result<(), Error> {
    let handle = parse(queue, text)?;
    let name = || Arc::clone(&queue.name);
    match queue.get(handle.key) {
        Some(message) if queue.is_fifo() => {
            let is_held = matches!(message.state, State::InFlight { .. }) && message.receipt == handle.receipt;
            if !is_held {
                return Err(Error::value(text, "ReceiptHandle", "The receipt handle has expired."));
            }
        }
        Some(message) if message.receipt == handle.receipt => {
            if lose.as_mut().is_some_and(Chance::strikes) {
                turn.record(|| Event::DeleteIgnored { queue: name(), handle: text.into() });
                return Ok(());
            }
        }
        Some(_) | None => {
            turn.record(|| Event::DeleteIgnored { queue: name(), handle: text.into() });
            return Ok(());
        }
    }
    if let Some(message) = queue.remove(handle.key) {
        turn.record(|| Event::Deleted { queue: Arc::clone(&queue.name), id: message.id, handle: text.into() });
    }
    Ok(())
}

/// Hides a message in flight for so many seconds from now; with zero it is visible at once.
pub(crate) fn change_visibility(queue: &mut Queue, text: &str, seconds: i64, turn: &mut Turn<'_>) -> Result<(), Error> {
    let lease = lease(seconds)?;
    let handle = parse(queue, text)?;
    let Some(message) = queue.get(handle.key).filter(|message| message.receipt == handle.receipt) else {
        let reason = "Message does not exist or is not available for visibility timeout change.";
        return Err(Error::value(text, "ReceiptHandle", reason));
    };
    let State::InFlight { since, .. } = message.state else {
        return Err(Error::new(Code::MessageNotInflight, "The specified message isn't in flight."));
    };
    let until = turn.now + lease;
    // SQS counts whole seconds
    if turn.now.since(since).as_secs() + lease.as_secs() > LONGEST.as_secs() {
        let reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
        return Err(Error::value(seconds, "VisibilityTimeout", reason));
    }
    let id = Arc::clone(&message.id);
    queue.set_state(handle.key, if lease.is_zero() { State::Ready } else { State::InFlight { since, until } });
    turn.record(|| Event::VisibilityChanged { queue: Arc::clone(&queue.name), id, handle: text.into(), lease });
    Ok(())
}

/// A visibility timeout of a request.
pub(crate) fn lease(seconds: i64) -> Result<Duration, Error> {
    let lease = u64::try_from(seconds).map(Duration::from_secs).ok().filter(|lease| *lease <= LONGEST);
    lease.ok_or_else(|| Error::value(seconds, "VisibilityTimeout", "Must be between 0 and 43200 seconds."))
}
