//! Decisions as tables, and what holds for every sequence of inputs.

use millrace_api::ScalingTarget;
use proptest::prelude::*;

use super::super::inputs::{Failure, Pods};
use super::*;

fn scaling(min: i32, max: i32) -> ScalingSpec {
    ScalingSpec {
        min_replicas: min,
        max_replicas: max,
        target: ScalingTarget { queue_delay_seconds: None, messages_per_replica: Some(5) },
        scale_to_zero_after_seconds: 300,
        scale_down_stabilization_seconds: Some(60),
        ..ScalingSpec::default()
    }
}

/// All workers ready, in a queue read now.
fn inputs(from: i32, visible: i64, in_flight: i64) -> Inputs {
    Inputs {
        from,
        depth: Ok(Depth { visible, in_flight, delayed: 0 }),
        read_at: 0.0,
        fifo: false,
        rolling: false,
        pods: Pods { ready: from, ..Pods::default() },
        busy: 0,
        silent: 0,
        held: 0,
        slots: 1.0,
        gpu: false,
        service_prior: 1.0,
        service_seconds: None,
        running_seconds: None,
        done: std::collections::BTreeMap::new(),
        oldest_seconds: None,
        healthy: false,
        failing: None,
        blocked: false,
        floor: super::super::schedule::Floor::default(),
        grant: None,
    }
}

fn unknown(from: i32) -> Inputs {
    Inputs { depth: Err("SQS throttles".into()), ..inputs(from, 0, 0) }
}

const RULE: Rule = Rule::MessagesPerReplica(5);

fn terms(rule: Rule, scaling: &ScalingSpec) -> Terms<'_> {
    Terms { rule, scaling, lease: 120.0 }
}

/// Decides once, with no history.
fn first(scaling: &ScalingSpec, inputs: &Inputs) -> Decision {
    decide_from(&terms(RULE, scaling), inputs, &History::default(), 0.0)
}

/// Decides again and again, each decision made true; returns the counts and reasons.
fn play(scaling: &ScalingSpec, steps: &[(u32, Inputs)]) -> Vec<(i32, Reason)> {
    play_by(RULE, scaling, steps)
}

