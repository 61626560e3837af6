//! The world on small cases that can be reckoned by hand, and what holds for every one.

use proptest::prelude::*;

use super::super::args::ClusterArgs;
use super::super::policy::Look;
use super::super::setup::fixtures::setup;
use super::super::trace::Arrival;
use super::*;

/// Wishes for these counts from these seconds on.
struct Fixed(Vec<(f64, i32)>, Removal);

impl Policy for Fixed {
    fn look(&mut self, sight: &mut Sight<'_>) -> Look {
        let wished = self.0.iter().rev().find(|(at, _)| *at <= sight.now).map(|(_, count)| *count);
        let next = self.0.iter().map(|(at, _)| *at).find(|at| *at > sight.now).unwrap_or(sight.now + 10.0);
        Look { replicas: wished, reason: "Fixed".into(), next }
    }

    fn removal(&self) -> Removal {
        self.1
    }
}

fn trace(arrivals: &[(f64, f64)]) -> Trace {
    let arrivals: Vec<_> = arrivals.iter().map(|(at, service)| Arrival { at: *at, service: *service }).collect();
    Trace { begin: 0.0, end: arrivals.last().map_or(0.0, |a| a.at), arrivals }
}

fn play(setup: &Setup, arrivals: &[(f64, f64)], wishes: &[(f64, i32)], removal: Removal) -> Outcome {
    run(setup, &trace(arrivals), &mut Fixed(wishes.to_vec(), removal))
}

fn starts(outcome: &Outcome) -> Vec<f64> {
    outcome.jobs.iter().filter_map(|job| job.started).collect()
}

#[test]
fn one_worker_takes_one_job_after_the_other_in_order() {
    // D/D/1: ready at 10 s, 5 s each.
    let outcome = play(&setup(), &[(0.0, 5.0); 4], &[(0.0, 1), (100.0, 0)], Removal::IdleOnly);
    assert_eq!(starts(&outcome), [10.0, 15.0, 20.0, 25.0]);
    assert!((outcome.pod_seconds() - 100.0).abs() < 1e-6, "{}", outcome.pod_seconds());
    assert_eq!(outcome.pods, [Span { placed: Some(0.0), ready: Some(10.0), gone: 100.0 }]);
}

#[test]
fn slots_and_workers_work_at_the_same_time() {
    let two = Setup { slots: 2, ..setup() };
    let outcome = play(&two, &[(0.0, 5.0); 6], &[(0.0, 2), (100.0, 0)], Removal::IdleOnly);
    assert_eq!(starts(&outcome), [10.0, 10.0, 10.0, 10.0, 15.0, 15.0]);
}

#[test]
fn the_mean_wait_of_m_d_1_is_as_pollaczek_and_khinchin_say() {
    // ρ = 0.8, service 1 s: ρ s / (2 (1 − ρ)) = 2 s.
    let mut random = Random::new(3, Stream::Trace);
    let mut at = 0.0;
    let arrivals: Vec<_> = (0..40_000)
        .map(|_| {
            at -= (1.0 - random.unit()).ln() / 0.8;
            (at, 1.0)
        })
        .collect();
    let ready = Setup { replicas: 1, min_replicas: 1, ..setup() };
    let outcome = play(&ready, &arrivals, &[(0.0, 1)], Removal::IdleOnly);
    let waits = outcome.jobs.iter().map(|job| job.started.unwrap() - job.sent).sum::<f64>() / 40_000.0;
    assert!((waits - 2.0).abs() < 0.2, "{waits}");
}

#[test]
fn a_busy_worker_that_is_told_to_stop_finishes_what_fits_into_its_grace() {
    let one = Setup { replicas: 1, grace: 30.0, ..setup() };
    let outcome = play(&one, &[(0.0, 20.0)], &[(5.0, 0)], Removal::ReplicaSet);
    assert_eq!((outcome.busy_killed, outcome.lost.len()), (1, 0));
    assert_eq!(outcome.jobs[0].finished, Some(20.0));
    assert!((outcome.pods[0].gone - 20.0).abs() < 1e-9);
}

