//! Requests that run together on a stepwise engine, from when the first joins until the last has left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::stepwise::{Finish, Stepped, Stepwise, Ticket, crashed, lost};
use super::{Item, Progress, RunError};
use crate::metrics::{Device, Metrics};

/// Weight of the newest step in what the next one is expected to take.
const NEWEST: f64 = 0.3;

/// How a request that joined ended.
pub(super) struct Joined {
    pub(super) result: Result<Finish, RunError>,
    /// Its share of the engine's time: that of each of its steps, by how many requests shared it.
    pub(super) share: Duration,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joined({:?}, {:?})", self.result.as_ref().map(|_| ()), self.share)
    }
}

/// One request that runs.
struct Running {
    ticket: Ticket,
    answer: oneshot::Sender<Joined>,
    share: Duration,
    progress: Progress,
    is_last: bool,
}

/// An engine with the requests that it runs.
pub(super) struct Session<'a, R> {
    engine: &'a mut dyn Stepwise<R>,
    metrics: &'a Metrics,
    ends: &'a watch::Sender<Vec<Instant>>,
    running: Vec<Running>,
    /// What a step takes, in seconds; none before the first.
    pace: Option<f64>,
}

impl<'a, R> Session<'a, R> {
    pub(super) fn new(
        engine: &'a mut dyn Stepwise<R>,
        metrics: &'a Metrics,
        ends: &'a watch::Sender<Vec<Instant>>,
    ) -> Self {
        Self { engine, metrics, ends, running: Vec::new(), pace: None }
    }

    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Takes a request in for the next step.
    pub(super) fn admit(&mut self, item: Item<R>, answer: oneshot::Sender<Joined>) {
        let (began, is_last) = (Instant::now(), item.is_last);
        let begun = catch_unwind(AssertUnwindSafe(|| self.engine.begin(item)));
        let begun = begun.unwrap_or_else(|panic| Err(crashed(panic.as_ref())));
        let share = began.elapsed();
        self.metrics.device(Device::Busy, share.as_secs_f64());
        match begun {
            Ok(ticket) => self.running.push(Running { ticket, answer, share, progress: Progress::default(), is_last }),
            // whoever asked may have given up
            Err(error) => drop(answer.send(Joined { result: Err(error), share })),
        }
    }

    /// One step of all that run.
    pub(super) fn step(&mut self) {
        let began = Instant::now();
        self.metrics.batch_size.observe(self.running.len() as f64);
        let tickets: Vec<Ticket> = self.running.iter().map(|one| one.ticket).collect();
        let mut stepped = step_all(self.engine, &tickets).into_iter();
        let took = began.elapsed();
        self.metrics.device(Device::Busy, took.as_secs_f64());
        let share = took / u32::try_from(tickets.len()).unwrap_or(u32::MAX).max(1);
        for mut one in std::mem::take(&mut self.running) {
            one.share += share;
            match stepped.next().unwrap_or_else(|| Stepped::Ended(Err(lost()))) {
                Stepped::Running(progress) => self.running.push(Running { progress, ..one }),
                Stepped::Ended(result) => drop(one.answer.send(Joined { result, share: one.share })),
            }
        }
        self.tell_ends(took.as_secs_f64());
    }

    /// Tells when each job is expected to end, by its last request: so many steps, and the one that finishes it.
    fn tell_ends(&mut self, took: f64) {
        let pace = self.pace.map_or(took, |pace| pace * (1.0 - NEWEST) + took * NEWEST);
        self.pace = Some(pace);
        let now = Instant::now();
        let end = |one: &Running| {
            let left = one.progress.steps.saturating_sub(one.progress.step) + 1;
            now + Duration::from_secs_f64(pace * f64::from(left))
        };
        self.ends.send_replace(self.running.iter().filter(|one| one.is_last).map(end).collect());
    }
}

