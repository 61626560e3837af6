//! How many workers the messages need, before any bound.
//!
//! `queueDelaySeconds` means that every message starts within so many seconds of its arrival. With the backlog known by
//! age (see `estimate.rs`), of the messages that came by some time the last has to start at that time plus the target, so
//! for each age the work of what is as old or older must fit into what is left until then:
//!
//! `messages × service / slots ≤ ready × left + starting × (left − rest of their start) + new × (left − time to ready)`
//!
//! The fewest workers that make this true for all ages are asked for, and at least as many as keep up with what arrives:
//! `arrivals a second × service / slots`. (Not the sum: what arrives later is served later, and finds the time that
//! the backlog had.) With no workers and a backlog that came at once this is AWS's
//! backlog per instance (acceptable latency / service time) with the start taken off:
//! `backlog × service / (target − time to ready) / slots`.

use super::Rule;
use super::estimate::Waiting;

/// Fewer missing workers than this part of those that are there are noise, as for a HorizontalPodAutoscaler.
const TOLERANCE: f64 = 0.1;
/// The part of the target that is planned with; the rest is for what cannot be foreseen.
const MARGIN: f64 = 0.9;
/// The part of the target that new workers are given at least.
const LATE: f64 = 1.0 / 6.0;

/// What waits and who is there to work on it.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// Messages that can be received, and those in flight.
    pub(super) visible: i64,
    pub(super) in_flight: i64,
    /// Those in flight that are hidden until they are tried again or begun.
    pub(super) hidden: i64,
    /// Those that wait: visible, and in flight where nobody holds them and they come back.
    pub(super) backlog: f64,
    /// The backlog by age, oldest first.
    pub(super) waiting: Vec<Waiting>,
    /// Messages that arrive in a second.
    pub(super) rate: f64,
    /// Wall time that a job holds a slot, in seconds.
    pub(super) service: f64,
    /// Jobs that one worker works on at a time.
    pub(super) slots: f64,
    /// From when a worker is asked for until it is ready, in seconds.
    pub(super) ready_seconds: f64,
    /// Workers that are ready.
    pub(super) ready: i32,
    /// Workers on their way, and for how many seconds on average.
    pub(super) starting: i32,
    pub(super) starting_age: f64,
    /// Seconds since 1970.
    pub(super) now: f64,
}

/// The workers that a rule wants, before any bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Need {
    pub(super) replicas: i32,
    /// The reckoning in words.
    pub(super) words: String,
}

pub(super) fn need(rule: Rule, load: &Load) -> Need {
    match rule {
        Rule::MessagesPerReplica(messages) => messages_per_replica(messages, load),
        Rule::QueueDelay(target) => queue_delay(f64::from(target), load),
    }
}

fn messages_per_replica(messages: i32, load: &Load) -> Need {
    let Load { visible, in_flight, hidden, .. } = load;
    let total = visible.max(&0).saturating_add(*in_flight.max(&0)).saturating_sub(*hidden);
    let replicas = whole(total as f64 / f64::from(messages));
    let hidden = if *hidden > 0 { format!(" − {hidden} hidden for later") } else { String::new() };
    let words =
        format!("messagesPerReplica: ({visible} visible + {in_flight} in flight{hidden}) / {messages} = {replicas}");
    Need { replicas, words }
}

fn queue_delay(target: f64, load: &Load) -> Need {
    let Load { service, slots, ready_seconds, now, .. } = *load;
    let planned = target * MARGIN;
    let (ready, starting) = (f64::from(load.ready), f64::from(load.starting));
    let there = ready + starting;
    // Where no new worker is ready in time, or hardly, the messages are late anyway. Then this much time is given to new
    // workers and what that makes to the others, so that a backlog that is late is worked off soon, at a bounded price.
    let too_late = planned - ready_seconds < service.min(target);
    let least = service.max(if too_late { target } else { target * LATE });
    // Older messages come first, so what arrives from now on needs no more than to be kept up with.
    let mut workers = load.rate * service / slots;
    for Waiting { messages, since } in &load.waiting {
        let work = messages * service / slots;
        let by_new = (since + planned - now - ready_seconds).max(least);
        let by_ready = by_new + ready_seconds;
        // One that is late is given the time that it took longer, or every delay would ask for more of them.
        let by_starting = (by_new + load.starting_age).min((planned - ready_seconds).max(least));
        workers = workers.max(if work <= ready * by_ready {
            work / by_ready
        } else if work <= ready * by_ready + starting * by_starting {
            ready + (work - ready * by_ready) / by_starting
        } else {
            there + (work - ready * by_ready - starting * by_starting) / by_new
        });
    }
    let enough = workers > there && workers <= there * (1.0 + TOLERANCE);
    let replicas = if enough { load.ready.saturating_add(load.starting) } else { whole(workers) };
    Need { replicas, words: queue_delay_words(target, load, replicas, too_late) }
}

