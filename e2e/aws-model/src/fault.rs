//! A plan of faults at work. Whether a rule strikes depends on the plan's seed and on how many calls the rule has seen,
//! on nothing else: the same calls in the same order meet the same faults again.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::operation::Operation;
use crate::plan::{Effect, Plan, PlanError, Refusal, Rule, When};

/// Random words kept for each call of a rule; more than the largest effect draws.
const WORDS_OF_A_CALL: u128 = 128;

/// What strikes one call.
#[derive(Debug, Default)]
pub(crate) struct Strike {
    /// On the call as a whole.
    pub call: Option<Disturbance>,
    /// Inside of it.
    pub inner: Inner,
}

/// An effect on a call as a whole, with its chances drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    Refuse(Refusal),
    DropBefore,
    DropAfter,
    Late(Duration),
    Slow(Duration),
    Hang,
}

/// Effects that only the operation itself can have, each counted when it does.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub fail_entries: Option<FailEntries>,
    pub lose_delete: Option<Chance>,
    pub duplicate: Option<Chance>,
    pub stale_handle: Option<StaleHandle>,
    pub lying_counts: Option<LyingCounts>,
}

/// A probability, its random numbers, and the count of its rule.
#[derive(Debug)]
pub(crate) struct Chance {
    share: f64,
    rng: ChaCha8Rng,
    injected: Arc<AtomicU64>,
}

impl Chance {
    /// Draws, and counts what it will do.
    pub fn strikes(&mut self) -> bool {
        let strikes = self.rng.random_bool(self.share);
        if strikes {
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        strikes
    }
}

#[derive(Debug)]
pub(crate) struct FailEntries {
    fails: Chance,
    done: f64,
}

/// What becomes of an entry of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    AsUsual,
    FailedUndone,
    FailedDone,
}

impl FailEntries {
    pub fn fate(&mut self) -> Fate {
        let (fails, done) = (self.fails.strikes(), self.fails.rng.random_bool(self.done));
        match (fails, done) {
            (false, _) => Fate::AsUsual,
            (true, false) => Fate::FailedUndone,
            (true, true) => Fate::FailedDone,
        }
    }
}

#[derive(Debug)]
pub(crate) struct StaleHandle {
    ends: Chance,
    after: RangeInclusive<Duration>,
}

impl StaleHandle {
    /// How long the next message's lease really is.
    pub fn lease(&mut self, asked: Duration) -> Duration {
        let ends = self.ends.rng.random_bool(self.ends.share);
        let early = duration(&mut self.ends.rng, &self.after);
        if !ends || early >= asked {
            return asked;
        }
        self.ends.injected.fetch_add(1, Ordering::SeqCst);
        early
    }
}

#[derive(Debug)]
pub(crate) struct LyingCounts {
    by: u64,
    lies: Chance,
}

impl LyingCounts {
    pub fn instead_of(&mut self, truth: usize) -> usize {
        let by = usize::try_from(self.lies.rng.random_range(0..=self.by)).unwrap_or(usize::MAX);
        let lie = if self.lies.rng.random() { truth.saturating_add(by) } else { truth.saturating_sub(by) };
        if lie != truth {
            self.lies.injected.fetch_add(1, Ordering::SeqCst);
        }
        lie
    }
}

/// The plan at work.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    counters: Vec<Counter>,
}

#[derive(Debug, Default)]
struct Counter {
    calls: u64,
    injected: Arc<AtomicU64>,
}

impl Faults {
    pub fn replace(&self, plan: Plan) -> Result<(), PlanError> {
        let mut problems = plan.rules.iter().map(Rule::problem).enumerate();
        if let Some((rule, problem)) = problems.find_map(|(rule, problem)| Some((rule, problem?))) {
            return Err(PlanError { rule, problem });
        }
        let counters = plan.rules.iter().map(|_| Counter::default()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State { plan, counters };
        Ok(())
    }

    pub fn injected(&self) -> Vec<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.counters.iter().map(|counter| counter.injected.load(Ordering::SeqCst)).collect()
    }

    /// What strikes this call of `operation` on a queue or key of that name.
    pub fn strike(&self, operation: Operation, name: &str) -> Strike {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { plan, counters } = &mut *state;
        let mut strike = Strike::default();
        for (stream, (rule, counter)) in plan.rules.iter().zip(counters).enumerate() {
            if !rule.operations.contains(&operation) || !name.ends_with(&rule.name_ends) {
                continue;
            }
            counter.calls += 1;
            let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
            rng.set_stream(stream as u64);
            rng.set_word_pos(u128::from(counter.calls) * WORDS_OF_A_CALL);
            let strikes = match &rule.when {
                When::Always => true,
                When::Chance(probability) => rng.random_bool(*probability),
                When::Calls(calls) => calls.contains(&counter.calls),
            };
            if strikes {
                strike.add(&rule.effect, rng, &counter.injected);
            }
        }
        strike
    }
}

impl Strike {
    fn add(&mut self, effect: &Effect, mut rng: ChaCha8Rng, injected: &Arc<AtomicU64>) {
        let disturbance = match effect {
            Effect::Refuse(refusal) => Disturbance::Refuse(*refusal),
            Effect::DropBefore => Disturbance::DropBefore,
            Effect::DropAfter => Disturbance::DropAfter,
            Effect::Late(time) => Disturbance::Late(duration(&mut rng, time)),
            Effect::Slow(time) => Disturbance::Slow(duration(&mut rng, time)),
            Effect::Hang => Disturbance::Hang,
            inner => {
                let chance = |share: f64| Chance { share, rng, injected: Arc::clone(injected) };
                match inner {
                    Effect::FailEntries { share, done } => {
                        self.inner.fail_entries = Some(FailEntries { fails: chance(*share), done: *done });
                    }
                    Effect::LoseDelete(share) => self.inner.lose_delete = Some(chance(*share)),
                    Effect::Duplicate(share) => self.inner.duplicate = Some(chance(*share)),
                    Effect::StaleHandle { share, after } => {
                        self.inner.stale_handle = Some(StaleHandle { ends: chance(*share), after: after.clone() });
                    }
                    Effect::LyingCounts(by) => {
                        self.inner.lying_counts = Some(LyingCounts { by: *by, lies: chance(1.0) });
                    }
                    _ => {}
                }
                return;
            }
        };
        if self.call.is_none() {
            injected.fetch_add(1, Ordering::SeqCst);
            self.call = Some(disturbance);
        }
    }
}

fn duration(rng: &mut ChaCha8Rng, span: &RangeInclusive<Duration>) -> Duration {
    let nanos = |d: &Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(nanos(span.start())..=nanos(span.end())))
}
