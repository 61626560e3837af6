//! GPU budgets: how many GPUs of a kind all consumers together may hold, and who gets how many.
//!
//! Each consumer claims what its queue needs. First come the `minReplicas`, then, priority by priority from the highest,
//! what is left is shared in proportion to weights: by weighted max-min fairness (water filling), in whole workers by
//! largest remainder, so that each is within one worker of its exact share and nobody's unused share is lost. A
//! consumer that holds more than its share gives workers back as they get idle or end their jobs; only what is really
//! free is given out, terminating pods counted, so the budget is never exceeded.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::ObjectRef;
use millrace_api::QueueConsumer;
use serde::{Deserialize, Serialize};

use super::Decision;
use crate::observe::Observed;
use crate::queue::Trigger;
use crate::validate::Validated;

type Key = ObjectRef<QueueConsumer>;

/// GPUs by resource name that all consumers together may hold: `nvidia.com/gpu=8,amd.com/gpu=4`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budgets(BTreeMap<String, i64>);

impl std::str::FromStr for Budgets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut budgets = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("'{part}' is not RESOURCE=GPUS, such as nvidia.com/gpu=8");
            let (resource, gpus) = part.split_once('=').ok_or_else(wrong)?;
            let gpus = gpus.trim().parse::<i64>().ok().filter(|gpus| *gpus >= 0).ok_or_else(wrong)?;
            if budgets.insert(resource.trim().to_owned(), gpus).is_some() {
                return Err(format!("{} has two budgets", resource.trim()));
            }
        }
        Ok(Self(budgets))
    }
}

/// What a consumer may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// The most workers now.
    pub(crate) replicas: i32,
    /// The reckoning in words.
    pub(crate) words: String,
}

/// What a consumer needs and holds, in workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The GPU resource of its workers.
    pub(crate) resource: String,
    /// GPUs of one worker.
    pub(crate) gpus: i64,
    /// Workers that it needs.
    pub(crate) wanted: i32,
    /// Workers that it needs whatever the queue says.
    pub(crate) min: i32,
    /// Workers that are asked for or there.
    pub(crate) held: i32,
    /// Workers that are ending, and still have their GPUs.
    pub(crate) ending: i32,
    /// Who comes first.
    pub(crate) priority: i32,
    /// Shares among those of one priority.
    pub(crate) weight: i32,
}

impl Claim {
    /// What a consumer holds, before anything is decided about it; none where its workers have no GPU.
    pub(crate) fn held(consumer: &QueueConsumer, (held, ending): (i32, i32)) -> Option<Self> {
        let (gpu, scaling) = (&consumer.spec.worker.gpu, &consumer.spec.scaling);
        (gpu.count > 0).then(|| Self {
            resource: gpu.resource_name.clone(),
            gpus: i64::from(gpu.count),
            wanted: held,
            min: scaling.min_replicas.min(held),
            held,
            ending,
            priority: scaling.priority,
            weight: scaling.weight,
        })
    }

    /// What a consumer needs and holds; none where its workers have no GPU.
    pub(crate) fn of(spec: &Validated, seen: &Observed, needed: &Decision) -> Option<Self> {
        // In DryRun and while nothing is known the count stays.
        let wanted = if needed.holds() { needed.from } else { needed.desired };
        let held = Self::held(spec.consumer(), seen.held(needed.from))?;
        Some(Self { wanted, min: spec.spec().scaling.min_replicas.min(wanted), ..held })
    }
}

/// All claims. One lock makes two consumers that ask at once see each other.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    budgets: Budgets,
    claims: Mutex<HashMap<Key, Entry>>,
    /// Scopes whose consumers are not known yet.
    untold: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    /// Workers that were granted and may be asked for any moment.
    promised: i32,
    trigger: Trigger,
}

