//! Plans as tables, and what holds for every set of pods: nothing that holds jobs is deleted, and what is to go does go.

use proptest::prelude::*;

use super::*;
use crate::retire::order::Phase;

/// A ready pod that does not differ from others.
fn pod(name: &str, work: Work) -> Candidate {
    let busy = matches!(work, Work::Busy(_) | Work::Draining(_) | Work::Silent);
    Candidate {
        name: name.into(),
        place: Place { assigned: true, phase: Phase::Running, ready: work != Work::Absent, cost: 0 },
        certain: true,
        work,
        held: matches!(work, Work::Drained | Work::Draining(_)),
        drains: true,
        quiet: !busy,
        at_work: busy,
        leaving: false,
        marks: Marks { goes: false, protected: busy },
    }
}

fn marked(pod: Candidate) -> Candidate {
    Candidate { place: Place { cost: GOES_FIRST, ..pod.place }, marks: Marks { goes: true, ..pod.marks }, ..pod }
}

fn unready(pod: Candidate) -> Candidate {
    Candidate { place: Place { ready: false, ..pod.place }, ..pod }
}

fn pending(pod: Candidate) -> Candidate {
    Candidate { place: Place { assigned: false, phase: Phase::Pending, ready: false, cost: 0 }, ..pod }
}

fn mute(pod: Candidate) -> Candidate {
    Candidate { drains: false, ..pod }
}

fn leaving(pod: Candidate) -> Candidate {
    Candidate { leaving: true, ..pod }
}

fn inputs(desired: i32, pods: &[Candidate]) -> Inputs {
    let replicas = saturate(pods.len());
    Inputs { desired: Some(desired), replicas, replacing: false, settled: true, pods: pods.to_vec() }
}

fn drained(plan: &Plan) -> Vec<&str> {
    plan.pods.iter().filter(|pod| pod.drain).map(|pod| pod.pod.as_str()).collect()
}

fn first(plan: &Plan) -> Vec<&str> {
    plan.pods.iter().filter(|pod| pod.marks.goes).map(|pod| pod.pod.as_str()).collect()
}

use Work::{Absent, Busy, Drained, Draining, Idle, Silent, Starting};

#[test]
fn a_worker_is_asked_then_marked_then_gone() {
    let busy = || pod("a", Busy(1));
    let asked = plan(&inputs(1, &[busy(), pod("b", Idle)]));
    assert_eq!((asked.replicas, drained(&asked), first(&asked)), (2, vec!["b"], vec![]));
    assert_eq!(
        asked.waits.as_deref(),
        Some("1 worker that is to go takes no new job, and goes when that is certain: b")
    );
    let empty = plan(&inputs(1, &[busy(), pod("b", Drained)]));
    assert_eq!((empty.replicas, drained(&empty), first(&empty)), (2, vec!["b"], vec!["b"]));
    let fresh = Candidate { certain: false, ..marked(pod("b", Drained)) };
    let seen = plan(&inputs(1, &[busy(), fresh]));
    assert_eq!((seen.replicas, seen.recheck), (2, Some(SETTLES)));
    let gone = plan(&inputs(1, &[busy(), marked(pod("b", Drained))]));
    assert_eq!((gone.replicas, gone.waits.as_deref()), (1, None));
    assert_eq!(drained(&gone), ["b"], "until it is gone");
}

#[test]
fn who_is_to_go() {
    for (desired, pods, expected) in [
        (2, vec![pod("a", Busy(1)), pod("b", Idle), pod("c", Idle)], "b"),
        (2, vec![pod("a", Busy(1)), pod("b", Idle), pod("c", Draining(0))], "c"),
        (2, vec![pod("a", Busy(1)), pod("b", Draining(0)), marked(pod("c", Drained))], "c"),
        (2, vec![pod("a", Busy(1)), pod("b", Idle), leaving(pod("c", Idle))], "c"),
        (2, vec![pod("a", Busy(1)), pod("b", Drained), unready(pod("c", Starting))], "c"),
        (2, vec![pod("a", Busy(3)), pod("b", Busy(1)), pod("c", Busy(2))], "b"),
        (2, vec![pod("a", Busy(3)), pod("b", Draining(4)), pod("c", Busy(2))], "b"),
        (1, vec![pod("a", Busy(3)), pod("b", Draining(4)), pod("c", Busy(2))], "bc"),
        (1, vec![pod("a", Silent), pod("b", Busy(9)), pod("c", Silent)], "ab"),
        (0, vec![pod("a", Busy(1)), pod("b", Idle)], "ab"),
        (1, vec![pod("a", Idle), pending(pod("b", Absent))], ""),
    ] {
        let plan = plan(&inputs(desired, &pods));
        assert_eq!(drained(&plan).concat(), expected, "{desired} of {pods:?}");
    }
}

