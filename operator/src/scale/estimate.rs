//! What is measured while a queue is worked on: the service time of a job, the time until a new worker is ready, how fast
//! messages arrive and for how long they stay away. Each estimator takes a bounded number of samples, begins with a
//! stated prior, and survives a restart of the operator in `status.estimates`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millrace_api::{Estimates as Remembered, ModelSpec, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Service time of a picture before any worker reported one, in seconds: at 1024 pixels and 20 to 50 steps SDXL takes 0.4 s
/// on an H100 and 6 s on an A100 (MLPerf Inference 5.1; diffusers).
const PICTURE: f64 = 3.0;
/// And of a text that becomes a vector: twelve layers of 768 take a CPU so long for 128 tokens, and a GPU much less.
const TEXT: f64 = 0.1;
/// And of an answer: 200 tokens of a model of seven thousand million parameters take a GPU so long.
const ANSWER: f64 = 5.0;
/// And of a job of which nothing is known.
const UNKNOWN: f64 = 1.0;
/// No job takes less, in seconds.
const SHORTEST: f64 = 0.05;
/// From when a pod is asked for until its worker is ready, before any was seen: with a GPU, and without.
const READY_PRIOR: (f64, f64) = (30.0, 5.0);
/// Weight that a job keeps in the estimate of the service time for each job done after it.
const SERVICE_MEMORY: f64 = 0.97;
/// How far back arrivals count for their rate, in seconds.
const RATE_WINDOW: f64 = 150.0;
/// Fewest readings in it that make a rate.
const RATE_SAMPLES: usize = 3;
/// Most points of the curve of arrivals that are kept.
const CURVE_POINTS: usize = 64;
/// What came between two readings came halfway, but not longer than half of this before the second.
const LONGEST_STEP: f64 = 15.0;
/// A reading weighs no more than so many seconds, or one after a long sleep would be the median by itself.
const HEAVIEST_STEP: f64 = 30.0;
/// A start that took longer than this says nothing about the next one, in seconds.
const LONGEST_START: f64 = 1800.0;

/// Service time of a job before any worker reported one, in seconds. A low guess starts few workers, whose first reports
/// correct it; a high one would start GPUs for nothing.
pub(super) fn service_prior(model: &ModelSpec) -> f64 {
    match model.task {
        Task::TextToImage => PICTURE,
        Task::TextEmbedding => TEXT,
        Task::TextGeneration | Task::SpeechToText => ANSWER,
        Task::Echo => {
            let told = model.parameters.get("milliseconds").and_then(Value::as_f64);
            told.map_or(UNKNOWN, |milliseconds| (milliseconds / 1e3).max(SHORTEST))
        }
        Task::Http | Task::Custom => UNKNOWN,
    }
}

/// Of a job of which nothing is known: what decisions were made from that do not say it.
pub(super) fn unknown_service() -> f64 {
    UNKNOWN
}

/// The last few measurements of one thing; their median counts, so that one odd one changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples<const N: usize>(VecDeque<f64>);

impl<const N: usize> Samples<N> {
    fn restored(value: Option<f64>) -> Self {
        Self(value.filter(|value| value.is_finite() && *value >= 0.0).into_iter().collect())
    }

    pub(super) fn add(&mut self, value: f64) {
        if value.is_finite() && value >= 0.0 {
            self.0.push_back(value);
            if self.0.len() > N {
                self.0.pop_front();
            }
        }
    }

    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().checked_sub(1)? / 2).copied()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied()
    }

    /// How many samples there are, and how many of them are at most `limit`.
    pub(super) fn at_most(&self, limit: f64) -> (usize, usize) {
        (self.0.len(), self.0.iter().filter(|value| **value <= limit).count())
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimates {
    /// Wall time that a job holds a slot, in seconds.
    pub(super) service: Option<f64>,
    /// From when a pod is asked for until its worker is ready, in seconds.
    pub(super) ready: Samples<5>,
    /// From when the queue fell silent until the next message came, in seconds.
    pub(super) gaps: Samples<8>,
    /// What arrived when.
    pub(super) arrivals: Arrivals,
    /// Jobs done by each worker, as it last said.
    done: BTreeMap<String, u64>,
}

/// What workers say now.
pub(super) struct Reported<'a> {
    /// Wall time that a job holds a slot, in seconds.
    pub(super) service: Option<f64>,
    /// Jobs done by each worker since it started.
    pub(super) done: &'a BTreeMap<String, u64>,
    /// All workers that are there.
    pub(super) there: &'a BTreeSet<String>,
}

