//! What is broken: which calls, how many of them, and how.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::call::{Call, Service};

/// Which calls are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All of SQS.
    Sqs,
    /// All of S3.
    S3,
    /// One operation, by AWS's name: `ReceiveMessage`, `PutObject`.
    Operation(&'static str),
}

/// What befalls a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its connection is cut before anything is done; calls under way are cut as well.
    Cut,
    /// It is done, and its connection is cut instead of an answer.
    AnswerLost,
    /// It waits so long before it is done.
    Slow(Duration),
    /// AWS asks for fewer calls: SQS with RequestThrottled, S3 with SlowDown.
    Throttled,
    /// SQS finds this receipt handle no longer good, where it stands in a batch; the rest of the batch is done.
    StaleHandle(String),
    /// The last ReceiveMessage answer that held a message is given once more, to a poll under way too.
    Replay,
}

/// A fault, and which calls it befalls.
#[derive(Debug)]
pub struct Rule {
    target: Target,
    fault: Fault,
    /// So many of each `of` calls.
    share: usize,
    of: usize,
    /// No more than so many at all.
    most: usize,
    matched: AtomicUsize,
    hits: AtomicUsize,
}

impl Rule {
    /// A fault of every such call.
    pub fn new(target: Target, fault: Fault) -> Self {
        let (matched, hits) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { target, fault, share: 1, of: 1, most: usize::MAX, matched, hits }
    }

    /// Only of the first `share` of each `of` such calls.
    #[must_use]
    pub fn share(self, share: usize, of: usize) -> Self {
        Self { share, of, ..self }
    }

    /// Only of one such call.
    #[must_use]
    pub fn once(self) -> Self {
        Self { most: 1, ..self }
    }

    /// How many calls it befell.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    pub(super) fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether it befalls this call, and counts it.
    pub(super) fn takes(&self, call: &Call) -> bool {
        let meant = match self.target {
            Target::Sqs => call.service == Service::Sqs,
            Target::S3 => call.service == Service::S3,
            Target::Operation(name) => call.operation == name,
        };
        let meant = meant
            && match &self.fault {
                Fault::StaleHandle(handle) => call.names(handle),
                _ => true,
            };
        if !meant || self.matched.fetch_add(1, Ordering::Relaxed) % self.of >= self.share {
            return false;
        }
        let counted =
            self.hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.most).then_some(n + 1));
        counted.is_ok()
    }

    /// Whether it befalls calls under way, too.
    pub(super) fn interrupts(&self) -> bool {
        matches!(self.fault, Fault::Cut | Fault::Replay)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {} of {} calls of {:?}", self.fault, self.share, self.of, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_calls_that_are_meant() {
        let rule = Rule::new(Target::Operation("PutObject"), Fault::Throttled).share(2, 3);
        let (put, get) = (Call::of(Service::S3, "PutObject"), Call::of(Service::S3, "GetObject"));
        let taken: Vec<bool> = [&put, &get, &put, &put, &put].into_iter().map(|call| rule.takes(call)).collect();
        assert_eq!(taken, [true, false, true, false, true]);
        assert_eq!(rule.hits(), 3);
    }

    #[test]
    fn once_is_once() {
        let rule = Rule::new(Target::Sqs, Fault::Replay).once();
        let poll = Call::of(Service::Sqs, "ReceiveMessage");
        assert_eq!([rule.takes(&poll), rule.takes(&poll)], [true, false]);
        assert_eq!(rule.hits(), 1);
    }
}
