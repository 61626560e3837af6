//! Engines that compute in steps: requests join between two steps and leave when they are done, whatever the others of
//! their steps are doing.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::thread::panic_text;
use super::{Item, Product, Progress, RunError};

/// A request that an engine is working on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What is left to do for a product, away from the engine's thread: files to encode.
pub type Finish = Box<dyn FnOnce() -> Result<Product, RunError> + Send>;

/// What a step came to for one request.
pub enum Stepped {
    /// There is more to do.
    Running(Progress),
    /// It has left the engine.
    Ended(Result<Finish, RunError>),
}

impl Stepped {
    /// Whether the request has left.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(progress) => write!(f, "Running({progress:?})"),
            Self::Ended(Ok(_)) => write!(f, "Ended"),
            Self::Ended(Err(error)) => write!(f, "Ended({error:?})"),
        }
    }
}

/// An engine that is run step by step.
pub trait Stepwise<R> {
    /// Takes a request in; nothing of it is computed but what its first step needs.
    fn begin(&mut self, item: Item<R>) -> Result<Ticket, RunError>;

    /// Takes each of these a step further, and gives a result for each, in order. One that is cancelled ends. One that
    /// fails ends, and the others are not held up by it: they are where they were or one step further.
    fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped>;

    /// Forgets a request.
    fn forget(&mut self, ticket: Ticket);
}

/// Runs a batch from begin to end, for those who have all of it at once.
pub fn run_all<R>(engine: &mut dyn Stepwise<R>, batch: &[Item<R>]) -> Vec<Result<Product, RunError>> {
    let mut results: Vec<Option<Result<Product, RunError>>> = Vec::with_capacity(batch.len());
    let mut running: Vec<(usize, Ticket)> = Vec::new();
    for (index, item) in batch.iter().enumerate() {
        let begun = engine.begin(item.clone());
        results.push(begun.map(|ticket| running.push((index, ticket))).err().map(Err));
    }
    while !running.is_empty() {
        let tickets: Vec<Ticket> = running.iter().map(|(_, ticket)| *ticket).collect();
        let mut stepped = engine.step(&tickets).into_iter();
        running.retain(|(index, _)| match stepped.next() {
            Some(Stepped::Running(_)) => true,
            Some(Stepped::Ended(ended)) => {
                results[*index] = Some(ended.and_then(|finish| finish()));
                false
            }
            None => {
                results[*index] = Some(Err(lost()));
                false
            }
        });
    }
    results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect()
}

/// The requests that an engine works on.
#[derive(Debug)]
pub(super) struct Jobs<J> {
    all: BTreeMap<Ticket, J>,
    next: u64,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), next: 0 }
    }
}

impl<J> Deref for Jobs<J> {
    type Target = BTreeMap<Ticket, J>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<J> DerefMut for Jobs<J> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.all
    }
}

impl<J> Jobs<J> {
    /// Takes one in, under a ticket that no other had.
    pub(super) fn take_in(&mut self, job: J) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.all.insert(ticket, job);
        ticket
    }
}

/// A request that an engine works on, as far as it tells how far that is.
pub(super) trait Working {
    fn is_cancelled(&self) -> bool;
    fn is_done(&self) -> bool;
    fn progress(&self) -> Progress;
    /// Says how far it is to whoever wants to know.
    fn tell(&self);
}

impl<J: Working> Jobs<J> {
    /// What a step came to for each ticket, which has `failed` for some: who is done, cancelled or failed leaves.
    pub(super) fn stepped(
        &mut self,
        tickets: &[Ticket],
        mut failed: BTreeMap<Ticket, RunError>,
        finish: impl Fn(J) -> Result<Finish, RunError>,
    ) -> Vec<Stepped> {
        let one = |ticket: &Ticket| {
            let Some(job) = self.all.remove(ticket) else { return Stepped::Ended(Err(lost())) };
            Stepped::Ended(match failed.remove(ticket) {
                _ if job.is_cancelled() => Err(RunError::Cancelled),
                Some(error) => Err(error),
                None => {
                    job.tell();
                    if !job.is_done() {
                        let progress = job.progress();
                        self.all.insert(*ticket, job);
                        return Stepped::Running(progress);
                    }
                    finish(job)
                }
            })
        };
        tickets.iter().map(one).collect()
    }
}

/// What is done for one request: where it crashes, that is its own error, and what the others came to is kept.
pub(super) fn alone<T>(what: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| Err(crashed(panic.as_ref())))
}

/// An engine that gives fewer results than it was asked for.
pub(super) fn lost() -> RunError {
    RunError::Model("the model gave no result".into())
}

/// A crash of the model, by what it panicked with.
pub(super) fn crashed(panic: &(dyn std::any::Any + Send)) -> RunError {
    RunError::Model(format!("the model crashed: {}", panic_text(panic)))
}
