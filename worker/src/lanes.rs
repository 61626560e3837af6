//! Order within a message group of a FIFO queue: its messages are worked on one after the other, groups side by side.
//!
//! SQS gives no message of a group while another one of it is in flight, so a lane is empty as a rule. It is not where a
//! lease ran out: then SQS gives the message again, perhaps to the same worker, whose first job may still be ending.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The lanes of one worker.
#[derive(Debug, Clone, Default)]
pub struct Lanes(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

/// The head of a lane; the next one moves up when this is dropped.
#[derive(Debug)]
pub struct Head {
    lanes: Lanes,
    group: String,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Lanes {
    /// Waits for the turn of a message of `group`, first come first served.
    pub async fn enter(&self, group: &str) -> Head {
        let lane = Arc::clone(self.lanes().entry(group.to_owned()).or_default());
        Head { turn: Some(lane.lock_owned().await), lanes: self.clone(), group: group.to_owned() }
    }

    /// The turn of a message of `group`, if nobody is before it.
    pub fn try_enter(&self, group: &str) -> Option<Head> {
        let lane = Arc::clone(self.lanes().entry(group.to_owned()).or_default());
        let turn = lane.try_lock_owned().ok()?;
        Some(Head { turn: Some(turn), lanes: self.clone(), group: group.to_owned() })
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lanes();
        drop(self.turn.take());
        // the map's own reference is the last: nobody waits
        if lanes.get(&self.group).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(&self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_a_lane_and_lanes_side_by_side() {
        let lanes = Lanes::default();
        let first = lanes.enter("a").await;
        let second = lanes.enter("a");
        let third = lanes.enter("a");
        tokio::pin!(second, third);
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        let other = lanes.enter("b").now_or_never().expect("another lane is free");
        drop((first, other));
        assert!(third.as_mut().now_or_never().is_none(), "the third overtook the second");
        drop(second.now_or_never().expect("the lane is free"));
        drop(third.now_or_never().expect("the lane is free"));
        assert!(lanes.lanes().is_empty(), "lanes that nobody is in are kept");
    }
}