impl Estimates {
    /// As a status remembers them.
    pub(crate) fn restored(remembered: &Remembered) -> Self {
        let positive = |value: Option<f64>| value.filter(|value| value.is_finite() && *value > 0.0);
        Self {
            service: positive(remembered.service_seconds),
            ready: Samples::restored(remembered.ready_seconds.filter(|took| *took <= LONGEST_START)),
            gaps: Samples::restored(remembered.gap_seconds),
            arrivals: Arrivals {
                restored: positive(remembered.arrivals_per_minute).map(|rate| rate / 60.0),
                ..Arrivals::default()
            },
            done: BTreeMap::new(),
        }
    }

    /// For a status: to two digits, so that it does not change with every job.
    pub(crate) fn remembered(&self, now: f64) -> Option<Remembered> {
        let remembered = Remembered {
            service_seconds: self.service.map(two_digits),
            ready_seconds: self.ready.median().map(two_digits),
            arrivals_per_minute: self.arrivals.rate(now).map(|rate| two_digits(rate * 60.0)),
            gap_seconds: self.gaps.median().map(two_digits),
        };
        (remembered != Remembered::default()).then_some(remembered)
    }

    /// Seconds until a worker that is asked for now is ready.
    pub(super) fn ready_seconds(&self, with_gpu: bool) -> f64 {
        let prior = if with_gpu { READY_PRIOR.0 } else { READY_PRIOR.1 };
        self.ready.median().unwrap_or(prior)
    }

    /// A worker became ready after so many seconds.
    pub(super) fn started(&mut self, took: f64) {
        if took <= LONGEST_START {
            self.ready.add(took);
        }
    }

    /// Takes what workers say, and says how many jobs were done since the last time.
    pub(super) fn learn(&mut self, reported: &Reported<'_>) -> u64 {
        let first = self.done.is_empty();
        // One that did not answer this time is not forgotten, or its whole life would count as new when it does.
        self.done.retain(|worker, _| reported.there.contains(worker));
        let mut new = 0_u64;
        for (worker, done) in reported.done {
            new += match self.done.insert(worker.clone(), *done) {
                // A worker whose count fell was restarted.
                Some(before) if before <= *done => done - before,
                _ => *done,
            };
        }
        if let Some(service) = reported.service {
            self.service = Some(match self.service {
                Some(before) if !first => {
                    let keep = SERVICE_MEMORY.powf(new.min(10_000) as f64);
                    before * keep + service * (1.0 - keep)
                }
                // Workers already report a mean of many jobs, which says more than what a former operator wrote down.
                _ => service,
            });
        }
        new
    }
}

/// A number to two significant digits.
pub(crate) fn two_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(1.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// What arrived when, reckoned from readings of the queue and from jobs done in between: arrivals are what the queue
/// holds more than before plus what was taken from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    /// (when a reading was made, messages that had arrived by then). Rising; of equal counts the first and last.
    curve: VecDeque<(f64, f64)>,
    /// (when a reading was made, seconds since the one before, messages that arrived in them).
    steps: VecDeque<(f64, f64, f64)>,
    /// Arrived in all, as reckoned: approximate counts may make it fall for a moment.
    level: f64,
    /// When the queue was read last, what it held, and jobs done by then.
    last: Option<(f64, f64)>,
    /// Jobs done since the last reading.
    done: f64,
    /// Messages in a second, from before a restart, and until when that counts.
    restored: Option<f64>,
    restored_until: f64,
}

