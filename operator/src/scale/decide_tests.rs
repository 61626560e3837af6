//! Decisions as tables, and what holds for every sequence of inputs.

use millrace_api::ScalingTarget;
use proptest::prelude::*;

use super::*;
use crate::queue::QueueError;

fn scaling(min: i32, max: i32) -> ScalingSpec {
    ScalingSpec {
        min_replicas: min,
        max_replicas: max,
        target: ScalingTarget { queue_delay_seconds: None, messages_per_replica: Some(5) },
        scale_to_zero_after_seconds: 300,
        scale_down_stabilization_seconds: 60,
        ..ScalingSpec::default()
    }
}

fn inputs(from: i32, visible: i64, in_flight: i64) -> Inputs {
    Inputs {
        from,
        depth: Ok(Depth { visible, in_flight, delayed: 0 }),
        rolling: false,
        busy: 0,
        silent: 0,
        held: 0,
        concurrency: 1.0,
        reported_service_seconds: None,
    }
}

fn unknown(from: i32) -> Inputs {
    Inputs { depth: Err(QueueError::NotReadYet), ..inputs(from, 0, 0) }
}

const RULE: Rule = Rule::MessagesPerReplica(5);

/// Decides once, with no history.
fn first(scaling: &ScalingSpec, inputs: &Inputs) -> Decision {
    decide_from(RULE, scaling, inputs, &History::default(), Instant::now())
}

/// Decides again and again, each decision made true; returns the counts and reasons.
fn play(scaling: &ScalingSpec, steps: &[(u64, Inputs)]) -> Vec<(i32, Reason)> {
    let start = Instant::now();
    let (mut history, mut replicas) = (History::default(), None);
    let mut counts = Vec::new();
    for (second, inputs) in steps {
        let inputs = Inputs { from: replicas.unwrap_or(inputs.from), ..inputs.clone() };
        let decision = decide_from(RULE, scaling, &inputs, &history, start + Duration::from_secs(*second));
        replicas = Some(decision.desired);
        counts.push((decision.desired, decision.reason));
        history = decision.history;
    }
    counts
}

#[test]
fn up_goes_to_the_answer_at_once() {
    use Reason::{MaxReplicas, MinReplicas, QueueEmpty, Rule};
    for (min, max, from, visible, in_flight, desired, reason) in [
        (0, 10, 0, 50, 0, 10, Rule),
        (0, 4, 0, 50, 0, 4, MaxReplicas),
        (0, 10, 0, 1, 0, 1, Rule),
        (0, 10, 0, 6, 0, 2, Rule),
        (0, 10, 1, 3, 7, 2, Rule),
        (0, 10, 0, 0, 0, 0, QueueEmpty),
        (0, 10, 2, 6, 0, 2, Rule),
        (0, 10, 0, 0, 40, 0, QueueEmpty),
        (2, 10, 0, 0, 0, 2, MinReplicas),
        (2, 10, 2, 0, 0, 2, MinReplicas),
        (0, 10, 0, i64::MAX, i64::MAX, 10, MaxReplicas),
    ] {
        let decision = first(&scaling(min, max), &inputs(from, visible, in_flight));
        let case = format!("{min}..{max} from {from}, {visible} visible, {in_flight} in flight: {}", decision.message);
        assert_eq!(decision.desired, desired, "{case}");
        assert_eq!(decision.reason, reason, "{case}");
    }
}

#[test]
fn in_flight_alone_wakes_nobody_and_says_so() {
    let decision = first(&scaling(0, 10), &inputs(0, 0, 40));
    assert_eq!(decision.desired, 0);
    assert!(decision.message.contains("in flight alone wake nobody"), "{}", decision.message);
}

#[test]
fn down_waits_for_the_window_and_says_when_it_ends() {
    let decision = first(&scaling(0, 10), &inputs(4, 5, 0));
    assert_eq!((decision.desired, decision.reason), (4, Reason::Stabilizing));
    assert_eq!(decision.recheck, Some(Duration::from_mins(1)));
    let played = play(&scaling(0, 10), &[(0, inputs(4, 5, 0)), (59, inputs(4, 5, 0)), (60, inputs(4, 5, 0))]);
    assert_eq!(played, [(4, Reason::Stabilizing), (4, Reason::Stabilizing), (1, Reason::Rule)]);
}

