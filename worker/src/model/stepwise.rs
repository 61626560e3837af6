//! Engines that compute in steps: requests join between two steps and leave when they are done, whatever the others of
//! their steps are doing.

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

/// An engine that gives fewer results than it was asked for.
pub(super) fn lost() -> RunError {
    RunError::Model("the model gave no result".into())
}

/// A crash of the model, by what it panicked with.
pub(super) fn crashed(panic: &(dyn std::any::Any + Send)) -> RunError {
    RunError::Model(format!("the model crashed: {}", panic_text(panic)))
}