/// Some waiting messages, and until when the last of them has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Waiting {
    /// How many wait that came at `since` or before.
    pub(super) messages: f64,
    /// When the youngest of them came, about: seconds since 1970.
    pub(super) since: f64,
}

impl Arrivals {
    /// So many jobs were done.
    pub(super) fn done(&mut self, jobs: u64) {
        self.done += jobs as f64;
    }

    /// A reading: the queue held `total` messages at `at`. Of those that it held at the first reading the oldest is
    /// `age` seconds old. Arrivals older than `keep` seconds are forgotten one by one.
    pub(super) fn read(&mut self, at: f64, total: f64, age: f64, keep: f64) {
        let Some((before, held)) = self.last else {
            self.curve.push_back((at - age.max(0.0), 0.0));
            self.curve.push_back((at, total));
            (self.level, self.last, self.done) = (total, Some((at, total)), 0.0);
            self.restored_until = at + RATE_WINDOW;
            return;
        };
        if at <= before {
            return;
        }
        let came = total - held + self.done;
        (self.last, self.done) = (Some((at, total)), 0.0);
        self.level += came;
        self.steps.push_back((at, at - before, came));
        while self.steps.front().is_some_and(|(then, ..)| at - then > RATE_WINDOW) {
            self.steps.pop_front();
        }
        let highest = self.curve.back().map_or(0.0, |point| point.1);
        // A count that fell and comes back is no arrival.
        let arrived = self.level.max(highest);
        let flat = self.curve.len() >= 2 && self.curve[self.curve.len() - 2].1 >= arrived;
        match self.curve.back_mut() {
            Some(last) if flat => last.0 = at,
            _ => self.curve.push_back((at, arrived)),
        }
        while self.curve.len() > 2 && (self.curve.len() > CURVE_POINTS || at - self.curve[1].0 > keep) {
            self.curve.pop_front();
        }
    }

    /// The backlog by age: for each reading, how many of `backlog` waiting messages had come by then, oldest first.
    /// SQS gives older messages first, more or less, so those that wait are the last that came.
    pub(super) fn waiting(&self, backlog: f64, now: f64) -> Vec<Waiting> {
        let Some((_, arrived)) = self.curve.back() else {
            return vec![Waiting { messages: backlog, since: now }];
        };
        let mut waiting = Vec::with_capacity(self.curve.len());
        let mut before = self.curve.front().map_or(now, |point| point.0);
        for (index, (at, level)) in self.curve.iter().enumerate() {
            let messages = backlog - (arrived - level);
            if messages > waiting.last().map_or(0.0, |older: &Waiting| older.messages) {
                // The first two points hold what was there at the first reading, whose age was told.
                let since = if index <= 1 { before } else { f64::midpoint(before.max(at - LONGEST_STEP), *at) };
                waiting.push(Waiting { messages, since });
            }
            before = *at;
        }
        waiting
    }

    /// Messages in a second: the median of the last minutes' readings, each weighted by its time. A single burst is
    /// part of the backlog, and says nothing about what comes next.
    pub(super) fn rate(&self, now: f64) -> Option<f64> {
        let mut rates: Vec<(f64, f64)> = self
            .steps
            .iter()
            .filter(|(at, ..)| now - at <= RATE_WINDOW)
            .map(|(_, took, came)| (came.max(0.0) / took, took.min(HEAVIEST_STEP)))
            .collect();
        if rates.len() < RATE_SAMPLES {
            return self.restored.filter(|_| now < self.restored_until);
        }
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = rates.iter().map(|rate| rate.1).sum::<f64>() / 2.0;
        let mut weight = 0.0;
        let middle = rates.iter().find(|rate| {
            weight += rate.1;
            weight >= half
        });
        middle.map(|rate| rate.0)
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