#[test]
fn how_far_the_count_goes_down() {
    let gone = |name| marked(pod(name, Drained));
    for (desired, pods, replicas) in [
        (1, vec![pod("a", Busy(1)), gone("b"), gone("c")], 1),
        (1, vec![pod("a", Busy(1)), gone("b"), pod("c", Draining(1))], 2),
        (1, vec![pod("a", Busy(1)), pod("b", Drained), pod("c", Drained)], 3),
        (0, vec![pod("a", Drained), pod("b", Drained)], 0),
        (0, vec![pod("a", Drained), pod("b", Idle)], 2),
        (0, vec![pod("a", Drained), Candidate { held: false, ..pod("b", Drained) }], 2),
        (2, vec![pod("a", Busy(1)), pod("b", Busy(1)), pending(pod("c", Absent)), pending(pod("d", Absent))], 2),
        (2, vec![unready(pod("a", Busy(1))), pod("b", Busy(1)), gone("c")], 3),
        (2, vec![unready(pod("a", Silent)), pod("b", Busy(1)), gone("c")], 3),
        (1, vec![unready(pod("a", Absent)), pod("b", Busy(1))], 1),
        (1, vec![unready(pod("a", Absent)), unready(pod("b", Busy(1)))], 2),
        (1, vec![marked(unready(pod("a", Absent))), unready(pod("b", Busy(1)))], 1),
        (1, vec![marked(pod("a", Busy(1))), gone("b")], 2),
        (3, vec![pod("a", Busy(1)), gone("b")], 3),
    ] {
        assert_eq!(plan(&inputs(desired, &pods)).replicas, replicas, "{desired} of {pods:?}");
    }
}

#[test]
fn pods_that_were_not_made_yet_go_for_free() {
    let few = Inputs { replicas: 9, ..inputs(2, &[pod("a", Busy(1)), pod("b", Busy(1)), pod("c", Busy(1))]) };
    assert_eq!(plan(&few).replicas, 3);
}

#[test]
fn without_a_way_to_ask_reports_have_to_do() {
    let quiet = || mute(pod("b", Idle));
    let new = Candidate { quiet: false, ..quiet() };
    for (pods, replicas, marks) in [
        (vec![mute(pod("a", Busy(1))), new], 2, ""),
        (vec![mute(pod("a", Busy(1))), quiet()], 2, "b"),
        (vec![mute(pod("a", Busy(1))), marked(quiet())], 1, "b"),
        (vec![mute(pod("a", Busy(1))), marked(pod("b", Idle))], 2, ""),
    ] {
        let plan = plan(&inputs(1, &pods));
        assert_eq!((plan.replicas, first(&plan).concat().as_str()), (replicas, marks), "{pods:?}");
    }
}

#[test]
fn a_rollout_is_left_alone_except_to_zero() {
    let pods = [pod("a", Idle), marked(pod("b", Drained))];
    let rolling = |desired, pods: &[Candidate]| Inputs { replacing: true, ..inputs(desired, pods) };
    let held = plan(&rolling(1, &pods));
    assert_eq!((held.replicas, drained(&held), held.waits.as_deref()), (2, vec![], Some("a rollout is going on")));
    let zero = plan(&rolling(0, &pods));
    assert_eq!((zero.replicas, drained(&zero)), (2, vec!["a", "b"]));
    assert_eq!(plan(&rolling(0, &[pod("a", Drained), unready(pod("b", Drained))])).replicas, 0);
    let surge = Inputs { replicas: 1, ..rolling(1, &pods) };
    assert_eq!(drained(&plan(&surge)).len(), 0, "more pods than replicas are the rollout's");
}