impl Ledger {
    /// For consumers of so many scopes.
    pub(crate) fn new(budgets: Budgets, scopes: usize) -> Self {
        Self { budgets, claims: Mutex::default(), untold: AtomicUsize::new(scopes) }
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what consumers hold before their first pass, so that nobody takes it for free after a restart. Called once
    /// for each watched scope: until all have told, nobody gets more than it holds.
    pub(crate) fn note(&self, held: impl IntoIterator<Item = (Key, Claim)>, trigger: &Trigger) {
        let mut claims = self.claims();
        for (key, claim) in held.into_iter().filter(|(_, claim)| self.budgets.0.contains_key(&claim.resource)) {
            let promised = claim.held;
            claims.entry(key).or_insert_with(|| Entry { claim, promised, trigger: trigger.clone() });
        }
        if self.untold.fetch_sub(1, Ordering::AcqRel) <= 1 {
            for (key, entry) in claims.iter() {
                let _ = entry.trigger.send(key.clone());
            }
        }
    }

    /// Claims, and says what may be had; none where these GPUs are not limited. Others whose share or room changes by
    /// it are woken.
    pub(crate) fn claim(&self, key: &Key, claim: impl Into<Option<Claim>>, trigger: &Trigger) -> Option<Grant> {
        let limited = claim.into().and_then(|claim| Some((*self.budgets.0.get(&claim.resource)?, claim)));
        let Some((budget, claim)) = limited else {
            // It may have used GPUs that are limited before.
            self.forget(key);
            return None;
        };
        let mut claims = self.claims();
        let before = claims.get(key).map(|entry| (entry.claim.clone(), entry.promised));
        let (resource, gpus, held) = (claim.resource.clone(), claim.gpus.max(1), claim.held);
        claims.insert(key.clone(), Entry { claim: claim.clone(), promised: held, trigger: trigger.clone() });
        let rivals: Vec<(&Key, &Entry)> = claims.iter().filter(|(_, entry)| entry.claim.resource == resource).collect();
        let shares = shares(budget, &rivals.iter().map(|(key, entry)| (*key, &entry.claim)).collect::<Vec<_>>());
        let share = shares.get(key).copied().unwrap_or_default();
        let others: i64 = rivals
            .iter()
            .filter(|(other, _)| *other != key)
            .map(|(_, entry)| {
                let workers = entry.claim.held.max(entry.promised).saturating_add(entry.claim.ending);
                i64::from(workers) * entry.claim.gpus.max(1)
            })
            .sum();
        // What is there may stay up to the share; more only from what nobody holds.
        let room = i32::try_from(((budget - others) / gpus).max(0)).unwrap_or(i32::MAX).saturating_sub(claim.ending);
        let told = self.untold.load(Ordering::Acquire) == 0;
        let replicas = share.min(room.max(held.min(share))).min(if told { i32::MAX } else { held });
        let words = if !told {
            "what other consumers hold is not known yet".into()
        } else if replicas < share {
            format!("its share is {share} workers, and {others} of {budget} {resource} are still held by others")
        } else {
            format!("its share of {budget} {resource} is {share} workers")
        };
        let promised = replicas.min(claim.wanted).max(held);
        if let Some(entry) = claims.get_mut(key) {
            entry.promised = promised;
        }
        if before != Some((claim, promised)) {
            for (other, entry) in
                claims.iter().filter(|(other, entry)| *other != key && entry.claim.resource == resource)
            {
                // Who has what it wants, and no more than its share, has nothing to gain or lose.
                let Claim { wanted, held, .. } = entry.claim;
                if wanted != held || shares.get(other).is_some_and(|share| held > *share) {
                    let _ = entry.trigger.send(other.clone());
                }
            }
        }
        Some(Grant { replicas, words })
    }

    /// A consumer is gone. Its pods may take a while to follow, and are not counted any more.
    pub(crate) fn forget(&self, key: &Key) {
        let mut claims = self.claims();
        if let Some(gone) = claims.remove(key) {
            for (other, entry) in claims.iter().filter(|(_, entry)| entry.claim.resource == gone.claim.resource) {
                let _ = entry.trigger.send(other.clone());
            }
        }
    }
}

/// The workers that each may have.
fn shares(budget: i64, claims: &[(&Key, &Claim)]) -> HashMap<Key, i32> {
    let mut left = budget.max(0);
    let mut all: Vec<Share<'_>> = claims.iter().map(|(key, claim)| Share { key, claim, workers: 0 }).collect();
    all.sort_by(|a, b| {
        (b.claim.priority, &a.key.namespace, &a.key.name).cmp(&(a.claim.priority, &b.key.namespace, &b.key.name))
    });
    // Floors first, in order of priority, then what the queues need.
    let goals: [fn(&Claim) -> i32; 2] = [|claim| claim.min, |claim| claim.wanted.max(claim.min)];
    for goal in goals {
        for equals in all.chunk_by_mut(|a, b| a.claim.priority == b.claim.priority) {
            fill(&mut left, equals, goal);
        }
    }
    all.into_iter().map(|share| (share.key.clone(), share.workers)).collect()
}

struct Share<'a> {
    key: &'a Key,
    claim: &'a Claim,
    workers: i32,
}

impl Share<'_> {
    fn gpus(&self) -> i64 {
        self.claim.gpus.max(1)
    }

    /// GPUs at a water level, between what it has and its goal.
    fn at(&self, level: f64, goal: fn(&Claim) -> i32) -> f64 {
        let gpus = self.gpus() as f64;
        let (least, most) = (f64::from(self.workers) * gpus, f64::from(goal(self.claim).max(self.workers)) * gpus);
        (level * f64::from(self.claim.weight.max(1))).clamp(least, most)
    }
}

/// Pours what is left into shares of one priority: the level at which all of it is used, rounded down to whole workers,
/// then one worker more for the largest remainders.
fn fill(left: &mut i64, shares: &mut [Share<'_>], goal: fn(&Claim) -> i32) {
    let has: f64 = shares.iter().map(|share| (i64::from(share.workers) * share.gpus()) as f64).sum();
    let all = has + *left as f64;
    let (mut low, mut high) = (0.0, all.max(1.0) + 1.0);
    for _ in 0..64 {
        let level = f64::midpoint(low, high);
        let used: f64 = shares.iter().map(|share| share.at(level, goal)).sum();
        if used > all { high = level } else { low = level }
    }
    let exact: Vec<f64> = shares.iter().map(|share| share.at(low, goal) / share.gpus() as f64).collect();
    for (share, exact) in shares.iter_mut().zip(&exact) {
        let more = ((exact + 1e-6).floor() as i32 - share.workers).max(0);
        *left -= i64::from(more) * share.gpus();
        share.workers += more;
    }
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| {
        (exact[*b] - f64::from(shares[*b].workers)).total_cmp(&(exact[*a] - f64::from(shares[*a].workers)))
    });
    for index in order {
        let share = &mut shares[index];
        if share.workers < goal(share.claim) && share.gpus() <= *left {
            *left -= share.gpus();
            share.workers += 1;
        }
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