fn queue_delay_words(target: f64, load: &Load, replicas: i32, too_late: bool) -> String {
    let Load { service, slots, ready_seconds, rate, .. } = *load;
    let at_a_time = if slots > 1.0 { format!(", {} at a time,", brief(slots)) } else { String::new() };
    let stream = if rate > 0.0 { format!(" and {} more a minute", brief(rate * 60.0)) } else { String::new() };
    let age = load.waiting.first().map_or(0.0, |oldest| load.now - oldest.since);
    let old = if age >= 1.0 { format!("; the oldest waits for {age:.0} s") } else { String::new() };
    let new = match (replicas > load.ready, too_late) {
        (false, _) => String::new(),
        (true, false) => format!("; a new worker is ready after {} s", brief(ready_seconds)),
        (true, true) => format!(
            "; a new worker is ready after {} s, which is too late for the target (TargetBelowTimeToReady)",
            brief(ready_seconds)
        ),
    };
    format!(
        "queueDelaySeconds: {} waiting × {} s of work each{at_a_time}{stream} within {target:.0} s: {replicas}{old}{new}",
        load.backlog,
        brief(service)
    )
}

/// A number as a reader wants it: no more digits than it has to say.
pub(super) fn brief(value: f64) -> String {
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Whole workers for a need; `as` saturates, and NaN becomes 0.
fn whole(workers: f64) -> i32 {
    (workers - 1e-9).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(backlog: f64, service: f64, slots: f64, ready_seconds: f64) -> Load {
        Load {
            visible: backlog as i64,
            in_flight: 0,
            hidden: 0,
            backlog,
            waiting: vec![Waiting { messages: backlog, since: 1000.0 }],
            rate: 0.0,
            service,
            slots,
            ready_seconds,
            ready: 0,
            starting: 0,
            starting_age: 0.0,
            now: 1000.0,
        }
    }

    fn workers(target: i32, load: &Load) -> i32 {
        need(Rule::QueueDelay(target), load).replicas
    }

    #[test]
    fn from_nothing_the_start_is_taken_off_the_target() {
        // 100 jobs of 5 s in 0.9 × 60 s − 4 s = 50 s
        assert_eq!(workers(60, &load(100.0, 5.0, 1.0, 4.0)), 10);
        assert_eq!(workers(60, &load(100.0, 5.0, 4.0, 4.0)), 3);
        assert_eq!(workers(60, &load(1.0, 5.0, 1.0, 4.0)), 1);
        assert_eq!(workers(60, &load(7.0, 120.0, 1.0, 4.0)), 7, "a job that takes longer than the target: one each");
        assert_eq!(workers(60, &load(100.0, 6.0, 1.0, 300.0)), 10, "no start is in time: the target alone counts");
        assert!(need(Rule::QueueDelay(60), &load(100.0, 6.0, 1.0, 300.0)).words.contains("TargetBelowTimeToReady"));
    }

    #[test]
    fn workers_that_are_there_have_the_whole_time() {
        let there = Load { ready: 8, ..load(100.0, 5.0, 1.0, 44.0) };
        // 8 do 432 s of work in 54 s; 68 s are left for workers that have 10 s
        assert_eq!(workers(60, &there), 15);
        assert_eq!(workers(60, &Load { ready: 10, ..there.clone() }), 10);
        assert_eq!(workers(60, &Load { ready: 30, ..there }), 10);
    }

    #[test]
    fn workers_on_their_way_count_however_late_they_are() {
        for ready_seconds in [4.0, 30.0, 300.0] {
            let first = load(100.0, 5.0, 1.0, ready_seconds);
            let asked = workers(60, &first);
            for age in 1..400 {
                let age = f64::from(age);
                let later = Load { starting: asked, starting_age: age, now: first.now + age, ..first.clone() };
                assert_eq!(workers(60, &later), asked, "after {age} s of {ready_seconds}");
            }
        }
    }

    #[test]
    fn the_older_a_backlog_the_more_workers() {
        let old = |age: f64| Load { now: 1000.0 + age, ready: 1, ..load(100.0, 5.0, 1.0, 0.0) };
        assert_eq!(workers(60, &old(0.0)), 10);
        assert_eq!(workers(60, &old(29.0)), 20);
        assert_eq!(workers(60, &old(34.0)), 25);
        assert_eq!(workers(60, &old(500.0)), 50, "late is late: in a sixth of the target");
        let starting = Load { ready_seconds: 20.0, ready: 16, ..old(50.0) };
        assert_eq!(workers(60, &starting), 18, "16 have done nearly all of it before new ones are of use");
    }

    #[test]
    fn arrivals_need_workers_of_their_own() {
        let stream = Load { rate: 1.0, ready: 5, ..load(0.0, 5.0, 1.0, 10.0) };
        assert_eq!(workers(60, &stream), 5);
        assert_eq!(workers(60, &Load { rate: 2.0, ..stream.clone() }), 10);
        assert_eq!(workers(60, &Load { rate: 0.2, ..stream }), 1);
    }

    #[test]
    fn a_little_less_than_needed_is_enough() {
        let nearly = Load { ready: 10, ..load(113.0, 5.0, 1.0, 0.0) };
        assert_eq!(workers(60, &nearly), 10, "10.5 would be needed");
        assert_eq!(workers(60, &Load { ready: 10, ..load(125.0, 5.0, 1.0, 0.0) }), 12);
    }

    #[test]
    fn numbers_have_few_digits() {
        for (value, text) in [(5.0, "5"), (0.25, "0.25"), (1234.6, "1235"), (99.5, "99.5"), (0.1, "0.1")] {
            assert_eq!(brief(value), text);
        }
    }
}