#[test]
fn what_the_replica_set_is_about_to_delete_is_not_let_go_of() {
    let pods = [pod("a", Idle), marked(pod("b", Drained))];
    for settled in [true, false] {
        let lowered = Inputs { replicas: 1, settled, ..inputs(1, &pods) };
        let plan = plan(&lowered);
        assert_eq!((plan.replicas, drained(&plan), first(&plan)), (1, vec!["b"], vec!["b"]));
    }
    let unseen = Inputs { settled: false, ..inputs(1, &pods) };
    assert_eq!(plan(&unseen).replicas, 2, "the order may be another one by now");
    let more = Inputs { replicas: 1, settled: false, ..inputs(2, &pods) };
    let plan = plan(&more);
    assert_eq!((plan.replicas, drained(&plan).len(), first(&plan).len()), (2, 0, 0), "all are needed again");
}

#[test]
fn a_count_that_is_held_retires_nobody() {
    let held =
        Inputs { desired: None, ..inputs(0, &[pod("a", Idle), marked(pod("b", Drained)), leaving(pod("c", Idle))]) };
    let free = plan(&held);
    assert_eq!((free.replicas, drained(&free), first(&free)), (3, vec!["c"], vec![]));
    let lowered = plan(&Inputs { replicas: 1, ..held });
    assert_eq!((lowered.replicas, drained(&lowered), first(&lowered)), (1, vec!["b", "c"], vec!["b"]), "on its way");
}

#[test]
fn pods_of_a_node_that_leaves_drain_and_are_replaced() {
    let plan = plan(&inputs(
        4,
        &[leaving(pod("a", Busy(1))), leaving(pod("b", Drained)), pod("c", Busy(1)), leaving(pod("d", Absent))],
    ));
    let of = |name: &str| plan.pods.iter().find(|pod| pod.pod == name).unwrap();
    assert_eq!((of("a").drain, of("a").delete, of("a").marks.protected), (true, false, false));
    assert_eq!((of("b").drain, of("b").delete), (true, true));
    assert_eq!((of("c").drain, of("c").delete, of("c").marks.protected), (false, false, true));
    assert_eq!((of("d").drain, of("d").delete), (false, true));
    assert_eq!(plan.replicas, 4);
}

#[test]
fn one_that_is_to_go_anyway_is_not_replaced() {
    let plan = plan(&inputs(1, &[pod("a", Busy(1)), leaving(pod("b", Drained))]));
    assert!(first(&plan) == ["b"] && plan.pods.iter().all(|pod| !pod.delete), "{plan:?}");
}

#[test]
fn what_is_waited_for_in_words() {
    let many: Vec<Candidate> = ["a", "b", "c", "d", "e"].map(|name| pod(name, Busy(1))).into();
    for (desired, pods, words) in [
        (
            1,
            vec![pod("a", Busy(1)), pod("b", Busy(2)), marked(pod("c", Drained))],
            "1 of 1 worker that is to go finishes its jobs first: a",
        ),
        (0, many, "5 of 5 workers that are to go finish their jobs first: a, b, c and 2 more"),
        (
            0,
            vec![mute(pod("a", Idle)), Candidate { quiet: false, ..mute(pod("b", Idle)) }],
            "2 workers that are to go can go when they were idle for a while: b",
        ),
        (
            0,
            vec![pod("a", Silent), pod("b", Idle)],
            "1 of 2 workers that are to go does not answer and may be at work: a",
        ),
        (
            2,
            vec![unready(pod("a", Silent)), pod("b", Busy(1)), marked(pod("c", Drained))],
            "Kubernetes would first delete what is not ready, and that may be at work: a",
        ),
        (
            1,
            vec![pod("a", Busy(1)), pod("c", Drained)],
            "1 worker that is to go can go as soon as Kubernetes knows that it is to be the first",
        ),
    ] {
        assert_eq!(plan(&inputs(desired, &pods)).waits.as_deref(), Some(words));
    }
}