/// A step of all; where the model crashes over it, of each alone, so that a crash is the error of its request.
fn step_all<R>(engine: &mut dyn Stepwise<R>, tickets: &[Ticket]) -> Vec<Stepped> {
    match catch_unwind(AssertUnwindSafe(|| engine.step(tickets))) {
        Ok(stepped) => stepped,
        Err(panic) => {
            if let [ticket] = tickets {
                engine.forget(*ticket);
                return vec![Stepped::Ended(Err(crashed(panic.as_ref())))];
            }
            tracing::warn!(size = tickets.len(), "the model crashed in a step; trying each request alone");
            tickets.iter().flat_map(|ticket| step_all(engine, &[*ticket])).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::Product;
    use crate::model::testing::metrics;

    /// Counts a request's number down; 66 crashes it, 13 fails.
    #[derive(Default)]
    struct Counter {
        left: HashMap<Ticket, (Item<u32>, u32)>,
        sizes: Vec<usize>,
        next: u64,
    }

    impl Stepwise<u32> for Counter {
        fn begin(&mut self, item: Item<u32>) -> Result<Ticket, RunError> {
            let steps = *item.request;
            if steps == 99 {
                return Err(RunError::Model("never".into()));
            }
            self.next += 1;
            self.left.insert(Ticket(self.next), (item, steps));
            Ok(Ticket(self.next))
        }

        fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped> {
            self.sizes.push(tickets.len());
            let one = |ticket: &Ticket| {
                let (item, left) = self.left.get_mut(ticket).unwrap();
                let ended = match *left {
                    _ if item.cancel.is_cancelled() => Err(RunError::Cancelled),
                    66 => panic!("crash on 66"),
                    13 => Err(RunError::Model("unlucky".into())),
                    0 => {
                        let seed = Some(u64::from(*item.request));
                        let finish: Finish = Box::new(move || Ok(Product { seed, ..Product::default() }));
                        Ok(finish)
                    }
                    _ => {
                        *left -= 1;
                        return Stepped::Running(Progress { step: *item.request - *left, steps: *item.request });
                    }
                };
                self.left.remove(ticket);
                Stepped::Ended(ended)
            };
            tickets.iter().map(one).collect()
        }

        fn forget(&mut self, ticket: Ticket) {
            self.left.remove(&ticket);
        }
    }

    fn seed(answer: &mut oneshot::Receiver<Joined>) -> Result<Option<u64>, RunError> {
        answer.try_recv().unwrap().result.and_then(|finish| finish()).map(|product| product.seed)
    }

    #[test]
    fn requests_join_and_leave_between_steps() {
        let (metrics, mut engine) = (metrics(), Counter::default());
        let (ends, expected) = watch::channel(Vec::new());
        let mut session = Session::new(&mut engine, &metrics, &ends);
        let admit = |session: &mut Session<u32>, number| {
            let (answer, joined) = oneshot::channel();
            session.admit(Item::new(number), answer);
            joined
        };
        let mut long = admit(&mut session, 3);
        session.step();
        assert_eq!(expected.borrow().len(), 1);
        let mut short = admit(&mut session, 1);
        let mut never = admit(&mut session, 99);
        assert_eq!(seed(&mut never), Err(RunError::Model("never".into())));
        session.step();
        session.step();
        assert_eq!(seed(&mut short), Ok(Some(1)));
        assert!(long.try_recv().is_err());
        session.step();
        assert_eq!(seed(&mut long), Ok(Some(3)));
        assert!(!session.is_running() && expected.borrow().is_empty());
        assert_eq!(engine.sizes, [1, 2, 2, 1]);
    }

    #[test]
    fn a_place_is_expected_when_the_last_request_of_a_job_ends() {
        let (metrics, mut engine) = (metrics(), Counter::default());
        let (ends, expected) = watch::channel(Vec::new());
        let mut session = Session::new(&mut engine, &metrics, &ends);
        let answers = [(4, false), (9, false), (5, true)].map(|(number, is_last)| {
            let (answer, joined) = oneshot::channel();
            session.admit(Item { is_last, ..Item::new(number) }, answer);
            joined
        });
        session.step();
        assert_eq!(expected.borrow().len(), 1);
        drop(answers);
    }

    #[test]
    fn a_crash_or_a_failure_is_the_error_of_its_request_alone() {
        let (metrics, mut engine) = (metrics(), Counter::default());
        let (ends, _) = watch::channel(Vec::new());
        let mut session = Session::new(&mut engine, &metrics, &ends);
        let mut answers: Vec<_> = [1, 66, 13]
            .into_iter()
            .map(|number| {
                let (answer, joined) = oneshot::channel();
                session.admit(Item::new(number), answer);
                joined
            })
            .collect();
        while session.is_running() {
            session.step();
        }
        assert_eq!(seed(&mut answers[0]), Ok(Some(1)));
        assert_eq!(seed(&mut answers[1]), Err(RunError::Model("the model crashed: crash on 66".into())));
        assert_eq!(seed(&mut answers[2]), Err(RunError::Model("unlucky".into())));
        assert!(engine.left.is_empty());
    }
}