#[test]
fn what_does_not_fit_comes_back_and_is_begun_again() {
    // Told at 5 s, killed at 35 s; the lease of 120 s was last renewed at 0 s.
    let one = Setup { replicas: 1, grace: 30.0, visibility: 120.0, ..setup() };
    let outcome = play(&one, &[(0.0, 100.0)], &[(5.0, 0), (50.0, 1), (400.0, 0)], Removal::ReplicaSet);
    assert_eq!(outcome.lost, [Lost { job: 0, started: 0.0, back: 120.0 }]);
    assert_eq!((outcome.jobs[0].started, outcome.jobs[0].finished), (Some(120.0), Some(220.0)));
    assert!((outcome.pods[0].gone - 35.0).abs() < 1e-9);
}

#[test]
fn a_busy_worker_is_not_told_to_stop_where_only_idle_ones_are_taken() {
    let two = Setup { replicas: 2, ..setup() };
    let outcome = play(&two, &[(0.0, 20.0)], &[(5.0, 0)], Removal::IdleOnly);
    assert_eq!((outcome.busy_killed, outcome.lost.len()), (0, 0));
    let counts: Vec<_> = outcome.changes.iter().map(|change| (change.at, change.replicas)).collect();
    assert_eq!(counts, [(0.0, 2), (0.0, 2), (5.0, 1), (25.0, 0)]);
}

#[test]
fn starts_need_a_place_an_image_and_a_model() {
    let base = setup();
    let cluster = ClusterArgs {
        scheduling_seconds: 1.0,
        image_pull_seconds: 20.0,
        max_nodes: Some(1),
        pods_per_node: 2,
        ..base.cluster
    };
    let outcome = play(&Setup { cluster, ..base }, &[(0.0, 1.0)], &[(0.0, 3), (200.0, 0)], Removal::IdleOnly);
    let spans: Vec<_> = outcome.pods.iter().map(|pod| (pod.placed, pod.ready)).collect();
    assert_eq!(spans.iter().filter(|span| **span == (None, None)).count(), 1, "no room: {spans:?}");
    assert!(spans.contains(&(Some(1.0), Some(31.0))) && spans.contains(&(Some(1.0), Some(11.0))), "{spans:?}");
}

#[test]
fn a_new_node_is_waited_for_and_costs_no_gpu_meanwhile() {
    let base = setup();
    let cluster = ClusterArgs { node_seconds: 60.0, ..base.cluster };
    let outcome = play(&Setup { cluster, ..base }, &[(0.0, 1.0)], &[(0.0, 1), (100.0, 0)], Removal::IdleOnly);
    assert_eq!(starts(&outcome), [70.0]);
    assert!((outcome.pod_seconds() - 40.0).abs() < 1e-6);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_all_starts_are_in_order(
        jobs in prop::collection::vec((0.0..300.0_f64, 0.1..40.0_f64), 1..60),
        wishes in prop::collection::vec(0..6_i32, 1..8),
        slots in 1..3_usize,
        idle_only: bool,
        seed: u64,
    ) {
        let mut jobs = jobs;
        jobs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut wishes: Vec<_> = wishes.into_iter().enumerate().map(|(i, wish)| (i as f64 * 40.0, wish)).collect();
        wishes.push((400.0, 2));
        let removal = if idle_only { Removal::IdleOnly } else { Removal::ReplicaSet };
        let setup = Setup { slots, seed, grace: 10.0, min_replicas: 2, ..setup() };
        let outcome = play(&setup, &jobs, &wishes, removal);

        prop_assert!(outcome.jobs.iter().all(|job| job.finished.is_some()));
        prop_assert!(outcome.jobs.iter().all(|job| job.started.unwrap() >= job.sent));
        if idle_only {
            prop_assert_eq!((outcome.busy_killed, outcome.lost.len()), (0, 0));
        }
        if outcome.lost.is_empty() {
            prop_assert!(starts(&outcome).windows(2).all(|pair| pair[0] <= pair[1]), "first come, first served");
        }
        let again = play(&setup, &jobs, &wishes, removal);
        prop_assert_eq!(outcome, again, "the same seed, the same world");
    }
}