/// What a ReplicaSet deletes: its order, with the ties that are not replayed broken by chance, and with costs that have
/// just changed seen or not.
fn deleted(pods: &[Candidate], replicas: i32, chance: &mut fastrand::Rng) -> Vec<String> {
    let mut order: Vec<_> = pods
        .iter()
        .map(|pod| {
            let before = if pod.place.cost == GOES_FIRST { 0 } else { GOES_FIRST };
            let cost = if pod.certain || chance.bool() { pod.place.cost } else { before };
            ((Place { cost, ..pod.place }, chance.u32(..)), pod.name.clone())
        })
        .collect();
    order.sort();
    let count = pods.len().saturating_sub(usize::try_from(replicas).unwrap());
    order.into_iter().take(count).map(|(_, name)| name).collect()
}

prop_compose! {
    fn any_pod()(
        work in prop_oneof![
            Just(Absent), Just(Starting), Just(Idle), Just(Idle), Just(Drained), Just(Drained), Just(Silent),
            (1..4_u32).prop_map(Busy), (0..3_u32).prop_map(Draining),
        ],
        assigned in prop::bool::weighted(0.9),
        phase in prop_oneof![1 => Just(Phase::Pending), 1 => Just(Phase::Unknown), 8 => Just(Phase::Running)],
        ready in prop::bool::weighted(0.8),
        cost in prop_oneof![4 => Just(0), 4 => Just(GOES_FIRST), 1 => -2000..2000_i32],
        certain in prop::bool::weighted(0.8),
        held in prop::bool::weighted(0.8),
        drains in prop::bool::weighted(0.8),
        quiet in any::<bool>(),
        at_work in any::<bool>(),
        leaving in prop::bool::weighted(0.1),
        protected in any::<bool>(),
    ) -> Candidate {
        let place = Place { assigned, phase, ready, cost };
        let marks = Marks { goes: cost == GOES_FIRST, protected };
        let certain = certain || (cost != 0 && cost != GOES_FIRST);
        Candidate { name: String::new(), place, certain, work, held, drains, quiet, at_work, leaving, marks }
    }
}

