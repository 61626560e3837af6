//! The workers' own view of themselves: asked for ([`client`]), and told as soon as it changes ([`watch`]).

mod client;
mod watch;

use millrace_api::{Activity, WorkerState};

pub(crate) use client::{DrainError, Order, WorkerClient};
pub(crate) use watch::{PACE, Wakes, Watched};

/// A worker pod and what it said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Worker {
    /// The pod's name.
    pub(crate) pod: String,
    /// What it said.
    pub(crate) report: Report,
}

/// What a worker said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    /// Its own view.
    State(Box<WorkerState>),
    /// It runs, and did not answer.
    Silent,
    /// Its container does not run, so it holds nothing.
    NotRunning,
}

impl Worker {
    /// Its own view, where it gave one.
    pub(crate) fn state(&self) -> Option<&WorkerState> {
        match &self.report {
            Report::State(state) => Some(state),
            Report::Silent | Report::NotRunning => None,
        }
    }

    /// Its receives come back empty although it has free slots.
    pub(crate) fn receives_nothing(&self) -> bool {
        self.state().is_some_and(|state| state.ready && !state.draining && state.empty_since.is_some())
    }

    /// It holds jobs, or that cannot be excluded.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.report {
            Report::State(state) => state.busy > 0,
            Report::Silent => true,
            Report::NotRunning => false,
        }
    }
}

/// What a worker is about. One that does not tell, because its image is older, is judged by its counts.
pub(crate) fn activity(state: &WorkerState) -> Activity {
    match state.activity {
        Activity::Starting if state.busy > 0 && state.draining => Activity::Draining,
        Activity::Starting if state.busy > 0 => Activity::Busy,
        Activity::Starting if state.draining && state.receiving == 0 => Activity::Drained,
        Activity::Starting if state.ready => Activity::Idle,
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_tell_is_judged_by_its_counts() {
        let state = |ready, draining, busy| WorkerState { ready, draining, busy, ..WorkerState::default() };
        assert_eq!(activity(&state(false, false, 0)), Activity::Starting);
        assert_eq!(activity(&state(true, false, 0)), Activity::Idle);
        assert_eq!(activity(&state(true, false, 2)), Activity::Busy);
        assert_eq!(activity(&state(false, true, 2)), Activity::Draining);
        assert_eq!(activity(&state(false, true, 0)), Activity::Drained);
        let told = WorkerState { activity: Activity::Draining, ready: true, ..WorkerState::default() };
        assert_eq!(activity(&told), Activity::Draining, "a poll under way may bring it jobs");
    }
}
