//! Estimators as tables: what they make of readings, and that one odd sample changes little.

use super::*;

fn arrivals(readings: &[(f64, f64, u64)]) -> Arrivals {
    let mut arrivals = Arrivals::default();
    for (at, total, done) in readings {
        arrivals.done(*done);
        arrivals.read(*at, *total, 0.0, 600.0);
    }
    arrivals
}

#[test]
fn a_median_is_not_moved_by_one_odd_sample() {
    let mut samples = Samples::<5>::default();
    assert_eq!(samples.median(), None);
    for value in [20.0, 21.0, 900.0, 22.0, f64::NAN, 19.0] {
        samples.add(value);
    }
    assert_eq!(samples.median(), Some(21.0));
    assert_eq!(samples.at_most(21.0), (5, 3));
    for _ in 0..5 {
        samples.add(60.0);
    }
    assert_eq!(samples.median(), Some(60.0), "but by all of them");
}

#[test]
fn steady_arrivals_are_seen_through_the_work_that_is_done() {
    // 2 messages a second come, all of them are done at once: the queue's count never moves.
    let steady: Vec<_> = (0..20).map(|n| (f64::from(n) * 10.0, 5.0, if n == 0 { 0 } else { 20 })).collect();
    assert_eq!(arrivals(&steady).rate(190.0), Some(2.0));
    // The same without work: the queue grows.
    let growing: Vec<_> = (0..20).map(|n| (f64::from(n) * 10.0, 5.0 + 20.0 * f64::from(n), 0)).collect();
    assert_eq!(arrivals(&growing).rate(190.0), Some(2.0));
}

#[test]
fn a_burst_is_no_rate_and_a_count_that_lags_is_no_arrival() {
    let burst: Vec<_> = (0..12).map(|n| (f64::from(n) * 10.0, if n < 5 { 0.0 } else { 500.0 }, 0)).collect();
    assert_eq!(arrivals(&burst).rate(110.0), Some(0.0));
    let lagging = arrivals(&[(0.0, 100.0, 0), (5.0, 80.0, 0), (10.0, 100.0, 0), (15.0, 60.0, 0), (20.0, 100.0, 0)]);
    assert_eq!(lagging.curve.back().map(|point| point.1), Some(100.0));
    assert_eq!(lagging.rate(20.0), Some(0.0));
}

#[test]
fn a_rate_is_remembered_until_there_are_readings_enough() {
    let remembered =
        Remembered { arrivals_per_minute: Some(30.0), service_seconds: Some(-1.0), ..Remembered::default() };
    let mut estimates = Estimates::restored(&remembered);
    assert_eq!(estimates.service, None, "nonsense is not believed");
    estimates.arrivals.read(0.0, 0.0, 0.0, 600.0);
    assert_eq!(estimates.arrivals.rate(0.0), Some(0.5));
    assert_eq!(estimates.arrivals.rate(151.0), None, "but not for ever");
    for n in 1..=3 {
        estimates.arrivals.read(f64::from(n) * 10.0, 10.0 * f64::from(n), 0.0, 600.0);
    }
    assert_eq!(estimates.arrivals.rate(30.0), Some(1.0));
}

#[test]
fn the_backlog_is_known_by_its_age() {
    // 100 come at once, 10 more later; 60 were done since.
    let arrivals = arrivals(&[(0.0, 0.0, 0), (10.0, 100.0, 0), (20.0, 90.0, 10), (40.0, 60.0, 40)]);
    let waiting = arrivals.waiting(60.0, 41.0);
    assert_eq!(
        waiting,
        [Waiting { messages: 50.0, since: 5.0 }, Waiting { messages: 60.0, since: 32.5 }],
        "50 of those that came by 10 s are left, and 10 that came between 25 and 40 s"
    );
    assert!(arrivals.waiting(0.0, 41.0).is_empty());
    assert_eq!(Arrivals::default().waiting(7.0, 3.0), [Waiting { messages: 7.0, since: 3.0 }]);
}

#[test]
fn what_was_there_at_the_first_reading_is_as_old_as_workers_say() {
    let mut arrivals = Arrivals::default();
    arrivals.read(100.0, 30.0, 45.0, 600.0);
    assert_eq!(arrivals.waiting(30.0, 101.0), [Waiting { messages: 30.0, since: 55.0 }]);
}

#[test]
fn the_curve_stays_small() {
    let mut arrivals = Arrivals::default();
    for n in 0..10_000 {
        arrivals.read(f64::from(n), f64::from(n), 0.0, 1e9);
    }
    assert!(arrivals.curve.len() <= CURVE_POINTS && arrivals.steps.len() <= 151, "{}", arrivals.curve.len());
    let mut idle = Arrivals::default();
    for n in 0..1000 {
        idle.read(f64::from(n) * 10.0, 0.0, 0.0, 600.0);
    }
    assert!(idle.curve.len() <= 2, "{}", idle.curve.len());
}

#[test]
fn the_service_time_follows_what_is_done() {
    let mut estimates = Estimates::default();
    let mut learn = |service: Option<f64>, done: &[(&str, u64)]| {
        let done: BTreeMap<String, u64> = done.iter().map(|(name, done)| ((*name).to_owned(), *done)).collect();
        let there = done.keys().cloned().chain(service.is_none().then(|| "a".to_owned())).collect();
        let new = estimates.learn(&Reported { service, done: &done, there: &there });
        (new, estimates.service.map(|s| (s * 10.0).round() / 10.0))
    };
    assert_eq!(learn(None, &[]), (0, None));
    assert_eq!(learn(Some(10.0), &[("a", 3)]), (3, Some(10.0)));
    assert_eq!(learn(Some(20.0), &[("a", 3)]), (0, Some(10.0)), "nothing was done, so nothing is learnt");
    assert_eq!(learn(Some(20.0), &[("a", 4), ("b", 9)]), (10, Some(12.6)));
    assert_eq!(learn(None, &[]).0, 0, "one that does not answer is not forgotten");
    assert_eq!(learn(Some(20.0), &[("a", 4)]).0, 0);
    assert_eq!(learn(Some(20.0), &[("a", 2)]), (2, Some(13.1)), "restarted, and another gone");
    assert_eq!(learn(Some(20.0), &[("a", 2000)]), (1998, Some(20.0)));
}

#[test]
fn two_digits_are_kept() {
    for (value, kept) in [(0.0, 0.0), (123.4, 120.0), (0.012_34, 0.012), (5.0, 5.0), (0.96, 0.96), (99.9, 100.0)] {
        assert!((two_digits(value) - kept).abs() < 1e-9, "{value}: {}", two_digits(value));
    }
}

#[test]
fn a_job_s_first_guess_is_its_task_s() {
    let prior = |model: serde_json::Value| service_prior(&serde_json::from_value(model).unwrap());
    for (model, seconds) in [
        (serde_json::json!({ "task": "Echo" }), 1.0),
        (serde_json::json!({ "task": "Echo", "parameters": { "milliseconds": 5000 } }), 5.0),
        (serde_json::json!({ "task": "Echo", "parameters": { "milliseconds": 0 } }), 0.05),
        (serde_json::json!({ "task": "TextToImage" }), 3.0),
        (serde_json::json!({ "task": "TextEmbedding" }), 0.1),
        (serde_json::json!({ "task": "TextGeneration" }), 5.0),
        (serde_json::json!({ "task": "SpeechToText" }), 5.0),
    ] {
        assert!((prior(model.clone()) - seconds).abs() < 1e-9, "{model}");
    }
}