fn named(pods: Vec<Candidate>) -> Vec<Candidate> {
    pods.into_iter().enumerate().map(|(n, pod)| Candidate { name: format!("p{n}"), ..pod }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nobody_at_work_is_deleted(
        pods in prop::collection::vec(any_pod(), 0..8).prop_map(named),
        more in 0..3_i32,
        desired in prop::option::weighted(0.95, 0..10_i32),
        replacing in prop::bool::weighted(0.1),
        settled in prop::bool::weighted(0.9),
        seed in any::<u64>(),
    ) {
        let replicas = saturate(pods.len()) + more;
        let inputs = Inputs { desired, replicas, replacing, settled, pods };
        let plan = plan(&inputs);
        let target = desired.unwrap_or(replicas);
        prop_assert!((target.min(replicas)..=target.max(replicas)).contains(&plan.replicas), "{plan:?}");
        prop_assert_eq!(plan.waits.is_some(), plan.replicas > target);
        if target > replicas || (target == replicas && settled) {
            prop_assert_eq!(plan.replicas, target, "up at once");
            prop_assert!(plan.pods.iter().zip(&inputs.pods).all(|(w, pod)| (!w.drain || pod.leaving) && !w.marks.goes));
        }
        let gone = deleted(&inputs.pods, plan.replicas, &mut fastrand::Rng::with_seed(seed));
        if plan.replicas < replicas {
            for pod in inputs.pods.iter().filter(|pod| gone.contains(&pod.name)) {
                prop_assert!(pod.is_harmless(), "{} goes: {plan:?}", pod.name);
            }
        }
        for (wanted, pod) in plan.pods.iter().zip(&inputs.pods) {
            prop_assert!(!(wanted.delete || wanted.marks.goes) || pod.is_harmless());
            prop_assert!(!wanted.delete || pod.leaving);
            prop_assert!(!(wanted.marks.protected && pod.leaving));
        }
    }

    #[test]
    fn what_is_to_go_goes_and_comes_back_when_it_is_needed(
        jobs in prop::collection::vec(0..6_u32, 1..9),
        desired in 0..9_i32,
        signs in any::<bool>(),
        cordoned in prop::option::of(0..9_usize),
        seed in any::<u64>(),
    ) {
        let mut cluster = Cluster::new(&jobs, signs, seed);
        let desired = desired.min(saturate(jobs.len()));
        if let Some(pod) = cordoned.and_then(|n| cluster.pods.get_mut(n)) {
            pod.leaving = true;
        }
        for _ in 0..100 {
            cluster.step(desired)?;
        }
        prop_assert_eq!(cluster.replicas, desired, "{:?}", cluster.pods);
        prop_assert_eq!(saturate(cluster.pods.len()), desired);
        prop_assert!(cluster.pods.iter().all(|pod| !pod.leaving && pod.work == Idle), "{:?}", cluster.pods);
        // Half of them begin to go, and are needed again.
        for _ in 0..cluster.chance.u32(0..5) {
            cluster.step(desired / 2)?;
        }
        // New ones need two steps, each of which may be put off: in so many none is, but by one chance in 10^16.
        for _ in 0..60 {
            cluster.step(desired)?;
        }
        prop_assert_eq!(saturate(cluster.pods.len()), desired);
        prop_assert!(cluster.pods.iter().all(|pod| pod.work == Idle && !pod.marks.goes), "{:?}", cluster.pods);
    }
}

/// Workers, a ReplicaSet and an operator, in steps.
struct Cluster {
    replicas: i32,
    pods: Vec<Candidate>,
    made: usize,
    signs: bool,
    chance: fastrand::Rng,
}

impl Cluster {
    fn new(jobs: &[u32], signs: bool, seed: u64) -> Self {
        let pods = jobs.iter().enumerate().map(|(n, jobs)| {
            let work = if *jobs == 0 { Idle } else { Busy(*jobs) };
            Candidate { drains: signs, ..pod(&format!("p{n}"), work) }
        });
        let pods: Vec<Candidate> = pods.collect();
        Self { replicas: saturate(pods.len()), made: pods.len(), pods, signs, chance: fastrand::Rng::with_seed(seed) }
    }

    /// One pass of the operator, then the ReplicaSet, then some work.
    fn step(&mut self, desired: i32) -> Result<(), TestCaseError> {
        let (replicas, pods) = (self.replicas, self.pods.clone());
        let plan = plan(&Inputs { desired: Some(desired), replicas, replacing: false, settled: true, pods });
        self.replicas = plan.replicas;
        let gone = deleted(&self.pods, self.replicas, &mut self.chance);
        for pod in self.pods.iter().filter(|pod| gone.contains(&pod.name)) {
            prop_assert!(pod.is_harmless(), "{pod:?} is deleted by {plan:?}");
        }
        for wanted in &plan.pods {
            let pod = self.pods.iter_mut().find(|pod| pod.name == wanted.pod).unwrap();
            pod.certain = pod.marks.goes == wanted.marks.goes;
            pod.marks = wanted.marks;
            pod.place.cost = if wanted.marks.goes { GOES_FIRST } else { 0 };
            pod.held = wanted.drain && self.signs;
            pod.work = match pod.work {
                Drained | Draining(0) if !pod.held => Idle,
                Draining(jobs) if !pod.held => Busy(jobs),
                Busy(jobs) if pod.held => Draining(jobs),
                Idle | Starting if pod.held => Drained,
                work => work,
            };
        }
        self.pods.retain(|pod| {
            !gone.contains(&pod.name) && !plan.pods.iter().any(|wanted| wanted.delete && wanted.pod == pod.name)
        });
        for pod in &mut self.pods {
            let done = self.chance.bool();
            pod.work = match pod.work {
                Absent if done => Starting,
                Starting | Busy(1) if done => Idle,
                Busy(jobs) if done => Busy(jobs - 1),
                Draining(0 | 1) if done => Drained,
                Draining(jobs) if done => Draining(jobs - 1),
                work => work,
            };
            pod.place.ready = !matches!(pod.work, Absent | Starting | Draining(_) | Drained);
            pod.place.assigned = true;
            pod.place.phase = if pod.work == Absent { Phase::Pending } else { Phase::Running };
            pod.at_work = matches!(pod.work, Busy(_) | Draining(_));
            pod.quiet = !pod.at_work;
        }
        while saturate(self.pods.len()) < self.replicas {
            self.made += 1;
            let new = pending(pod(&format!("p{}", self.made), Absent));
            self.pods.push(Candidate { drains: self.signs, ..new });
        }
        Ok(())
    }
}