#[test]
fn a_wish_in_between_keeps_its_workers() {
    let steps = [
        (0, inputs(0, 50, 0)),
        (30, inputs(0, 15, 0)),
        (60, inputs(0, 5, 0)),
        (89, inputs(0, 5, 0)),
        (91, inputs(0, 5, 0)),
    ];
    let counts: Vec<i32> = play(&scaling(0, 10), &steps).into_iter().map(|(count, _)| count).collect();
    assert_eq!(counts, [10, 10, 3, 3, 1]);
}

#[test]
fn zero_needs_quiet_for_as_long_as_the_spec_says() {
    let steps = [
        (0, inputs(0, 5, 0)),
        (10, inputs(0, 0, 1)),
        (20, inputs(0, 0, 0)),
        (100, inputs(0, 0, 0)),
        (309, inputs(0, 0, 0)),
        (310, inputs(0, 0, 0)),
    ];
    let played = play(&scaling(0, 10), &steps);
    assert_eq!(played[3..], [(1, Reason::WaitingForZero), (1, Reason::WaitingForZero), (0, Reason::QueueEmpty)]);
}

#[test]
fn a_busy_worker_restarts_the_quiet() {
    let busy = Inputs { busy: 1, ..inputs(1, 0, 0) };
    let steps =
        [(0, inputs(1, 0, 0)), (299, busy), (300, inputs(1, 0, 0)), (598, inputs(1, 0, 0)), (599, inputs(1, 0, 0))];
    let counts: Vec<i32> = play(&scaling(0, 10), &steps).into_iter().map(|(count, _)| count).collect();
    assert_eq!(counts, [1, 1, 1, 1, 0]);
}

#[test]
fn a_restart_of_the_operator_begins_the_quiet_anew() {
    let decision = first(&scaling(0, 10), &inputs(1, 0, 0));
    assert_eq!(decision.desired, 1);
    assert!(decision.recheck.is_some());
}

#[test]
fn an_unknown_depth_holds_and_its_time_does_not_count() {
    let decision = first(&scaling(0, 10), &unknown(4));
    assert_eq!((decision.desired, decision.reason), (4, Reason::DepthUnknown));
    assert!(decision.holds());
    let steps = [
        (0, inputs(4, 0, 0)),
        (10, unknown(4)),
        (400, unknown(4)),
        (401, inputs(4, 0, 0)),
        (461, inputs(4, 0, 0)),
        (700, inputs(4, 0, 0)),
    ];
    let counts: Vec<i32> = play(&scaling(0, 10), &steps).into_iter().map(|(count, _)| count).collect();
    assert_eq!(counts, [4, 4, 4, 4, 1, 0]);
    let outside = first(&scaling(0, 2), &unknown(4));
    assert_eq!(outside.desired, 4, "held even above maxReplicas");
}

#[test]
fn workers_that_do_not_answer_are_named() {
    let silent = Inputs { busy: 3, silent: 2, ..inputs(4, 0, 0) };
    let scaling = ScalingSpec { scale_down_stabilization_seconds: 0, ..scaling(0, 10) };
    let decision = first(&scaling, &silent);
    assert_eq!((decision.desired, decision.reason), (3, Reason::WorkersBusy));
    assert!(
        decision.message.ends_with("1 of 4 workers are at work; 2 do not answer on /state"),
        "{}",
        decision.message
    );
}

#[test]
fn never_fewer_than_are_busy() {
    let busy = |second| (second, Inputs { busy: 3, held: 3, ..inputs(4, 0, 3) });
    let played = play(&scaling(0, 10), &[busy(0), busy(60), busy(900)]);
    assert_eq!(played[1..], [(3, Reason::WorkersBusy), (3, Reason::WorkersBusy)]);
}

#[test]
fn no_scale_down_during_a_rollout_but_up_and_to_zero() {
    let rolling = |from, visible| Inputs { rolling: true, ..inputs(from, visible, 0) };
    let played = play(&scaling(0, 10), &[(0, rolling(4, 5)), (100, rolling(4, 5))]);
    assert_eq!(played[1], (4, Reason::RolloutInProgress));
    assert_eq!(first(&scaling(0, 10), &rolling(4, 50)).desired, 10);
    let played = play(&scaling(0, 10), &[(0, rolling(4, 0)), (301, rolling(4, 0))]);
    assert_eq!(played[1], (0, Reason::QueueEmpty));
}

