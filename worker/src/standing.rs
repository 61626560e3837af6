//! Where the worker stands: what it has in hand, and whether it takes more. Its activity follows from that alone.

use millrace_api::Activity;
use tokio::time::Instant;

/// What the worker's activity depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The model is loaded and one real forward passed.
    pub loaded: bool,
    /// It was told to stop, which nothing takes back.
    pub stopping: bool,
    /// Until when the operator has it drain, unless that is renewed or taken back.
    pub drained_until: Option<Instant>,
    /// How many jobs it holds.
    pub held: usize,
    /// How many polls of the queue are under way.
    pub polls: u32,
}

impl Standing {
    /// It begins no poll.
    pub fn drains(&self) -> bool {
        self.stopping || self.drained_until.is_some()
    }

    /// As a probe means it: loaded, and not stopping. An outage of SQS or S3 does not count, and neither does the
    /// operator's drain: a ReplicaSet deletes unready pods first, so a worker that finishes its jobs must not be one.
    pub fn ready(&self) -> bool {
        self.loaded && !self.stopping
    }

    /// In one word. A drain goes before all else: one that is told while the model loads has nothing to wait for.
    pub fn activity(&self) -> Activity {
        let in_hand = self.held > 0 || self.polls > 0;
        match (self.drains(), self.loaded) {
            (true, _) if in_hand => Activity::Draining,
            (true, _) => Activity::Drained,
            (false, false) => Activity::Starting,
            (false, true) if self.held > 0 => Activity::Busy,
            (false, true) => Activity::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_for_every_standing() {
        let loaded = Standing { loaded: true, ..Standing::default() };
        let told = Standing { drained_until: Some(Instant::now()), ..loaded };
        let stopping = Standing { stopping: true, ..loaded };
        let table = [
            ("the model loads", Standing::default(), Activity::Starting),
            ("nothing to do", loaded, Activity::Idle),
            ("a poll is no work", Standing { polls: 1, ..loaded }, Activity::Idle),
            ("a job", Standing { held: 1, polls: 1, ..loaded }, Activity::Busy),
            ("told to drain, with nothing in hand", told, Activity::Drained),
            ("told to drain, with a job", Standing { held: 1, ..told }, Activity::Draining),
            ("told to drain, and a poll may bring a job", Standing { polls: 1, ..told }, Activity::Draining),
            ("told to drain while the model loads", Standing { loaded: false, ..told }, Activity::Drained),
            ("stopping, with a job", Standing { held: 1, ..stopping }, Activity::Draining),
            ("stopping, with nothing in hand", stopping, Activity::Drained),
        ];
        for (name, standing, activity) in table {
            assert_eq!(standing.activity(), activity, "{name}");
        }
    }
}
