//! Whatever is done to a FIFO queue: order within a group, one receive at a time in a group, and no message lost.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::lease::{change_visibility, delete};
use super::protocol::{Outgoing, ReceiveMessage};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Send { group: u8 },
    Receive { most: i64 },
    Delete { which: prop::sample::Index },
    Hide { which: prop::sample::Index, seconds: i64 },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8).prop_map(|group| Step::Send { group }),
        3 => (1..4i64).prop_map(|most| Step::Receive { most }),
        2 => any::<prop::sample::Index>().prop_map(|which| Step::Delete { which }),
        1 => (any::<prop::sample::Index>(), 0..20i64).prop_map(|(which, seconds)| Step::Hide { which, seconds }),
        1 => (0..20u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// A message as an onlooker knows it, who sees nothing but what is sent and answered.
#[derive(Debug)]
struct Known {
    group: u8,
    /// The receive that holds it, and until when.
    held: Option<(usize, u64)>,
    receives: u32,
}

/// All receipt handles so far: of which message, and whether it is the newest.
type Handles = Vec<(String, u64)>;

const LEASE: u64 = 10;
const MOST_RECEIVES: u32 = 3;

struct World {
    sqs: Sqs,
    now: u64,
    sent: u64,
    receives: usize,
    there: BTreeMap<u64, Known>,
    dead: Vec<u64>,
    handles: Handles,
}

impl World {
    fn new() -> Self {
        let clock = Clock::new();
        let sqs = Sqs::new(1, "http://model".into(), clock, Arc::new(Journal::new(false)));
        sqs.create_queue("dead.fifo", &[]).unwrap();
        let policy = format!(r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":{MOST_RECEIVES}}}"#, arn("dead.fifo"));
        sqs.create_queue("q.fifo", &[("VisibilityTimeout", &LEASE.to_string()), ("RedrivePolicy", &policy)]).unwrap();
        Self { sqs, now: 0, sent: 0, receives: 0, there: BTreeMap::new(), dead: Vec::new(), handles: Vec::new() }
    }

    /// Does it, and checks what came of it against what an onlooker knows.
    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Send { group } => {
                let number = self.sent;
                self.sent += 1;
                let outgoing = Outgoing {
                    message_body: Some(number.to_string()),
                    message_group_id: Some(group.to_string()),
                    message_deduplication_id: Some(number.to_string()),
                    ..Outgoing::default()
                };
                self.sqs.on("q.fifo", |queue, turn| send::send(queue, outgoing, turn)).unwrap();
                self.there.insert(number, Known { group: *group, held: None, receives: 0 });
            }
            Step::Receive { most } => self.receive(*most)?,
            Step::Delete { which } => {
                let Some((handle, number)) = self.handle(*which) else { return Ok(()) };
                let deleted = self.sqs.on("q.fifo", |queue, turn| delete(queue, &handle, &mut None, turn));
                if self.holds(&handle, number) {
                    prop_assert_eq!(deleted, Ok(()));
                    self.there.remove(&number);
                } else {
                    // a handle of a message that is gone is fine, one that another receive has outdated is not
                    prop_assert_eq!(deleted.is_err(), self.there.contains_key(&number));
                }
            }
            Step::Hide { which, seconds } => {
                let Some((handle, number)) = self.handle(*which) else { return Ok(()) };
                let hidden = self.sqs.on("q.fifo", |queue, turn| change_visibility(queue, &handle, *seconds, turn));
                prop_assert_eq!(hidden.is_ok(), self.holds(&handle, number));
                if hidden.is_ok() {
                    let until = self.now + *seconds as u64;
                    let known = self.there.get_mut(&number).unwrap();
                    known.held = known.held.map(|(receive, _)| (receive, until)).filter(|(_, until)| *until > self.now);
                }
            }
            Step::Pass { seconds } => {
                self.now += seconds;
                self.sqs.clock.advance(Duration::from_secs(*seconds));
                for known in self.there.values_mut() {
                    known.held = known.held.filter(|(_, until)| *until > self.now);
                }
            }
        }
        self.check()
    }

    fn handle(&self, which: prop::sample::Index) -> Option<(String, u64)> {
        (!self.handles.is_empty()).then(|| which.get(&self.handles).clone())
    }

    /// Whether this is the newest handle of a message that is held.
    fn holds(&self, handle: &str, number: u64) -> bool {
        let newest = self.handles.iter().rev().find(|(_, other)| *other == number);
        newest.is_some_and(|(newest, _)| newest == handle)
            && self.there.get(&number).is_some_and(|known| known.held.is_some())
    }

    fn receive(&mut self, most: i64) -> Result<(), TestCaseError> {
        let before: Vec<u8> =
            self.there.values().filter(|known| known.held.is_some()).map(|known| known.group).collect();
        let request: ReceiveMessage =
            serde_json::from_value(serde_json::json!({ "QueueUrl": "q.fifo", "MaxNumberOfMessages": most })).unwrap();
        let order = Order::try_from(request).unwrap();
        let given = {
            let (mut state, now) = (self.sqs.state(), self.sqs.clock.now());
            let (name, mut faults): (Arc<str>, _) = ("q.fifo".into(), Inner::default());
            let (given, given_up) = self.sqs.receive_now(&mut state, &name, &order, &mut faults, now).unwrap();
            self.sqs.give_up(&mut state, &name, given_up, now).unwrap();
            given
        };
        prop_assert!(given.len() <= most as usize);
        self.receives += 1;
        let dead: Vec<u64> = bodies(&self.sqs, "dead.fifo");
        for number in dead.iter().filter(|number| !self.dead.contains(number)) {
            let known = self.there.remove(number);
            prop_assert_eq!(
                known.map(|known| (known.receives, known.held)),
                Some((MOST_RECEIVES, None)),
                "{} is dead",
                number
            );
        }
        self.dead = dead;
        for message in given {
            let number: u64 = message.body.parse().unwrap();
            let group = self.there[&number].group;
            prop_assert!(!before.contains(&group), "{} of group {} though it is held", number, group);
            // all before it in its group are of this very receive
            let receive = self.receives;
            let ahead = self.there.range(..number).filter(|(_, known)| known.group == group);
            for (other, known) in ahead {
                prop_assert_eq!(known.held.map(|(by, _)| by), Some(receive), "{} before {}", number, other);
            }
            let until = self.now + LEASE;
            let known = self.there.get_mut(&number).unwrap();
            known.held = Some((receive, until));
            known.receives += 1;
            self.handles.push((message.receipt_handle, number));
        }
        // where there was room, every free group has given its first
        let held = self.there.values().filter(|known| known.held.is_some_and(|(by, _)| by == self.receives)).count();
        if held < most as usize {
            let free = self
                .there
                .values()
                .find(|known| self.there.values().all(|other| other.group != known.group || other.held.is_none()));
            prop_assert!(free.is_none(), "{:?} was not given", free);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let there: Vec<u64> = bodies(&self.sqs, "q.fifo");
        prop_assert_eq!(there, self.there.keys().copied().collect::<Vec<_>>());
        let held = self.there.values().filter(|known| known.held.is_some()).count();
        prop_assert_eq!(self.sqs.view("q.fifo").unwrap().in_flight, held);
        Ok(())
    }
}

fn bodies(sqs: &Sqs, queue: &str) -> Vec<u64> {
    sqs.view(queue).unwrap().messages.iter().map(|message| message.body.parse().unwrap()).collect()
}

proptest! {
    #[test]
    fn a_fifo_queue_keeps_order_and_loses_nothing(steps in prop::collection::vec(step(), 1..120)) {
        // time passes only where a step says so
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let mut world = World::new();
        for step in &steps {
            world.take(step)?;
        }
    }
}
