//! Shares as tables, the budget as a property, and consumers that wake each other.

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;

const GPU: &str = "nvidia.com/gpu";

fn key(name: &str) -> Key {
    ObjectRef::new(name).within("demo")
}

fn claim(wanted: i32, held: i32) -> Claim {
    Claim { resource: GPU.into(), gpus: 1, wanted, min: 0, held, ending: 0, priority: 0, weight: 1 }
}

fn ledger(gpus: i64) -> Ledger {
    Ledger::new(Budgets(BTreeMap::from([(GPU.to_owned(), gpus)])), 0)
}

#[test]
fn budgets_are_read_from_words() {
    let budgets: Budgets = " nvidia.com/gpu=8, amd.com/gpu = 4,".parse().unwrap();
    assert_eq!(budgets.0, BTreeMap::from([("nvidia.com/gpu".into(), 8), ("amd.com/gpu".into(), 4)]));
    assert_eq!("".parse::<Budgets>().unwrap(), Budgets::default());
    for wrong in ["nvidia.com/gpu", "nvidia.com/gpu=x", "nvidia.com/gpu=-1", "a=1,a=2"] {
        assert!(wrong.parse::<Budgets>().is_err(), "{wrong}");
    }
}

#[test]
fn shares_follow_need_weight_priority_and_floor() {
    type Row<'a> = (&'a str, i64, &'a [(Claim, i32)]);
    let table: [Row<'_>; 7] = [
        ("enough for all", 8, &[(claim(3, 0), 3), (claim(2, 0), 2)]),
        ("equal weights", 8, &[(claim(10, 0), 3), (claim(10, 0), 3), (claim(10, 0), 2)]),
        ("what one leaves, the others have", 8, &[(claim(1, 0), 1), (claim(10, 0), 4), (claim(10, 0), 3)]),
        ("weights 3 to 1", 8, &[(Claim { weight: 3, ..claim(10, 0) }, 6), (claim(10, 0), 2)]),
        ("the higher priority first", 8, &[(claim(10, 0), 1), (Claim { priority: 5, ..claim(7, 0) }, 7)]),
        (
            "a floor before a higher priority's need",
            8,
            &[(Claim { min: 2, ..claim(2, 0) }, 2), (Claim { priority: 5, ..claim(10, 0) }, 6)],
        ),
        ("workers of two GPUs in whole", 7, &[(Claim { gpus: 2, ..claim(10, 0) }, 2), (claim(10, 0), 3)]),
    ];
    for (case, budget, claims) in table {
        let keys: Vec<Key> = (0..claims.len()).map(|n| key(&format!("c{n}"))).collect();
        let listed: Vec<(&Key, &Claim)> = keys.iter().zip(claims.iter().map(|(claim, _)| claim)).collect();
        let shares = shares(budget, &listed);
        let got: Vec<i32> = keys.iter().map(|key| shares[key]).collect();
        assert_eq!(got, claims.iter().map(|(_, share)| *share).collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn only_what_is_free_is_given_and_waking_follows() {
    let ledger = ledger(8);
    let (trigger, mut woken) = mpsc::unbounded_channel();
    let a = ledger.claim(&key("a"), claim(8, 0), &trigger).unwrap();
    assert_eq!(a.replicas, 8, "alone it has all");
    assert!(ledger.claim(&key("a"), claim(8, 8), &trigger).is_some());
    while woken.try_recv().is_ok() {}
    let b = ledger.claim(&key("b"), claim(8, 0), &trigger).unwrap();
    assert_eq!(b.replicas, 0, "nothing is free yet: {}", b.words);
    assert!(b.words.contains("its share is 4 workers"), "{}", b.words);
    assert_eq!(woken.try_recv().unwrap().name, "a", "who holds too much hears of it");
    assert_eq!(ledger.claim(&key("a"), claim(8, 8), &trigger).unwrap().replicas, 4);
    // Three pods of it are gone, one still ends.
    assert_eq!(ledger.claim(&key("a"), Claim { ending: 1, ..claim(8, 4) }, &trigger).unwrap().replicas, 4);
    assert_eq!(woken.try_recv().unwrap().name, "b");
    assert_eq!(ledger.claim(&key("b"), claim(8, 0), &trigger).unwrap().replicas, 3);
    let own = Ledger::new(ledger.budgets.clone(), 0);
    let ending = Claim { ending: 6, ..claim(8, 2) };
    assert_eq!(own.claim(&key("a"), ending, &trigger).unwrap().replicas, 2, "its own that end hold their GPUs too");
    ledger.forget(&key("a"));
    assert_eq!(ledger.claim(&key("b"), claim(8, 3), &trigger).unwrap().replicas, 8);
    assert_eq!(ledger.claim(&key("c"), Claim { resource: "amd.com/gpu".into(), ..claim(9, 0) }, &trigger), None);
}

#[test]
fn gpus_without_a_budget_are_nobodys_business() {
    let ledger = ledger(4);
    let (trigger, mut woken) = mpsc::unbounded_channel();
    let other = || Claim { resource: "amd.com/gpu".into(), ..claim(3, 3) };
    ledger.note([(key("a"), other()), (key("b"), other())], &trigger);
    assert_eq!(ledger.claim(&key("a"), other(), &trigger), None);
    assert_eq!(ledger.claim(&key("b"), None, &trigger), None);
    assert!(woken.try_recv().is_err(), "a start with many of them wakes none of them");
}

#[test]
fn what_was_promised_a_moment_ago_is_not_free() {
    let ledger = ledger(4);
    let (trigger, _woken) = mpsc::unbounded_channel();
    assert_eq!(ledger.claim(&key("a"), claim(3, 0), &trigger).unwrap().replicas, 3);
    // The pods of a are not there yet.
    assert_eq!(ledger.claim(&key("b"), claim(3, 0), &trigger).unwrap().replicas, 1);
}

#[test]
fn after_a_restart_what_others_hold_is_known_before_they_are_asked() {
    let ledger = Ledger::new(ledger(4).budgets, 2);
    let (trigger, mut woken) = mpsc::unbounded_channel();
    ledger.note([], &trigger);
    assert_eq!(ledger.claim(&key("b"), claim(4, 0), &trigger).unwrap().replicas, 0, "half of the world is unknown");
    ledger.note([(key("a"), claim(3, 3))], &trigger);
    assert_eq!(ledger.claim(&key("b"), claim(4, 0), &trigger).unwrap().replicas, 1);
    assert!(std::iter::from_fn(|| woken.try_recv().ok()).any(|key| key.name == "b"), "it is asked again");
}

prop_compose! {
    fn any_claim()(wanted in 0..12_i32, min in 0..3_i32, priority in 0..2_i32, weight in 1..5_i32, gpus in 1..3_i64) -> Claim {
        Claim { resource: GPU.into(), gpus, wanted, min, held: 0, ending: 0, priority, weight }
    }
}

proptest! {
    #[test]
    fn no_sequence_exceeds_the_budget(
        budget in 0..16_i64,
        claims in prop::collection::vec(any_claim(), 1..6),
        steps in prop::collection::vec((0..6_usize, 0..12_i32, any::<bool>()), 1..80),
    ) {
        let ledger = ledger(budget);
        let (trigger, _woken) = mpsc::unbounded_channel();
        let mut held = vec![0_i32; claims.len()];
        for (who, wanted, acts) in steps {
            let who = who % claims.len();
            let wanted = wanted.max(claims[who].min);
            let claim = Claim { wanted, held: held[who], ..claims[who].clone() };
            let grant = ledger.claim(&key(&format!("c{who}")), claim, &trigger).unwrap();
            if acts {
                held[who] = wanted.min(grant.replicas);
            }
            let used: i64 = held.iter().zip(&claims).map(|(held, claim)| i64::from(*held) * claim.gpus).sum();
            prop_assert!(used <= budget, "{used} of {budget}: {held:?}");
        }
    }

    #[test]
    fn each_is_within_one_worker_of_its_weighted_share(
        budget in 0..40_i64,
        weights in prop::collection::vec(1..6_i32, 1..6),
    ) {
        let claims: Vec<Claim> = weights.iter().map(|weight| Claim { weight: *weight, ..claim(100, 0) }).collect();
        let keys: Vec<Key> = (0..claims.len()).map(|n| key(&format!("c{n}"))).collect();
        let shares = shares(budget, &keys.iter().zip(&claims).collect::<Vec<_>>());
        prop_assert_eq!(shares.values().map(|share| i64::from(*share)).sum::<i64>(), budget, "all of it is used");
        let total: i32 = weights.iter().sum();
        for (key, weight) in keys.iter().zip(&weights) {
            let exact = budget as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(shares[key]) - exact).abs() < 1.0 + 1e-6, "{} of {exact}", shares[key]);
        }
    }
}