#[test]
fn a_lower_maximum_counts_at_once() {
    assert_eq!(first(&scaling(0, 2), &inputs(4, 50, 0)).desired, 2);
    let busy = Inputs { busy: 4, rolling: true, ..inputs(4, 50, 0) };
    assert_eq!(first(&scaling(0, 2), &busy).desired, 2);
}

#[test]
fn queue_delay_follows_the_service_time() {
    let delay = |target, service, concurrency, visible, in_flight, held| {
        let inputs = Inputs { reported_service_seconds: service, concurrency, held, ..inputs(1, visible, in_flight) };
        decide_from(Rule::QueueDelay(target), &scaling(0, 1000), &inputs, &History::default(), Instant::now()).desired
    };
    assert_eq!(delay(60, Some(6.0), 1.0, 100, 0, 0), 10);
    assert_eq!(delay(60, Some(6.0), 4.0, 100, 0, 0), 3);
    assert_eq!(delay(60, Some(120.0), 1.0, 7, 0, 0), 7, "a target below the service time gives each job a worker");
    assert_eq!(delay(60, Some(6.0), 1.0, 90, 10, 0), 10, "in flight, and no worker has it: it comes back");
    assert_eq!(delay(60, Some(6.0), 1.0, 90, 10, 10), 9, "in flight at a worker: no backlog");
    assert_eq!(delay(60, None, 1.0, 120, 0, 0), 2, "one second before anything is known");
}

#[test]
fn a_measured_service_time_is_remembered_at_zero() {
    let rule = Rule::QueueDelay(60);
    let measured = Inputs { reported_service_seconds: Some(30.0), ..inputs(1, 0, 0) };
    let now = Instant::now();
    let before = decide_from(rule, &scaling(0, 100), &measured, &History::default(), now);
    let woken = decide_from(rule, &scaling(0, 100), &inputs(0, 20, 0), &before.history, now);
    assert_eq!(woken.desired, 10);
}

prop_compose! {
    fn any_inputs()(
        visible in prop_oneof![Just(0_i64), 0..200_i64],
        in_flight in prop_oneof![Just(0_i64), 0..50_i64],
        known in prop::bool::weighted(0.9),
        rolling in prop::bool::weighted(0.1),
        busy in 0..5_i32,
        service in prop::option::of(0.01..100.0_f64),
    ) -> Inputs {
        let depth = if known { Ok(Depth { visible, in_flight, delayed: 0 }) } else { Err(QueueError::NotReadYet) };
        Inputs { from: 0, depth, rolling, busy, silent: 0, held: i64::from(busy), concurrency: 2.0, reported_service_seconds: service }
    }
}

proptest! {
    #[test]
    fn what_holds_for_every_sequence(
        min in 0..5_i32,
        more in 1..20_i32,
        start in 0..30_i32,
        delay in any::<bool>(),
        steps in prop::collection::vec((1..400_u64, any_inputs()), 1..60),
    ) {
        let rule = if delay { Rule::QueueDelay(60) } else { RULE };
        let scaling = scaling(min, min + more);
        let (mut now, mut history, mut from) = (Instant::now(), History::default(), start);
        for (pause, step) in steps {
            now += Duration::from_secs(pause);
            let inputs = Inputs { from, busy: step.busy.min(from), ..step };
            let decision = decide_from(rule, &scaling, &inputs, &history, now);
            let again = decide_from(rule, &scaling, &inputs, &history, now);
            prop_assert_eq!(&decision, &again, "a decision can be replayed");
            match &inputs.depth {
                Err(_) => prop_assert_eq!(decision.desired, from, "an unknown depth changes nothing"),
                Ok(depth) => {
                    prop_assert!((min..=min + more).contains(&decision.desired), "out of bounds: {:?}", &decision);
                    if from == 0 && depth.visible == 0 {
                        prop_assert_eq!(decision.desired, min, "woken by nothing visible");
                    }
                    if decision.desired == 0 && from > 0 {
                        prop_assert!(depth.is_idle() && inputs.busy == 0, "zero although there is work: {:?}", &decision);
                    }
                    if decision.desired < from {
                        prop_assert!(decision.desired >= inputs.busy.min(min + more), "busy workers: {:?}", &decision);
                    }
                }
            }
            prop_assert!(!decision.message.is_empty());
            (history, from) = (decision.history, decision.desired);
        }
    }
}