fn play_by(rule: Rule, scaling: &ScalingSpec, steps: &[(u32, Inputs)]) -> Vec<(i32, Reason)> {
    let (mut history, mut replicas) = (History::default(), None);
    let mut counts = Vec::new();
    for (second, inputs) in steps {
        let now = f64::from(*second);
        let from = replicas.unwrap_or(inputs.from);
        let pods = if inputs.pods.ready == inputs.from {
            Pods { ready: from, ..Pods::default() }
        } else {
            inputs.pods.clone()
        };
        let inputs = Inputs { from, pods, read_at: now, ..inputs.clone() };
        let decision = decide_from(&terms(rule, scaling), &inputs, &history, now);
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
    let silent = Inputs { busy: 3, silent: 2, held: 1, ..inputs(4, 0, 0) };
    let scaling = ScalingSpec { scale_down_stabilization_seconds: Some(0), ..scaling(0, 10) };
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

fn delay(inputs: &Inputs, history: &History, now: f64) -> Decision {
    decide_from(&terms(Rule::QueueDelay(60), &scaling(0, 1000)), inputs, history, now)
}

#[test]
fn queue_delay_follows_the_service_time() {
    let wanted = |service, slots, visible, in_flight, held| {
        let inputs = Inputs { service_seconds: service, slots, held, ..inputs(1, visible, in_flight) };
        delay(&inputs, &History::default(), 0.0).desired
    };
    // 1 worker has 54 s, new ones 49 s: they are ready after 5 s.
    assert_eq!(wanted(Some(6.0), 1.0, 100, 0, 0), 1 + 12);
    assert_eq!(wanted(Some(6.0), 4.0, 100, 0, 0), 1 + 2);
    assert_eq!(wanted(Some(6.0), 1.0, 90, 10, 0), 1 + 12, "in flight, and no worker has it: it comes back");
    assert_eq!(wanted(Some(6.0), 1.0, 90, 10, 10), 1 + 10, "in flight at a worker: no backlog");
    assert_eq!(wanted(None, 1.0, 120, 0, 0), 1 + 2, "one second before anything is known");
}

#[test]
fn a_measured_service_time_is_remembered_at_zero_and_over_a_restart() {
    let measured = Inputs { service_seconds: Some(30.0), ..inputs(1, 0, 0) };
    let before = delay(&measured, &History::default(), 0.0);
    let twenty = Inputs { read_at: 10.0, ..inputs(0, 20, 0) };
    let woken = delay(&twenty, &before.history, 10.0);
    assert_eq!(
        woken.desired, 14,
        "600 s of work in 44 s: they came 5 s ago on average, and 5 s go by until one is ready"
    );
    let status = millrace_api::QueueConsumerStatus {
        estimates: before.history.estimates.remembered(0.0),
        ..millrace_api::QueueConsumerStatus::default()
    };
    assert_eq!(
        delay(&twenty, &History::restored(Some(&status)), 10.0).desired,
        13,
        "and how old they are is not known"
    );
}

#[test]
fn the_time_to_ready_is_measured_once_for_each_pod() {
    let took = |from, names: &[(&str, f64)]| {
        let took = names.iter().map(|(name, took)| ((*name).to_owned(), *took)).collect();
        Inputs { pods: Pods { ready: from, took, ..Pods::default() }, ..inputs(from, 0, 1) }
    };
    let mut history = History::default();
    for (second, inputs) in
        [(0.0, took(1, &[("a", 20.0)])), (5.0, took(1, &[("a", 20.0)])), (10.0, took(2, &[("a", 20.0), ("b", 40.0)]))]
    {
        history = delay(&inputs, &history, second).history;
    }
    assert_eq!(history.estimates.remembered(10.0).unwrap().ready_seconds, Some(20.0), "of 20 and 40");
}

#[test]
fn jobs_that_run_long_tell_before_they_end() {
    let running = Inputs { running_seconds: Some(200.0), busy: 1, held: 1, ..inputs(1, 10, 1) };
    assert_eq!(delay(&running, &History::default(), 0.0).desired, 10);
}

#[test]
fn slow_starts_do_not_multiply_workers() {
    // 100 messages, starts of five minutes, a look every five seconds: nobody asks for more than at first.
    for ready_after in [60_u32, 300, 900] {
        let mut history = History::default();
        let (mut from, mut peak) = (0, 0);
        for second in (0..ready_after).step_by(5) {
            let pods = Pods { starting: from, starting_age: f64::from(second), ..Pods::default() };
            let inputs =
                Inputs { pods, read_at: f64::from(second), gpu: true, service_seconds: None, ..inputs(from, 100, 0) };
            let decision = delay(&inputs, &history, f64::from(second));
            if second == 0 {
                peak = decision.desired;
            }
            assert!(
                decision.desired <= peak,
                "{} after {second} s of {ready_after}: {}",
                decision.desired,
                decision.message
            );
            (history, from) = (decision.history, decision.desired);
        }
        assert_eq!(from, peak);
    }
}

#[test]
fn hidden_messages_hold_the_last_worker_only_until_they_must_have_come_back() {
    let hidden = inputs(1, 0, 3);
    let rule = Rule::QueueDelay(60);
    let steps: Vec<(u32, Inputs)> = (0..30).map(|n| (n * 20, hidden.clone())).collect();
    let played = play_by(rule, &scaling(0, 10), &steps);
    assert_eq!(played[8].0, 1, "160 s: the lease of 120 s and another 60 s are not over");
    assert_eq!(played.last().unwrap(), &(0, Reason::QueueEmpty));
}

#[test]
fn a_model_that_fails_every_job_gets_one_worker_and_recovers() {
    let failure = Failure { code: "ModelError".into(), message: "NaN in the output".into() };
    let failing = Inputs { failing: Some(failure), busy: 4, held: 4, ..inputs(10, 10_000, 4) };
    let scaling_up = first(&scaling(0, 10), &Inputs { from: 4, ..failing.clone() });
    assert_eq!((scaling_up.desired, scaling_up.reason), (4, Reason::JobsFailing), "no more of them at once");
    let history = first(&scaling(0, 10), &failing).history;
    let decision = decide_from(&terms(RULE, &scaling(0, 10)), &failing, &history, 61.0);
    assert_eq!((decision.desired, decision.reason, decision.wanted), (1, Reason::JobsFailing, 10));
    assert!(decision.message.contains("ModelError: NaN in the output"), "{}", decision.message);
    let forgot = decide_from(&terms(RULE, &scaling(0, 10)), &inputs(1, 10_000, 0), &decision.history, 70.0);
    assert_eq!(forgot.desired, 1, "a new worker has tried nothing yet");
    let from_zero = decide_from(&terms(RULE, &scaling(0, 10)), &inputs(0, 10_000, 0), &decision.history, 70.0);
    assert_eq!(from_zero.desired, 1);
    let over = decide_from(&terms(RULE, &scaling(0, 10)), &inputs(0, 0, 0), &decision.history, 70.0);
    assert_eq!(over.history.failing(), None, "with the last message and the last worker");
    let well = Inputs { healthy: true, ..inputs(1, 10_000, 0) };
    let well = decide_from(&terms(RULE, &scaling(0, 10)), &well, &forgot.history, 80.0);
    assert_eq!((well.desired, well.reason), (10, Reason::MaxReplicas));
    let least = decide_from(&terms(RULE, &scaling(3, 10)), &failing, &history, 61.0);
    assert_eq!(least.desired, 3, "minReplicas stays");
}

#[test]
fn workers_that_do_not_come_up_do_not_multiply() {
    let pods = |ready, starting, broken, stuck| Pods { ready, starting, stuck, broken, ..Pods::default() };
    for (pods, desired, reason) in [
        (pods(0, 0, 4, 0), 1, Reason::WorkersBroken),
        (pods(1, 0, 3, 0), 4, Reason::WorkersBroken),
        (pods(0, 2, 2, 0), 10, Reason::Rule),
        (pods(3, 0, 1, 0), 10, Reason::Rule),
        (pods(0, 4, 0, 0), 10, Reason::Rule),
        (pods(2, 0, 0, 2), 4, Reason::Unschedulable),
    ] {
        let decision = first(&scaling(0, 10), &Inputs { pods: pods.clone(), ..inputs(4, 50, 0) });
        assert_eq!((decision.desired, decision.reason), (desired, reason), "{pods:?}: {}", decision.message);
    }
}

#[test]
fn a_fifo_queue_gets_workers_as_its_groups_show() {
    let fifo = |from, held: i64, busy, blocked| Inputs {
        fifo: true,
        busy,
        held,
        blocked,
        slots: 4.0,
        ..inputs(from, 10_000, held)
    };
    // One group: the first worker has free slots.
    let one = play(
        &scaling(0, 10),
        &[(0, fifo(0, 0, 0, false)), (10, fifo(1, 1, 1, false)), (20, fifo(1, 1, 1, true)), (500, fifo(1, 1, 1, true))],
    );
    let blocked = (1, Reason::BlockedByMessageGroups);
    assert_eq!(one, [(1, Reason::ExploringMessageGroups), blocked, blocked, blocked]);
    // Many: slots are taken, so there are more.
    let many: Vec<(u32, Inputs)> = [0, 1, 2, 4, 8]
        .iter()
        .enumerate()
        .map(|(n, from)| (n as u32 * 10, fifo(*from, i64::from(*from) * 4, *from, false)))
        .collect();
    let counts = |played: &[(i32, Reason)]| played.iter().map(|(count, _)| *count).collect::<Vec<_>>();
    assert_eq!(counts(&play(&scaling(0, 10), &many)), [1, 1, 2, 4, 8], "from the second look on");
    // One group whose messages come two at a time, and a worker that could not be asked: nothing shows that there are more.
    let two = |held, silent| Inputs { slots: 2.0, silent, ..fifo(1, held, 1, false) };
    let looks = [
        (0, two(2, 0)),
        (5, two(1, 0)),
        (10, two(2, 0)),
        (13, two(2, 0)),
        (15, two(1, 0)),
        (20, two(0, 1)),
        (30, two(0, 1)),
    ];
    assert_eq!(counts(&play(&scaling(0, 10), &looks)), [1; 7]);
    // Five groups, one slot each and eight workers: three find nothing. Ten minutes later it is tried again.
    let single = |from, busy: i32, blocked| Inputs { slots: 1.0, ..fifo(from, busy.into(), busy, blocked) };
    let five = play(
        &scaling(0, 10),
        &[(0, single(8, 5, true)), (30, single(5, 5, false)), (700, single(5, 5, false)), (705, single(5, 5, false))],
    );
    assert_eq!(counts(&five), [5, 5, 5, 10]);
}

#[test]
fn a_budget_takes_away_at_once_and_more_than_minimum() {
    let grant = Some(Grant { replicas: 2, words: "its share of 8 nvidia.com/gpu is 2 workers".into() });
    let decision = first(&scaling(3, 10), &Inputs { grant, busy: 6, ..inputs(6, 50, 6) });
    assert_eq!((decision.desired, decision.wanted, decision.reason), (2, 10, Reason::BudgetLimited));
    assert!(decision.message.contains("share of 8"), "{}", decision.message);
}

#[test]
fn a_schedule_is_a_floor() {
    let floor = super::super::schedule::Floor { replicas: 4, words: "w".into(), changes_in: Some(30.0) };
    let scheduled = |from, visible| Inputs { floor: floor.clone(), ..inputs(from, visible, 0) };
    let decision = first(&scaling(0, 10), &scheduled(0, 0));
    assert_eq!((decision.desired, decision.reason), (4, Reason::Scheduled));
    assert_eq!(decision.recheck, Some(Duration::from_secs(30)));
    assert_eq!(first(&scaling(0, 3), &scheduled(0, 0)).desired, 3, "maxReplicas bounds it");
    assert_eq!(first(&scaling(0, 10), &scheduled(0, 50)).reason, Reason::Rule);
}

#[test]
fn modes_that_write_nothing() {
    let mode = |mode| ScalingSpec { mode, ..scaling(0, 10) };
    let dry = first(&mode(ScalingMode::DryRun), &inputs(0, 50, 0));
    assert_eq!((dry.desired, dry.holds(), dry.reason), (10, true, Reason::Rule));
    let paused = first(&mode(ScalingMode::Paused), &inputs(3, 50, 0));
    assert_eq!((paused.desired, paused.holds(), paused.reason), (3, true, Reason::Paused));
    assert!(!first(&mode(ScalingMode::Active), &inputs(0, 50, 0)).holds());
}

#[test]
fn the_last_worker_stays_for_as_long_as_a_start_would_cost() {
    let idle = |rule, ready_seconds: f64| {
        let took = std::collections::BTreeMap::from([("a".to_owned(), ready_seconds)]);
        let idle = Inputs { pods: Pods { ready: 1, took, ..Pods::default() }, ..inputs(1, 0, 0) };
        let (mut history, mut second) = (History::default(), 0.0);
        loop {
            let decision = decide_from(
                &terms(rule, &scaling(0, 10)),
                &Inputs { read_at: second, ..idle.clone() },
                &history,
                second,
            );
            if decision.desired == 0 {
                return (second as i32, decision.message);
            }
            (history, second) = (decision.history, second + 5.0);
        }
    };
    assert_eq!(idle(Rule::QueueDelay(60), 10.0).0, 60);
    assert_eq!(idle(Rule::QueueDelay(600), 100.0).0, 100);
    let (late, words) = idle(Rule::QueueDelay(60), 100.0);
    assert_eq!(late, 300, "a start would miss the target");
    assert!(words.contains("would miss the target"), "{words}");
    assert_eq!(idle(RULE, 10.0).0, 300);
}

prop_compose! {
    fn any_inputs()(
        visible in prop_oneof![Just(0_i64), 0..200_i64],
        in_flight in prop_oneof![Just(0_i64), 0..50_i64],
        known in prop::bool::weighted(0.9),
        rolling in prop::bool::weighted(0.1),
        busy in 0..5_i32,
        service in prop::option::of(0.01..100.0_f64),
        done in 0..1000_u64,
        age in prop::option::of(0.0..500.0_f64),
        ready in 0..20_i32,
        stuck in prop_oneof![Just(0), 0..3_i32],
        broken in prop_oneof![Just(0), 0..3_i32],
        flags in (prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>()),
        grant in prop::option::weighted(0.2, 0..12_i32),
    ) -> Inputs {
        let depth = if known { Ok(Depth { visible, in_flight, delayed: 0 }) } else { Err("unknown".into()) };
        let (fifo, failing, blocked, healthy) = flags;
        Inputs {
            depth,
            rolling,
            busy,
            held: i64::from(busy),
            slots: 2.0,
            service_seconds: service,
            done: std::collections::BTreeMap::from([("a".to_owned(), done)]),
            oldest_seconds: age,
            pods: Pods { ready, stuck, broken, ..Pods::default() },
            fifo,
            blocked: blocked && fifo,
            healthy: healthy && !failing,
            failing: failing.then(|| Failure { code: "ModelError".into(), message: "m".into() }),
            grant: grant.map(|replicas| Grant { replicas, words: "w".into() }),
            ..inputs(0, 0, 0)
        }
    }
}

fn at(inputs: Inputs, from: i32, now: f64) -> Inputs {
    let ready = inputs.pods.ready.min(from);
    let rest = from - ready;
    let (stuck, broken) = (inputs.pods.stuck.min(rest), inputs.pods.broken.min((rest - inputs.pods.stuck).max(0)));
    let pods = Pods { ready, stuck, broken, starting: (rest - stuck - broken).max(0), ..inputs.pods };
    Inputs { from, busy: inputs.busy.min(ready), pods, read_at: now, ..inputs }
}

proptest! {
    #[test]
    fn what_holds_for_every_sequence(
        min in 0..5_i32,
        more in 1..20_i32,
        start in 0..30_i32,
        delay in any::<bool>(),
        steps in prop::collection::vec((1..400_u32, any_inputs()), 1..60),
    ) {
        let rule = if delay { Rule::QueueDelay(60) } else { RULE };
        let scaling = scaling(min, min + more);
        let terms = terms(rule, &scaling);
        let (mut now, mut history, mut from) = (0.0, History::default(), start);
        for (pause, step) in steps {
            now += f64::from(pause);
            let inputs = at(step, from, now);
            let decision = decide_from(&terms, &inputs, &history, now);
            // What was written down gives the same again.
            let written: Inputs = serde_json::from_str(&serde_json::to_string(&inputs).unwrap()).unwrap();
            let remembered: History = serde_json::from_str(&serde_json::to_string(&history).unwrap()).unwrap();
            let again = decide_from(&terms, &written, &remembered, now);
            prop_assert_eq!((again.desired, again.reason), (decision.desired, decision.reason), "a decision can be replayed");
            match &inputs.depth {
                Err(_) => prop_assert_eq!(decision.desired, from, "an unknown depth changes nothing"),
                Ok(depth) => {
                    let least = if decision.reason == Reason::BudgetLimited || inputs.grant.is_some() { 0 } else { min };
                    prop_assert!((least..=min + more).contains(&decision.desired), "out of bounds: {:?}", &decision);
                    if let Some(grant) = &inputs.grant {
                        prop_assert!(decision.desired <= grant.replicas, "more than the budget leaves: {:?}", &decision);
                    }
                    if from == 0 && depth.visible == 0 {
                        prop_assert!(decision.desired <= min, "woken by nothing visible");
                    }
                    if decision.desired == 0 && from > 0 && inputs.grant.is_none() {
                        prop_assert!(depth.visible == 0 && inputs.busy == 0, "zero although there is work: {:?}", &decision);
                    }
                    let taken = inputs.grant.is_some() || inputs.blocked || decision.history.failing.is_some() || decision.reason == Reason::WorkersBroken
                        || decision.history.groups_until.is_some();
                    if decision.desired < from && !taken {
                        prop_assert!(decision.desired >= at_work(&inputs).min(min + more), "busy workers: {:?}", &decision);
                    }
                    if inputs.fifo {
                        // There, messages that no group is free for do not count.
                        (history, from) = (decision.history, decision.desired);
                        continue;
                    }
                    let mut deeper = inputs.clone();
                    deeper.depth = Ok(Depth { visible: depth.visible + 10, ..*depth });
                    let deeper = decide_from(&terms, &deeper, &history, now);
                    prop_assert!(deeper.desired >= decision.desired, "fewer for more messages: {} and {}", &decision.message, &deeper.message);
                }
            }
            prop_assert!(!decision.message.is_empty());
            (history, from) = (decision.history, decision.desired);
        }
    }

    #[test]
    fn a_constant_world_gives_a_constant_count(
        visible in 0..500_i64,
        busy in 0..10_i32,
        service in 0.1..100.0_f64,
        delay in any::<bool>(),
        start in 0..30_i32,
    ) {
        let rule = if delay { Rule::QueueDelay(60) } else { RULE };
        let scaling = scaling(0, 20);
        let (mut history, mut from, mut counts) = (History::default(), start, Vec::new());
        for second in (0..3000).step_by(5) {
            let now = f64::from(second);
            let step = Inputs { service_seconds: Some(service), busy, ..inputs(from, visible, busy.into()) };
            let decision = decide_from(&terms(rule, &scaling), &at(step, from, now), &history, now);
            (history, from) = (decision.history, decision.desired);
            counts.push(from);
        }
        let changes: Vec<i32> = counts.windows(2).map(|pair| (pair[1] - pair[0]).signum()).filter(|sign| *sign != 0).collect();
        let turns = changes.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(turns <= 1, "it goes up and down: {:?}", counts);
        prop_assert_eq!(counts[counts.len() / 2], counts[counts.len() - 1], "it comes to rest");
    }
}
