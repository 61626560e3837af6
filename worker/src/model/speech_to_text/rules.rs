//! Which token may follow: the marks of a model, and what Whisper's authors ask of timestamps.

use std::collections::BTreeMap;

use crate::model::RunError;

/// Tokens that are no text.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    /// Begins a text.
    pub(super) start: u32,
    /// Ends it. All tokens before it are text.
    pub(super) end: u32,
    /// By code (`en`); none where the model knows one language alone.
    pub(super) languages: BTreeMap<String, u32>,
    /// None where it does nothing but write down what it hears.
    pub(super) transcribe: Option<u32>,
    pub(super) translate: Option<u32>,
    /// A text without times. The next token is the time 0, and each one after it 20 ms later.
    pub(super) no_times: u32,
    /// Before what a text goes on with.
    pub(super) previous: Option<u32>,
    /// Never written.
    pub(super) suppress: Vec<u32>,
    /// Not written first.
    pub(super) suppress_first: Vec<u32>,
    /// The latest time that a text may begin at, in 20 ms.
    pub(super) latest_first: Option<u32>,
}

impl Marks {
    /// The time 0.
    pub(super) fn zero(&self) -> u32 {
        self.no_times + 1
    }

    /// The likeliest token that may follow `written`, by the logits of all tokens.
    pub(super) fn next(&self, mut logits: Vec<f32>, written: &[u32], timed: bool) -> Result<u32, RunError> {
        let mut forbid = |token: u32| {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        };
        self.suppress.iter().copied().for_each(&mut forbid);
        if written.is_empty() {
            self.suppress_first.iter().copied().for_each(&mut forbid);
        }
        if timed {
            self.hold_times(&mut logits, written);
        } else if let Some(times) = logits.get_mut(self.zero() as usize..) {
            times.fill(f32::NEG_INFINITY);
        }
        likeliest(&logits)
    }

    /// The likeliest language.
    pub(super) fn language(&self, logits: &[f32]) -> Option<String> {
        let likely = |(_, token): &(&String, &u32)| logits.get(**token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        self.languages.iter().max_by(|a, b| likely(a).total_cmp(&likely(b))).map(|(code, _)| code.clone())
    }

    /// Times come in pairs but for the first and the last, never earlier than the one before; one that ends a part may be that at
    /// which the next begins.
    fn hold_times(&self, logits: &mut [f32], written: &[u32]) {
        let (zero, end) = (self.zero(), self.end);
        let mut forbid = |tokens: std::ops::Range<u32>| {
            let until = (tokens.end as usize).min(logits.len());
            let from = (tokens.start as usize).min(until);
            logits[from..until].fill(f32::NEG_INFINITY);
        };
        forbid(self.no_times..zero);
        let is_time = |token: &u32| *token >= zero;
        let last_is = written.last().is_some_and(is_time);
        let before_is = written.len() < 2 || written.get(written.len() - 2).is_some_and(is_time);
        match (last_is, before_is) {
            (true, true) => forbid(zero..u32::MAX),
            (true, false) => forbid(0..end),
            (false, _) => {}
        }
        if let Some(last) = written.iter().rev().find(|token| is_time(token)) {
            forbid(zero..if last_is && !before_is { *last } else { last + 1 });
        }
        if written.is_empty() {
            forbid(0..zero);
            if let Some(latest) = self.latest_first {
                forbid(zero.saturating_add(latest).saturating_add(1)..u32::MAX);
            }
        }
        // a time is due where all of them together are likelier than the likeliest other token
        let (others, times) = logits.split_at_mut((zero as usize).min(logits.len()));
        let most = |of: &[f32]| of.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (other, highest) = (most(others), most(times));
        let together = highest + times.iter().map(|time| (time - highest).exp()).sum::<f32>().ln();
        if together > other {
            others.fill(f32::NEG_INFINITY);
        }
    }
}

fn likeliest(logits: &[f32]) -> Result<u32, RunError> {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    match best {
        Some((token, logit)) if logit.is_finite() => Ok(token as u32),
        _ => Err(RunError::Model("the model's numbers are none (NaN): try model.precision: F32".into())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Texts 0 to 9, the end, the start, two languages, two tasks, what came before, no times, and times from 17 on.
    pub(in crate::model::speech_to_text) fn marks() -> Marks {
        Marks {
            start: 11,
            end: 10,
            languages: BTreeMap::from([("de".into(), 12), ("en".into(), 13)]),
            transcribe: Some(14),
            translate: Some(15),
            no_times: 16,
            previous: None,
            suppress: vec![9],
            suppress_first: vec![8, 10],
            latest_first: Some(2),
        }
    }

    fn next(likely: &[(usize, f32)], written: &[u32], timed: bool) -> u32 {
        let mut logits = vec![-9.0; 23];
        for (token, logit) in likely {
            logits[*token] = *logit;
        }
        marks().next(logits, written, timed).unwrap()
    }

    #[test]
    fn what_is_suppressed_is_not_written() {
        assert_eq!(next(&[(9, 5.0), (3, 1.0)], &[], false), 3);
        assert_eq!(next(&[(8, 5.0), (3, 1.0)], &[], false), 3);
        assert_eq!(next(&[(8, 5.0), (3, 1.0)], &[3], false), 8);
        assert_eq!(next(&[(19, 5.0), (3, 1.0)], &[3], false), 3, "nobody asked for times");
    }

    #[test]
    fn times_come_in_pairs_and_in_order() {
        // a text begins with a time, and not too late
        assert_eq!(next(&[(3, 5.0), (18, 1.0)], &[], true), 18);
        assert_eq!(next(&[(21, 5.0), (18, 1.0)], &[], true), 18);
        // after the first one comes text
        assert_eq!(next(&[(19, 5.0), (3, 1.0)], &[18], true), 3);
        // no time goes back, and none is the same where it ends a part
        assert_eq!(next(&[(17, 5.0), (18, 4.0), (20, 3.0), (3, -5.0)], &[18, 3], true), 20);
        // one that ended a part is followed by one that begins the next, the same or a later one, or by the end
        assert_eq!(next(&[(3, 5.0), (18, 4.0), (19, 3.0)], &[17, 3, 19], true), 19);
        assert_eq!(next(&[(3, 5.0), (10, 4.0)], &[17, 3, 19], true), 10);
        assert_eq!(next(&[(20, 5.0), (3, 1.0)], &[17, 3, 19, 19], true), 3);
        assert_eq!(next(&[(16, 5.0), (3, 1.0)], &[17, 4], true), 3);
    }

    #[test]
    fn times_that_are_likely_together_win() {
        let times: Vec<(usize, f32)> = (18..23).map(|token| (token, 1.0)).collect();
        let with = |other: f32| [&times[..], &[(3, other)]].concat();
        assert_eq!(next(&with(2.0), &[17, 4], true), 22, "five times e are more than e squared");
        assert_eq!(next(&with(2.7), &[17, 4], true), 3);
    }

    #[test]
    fn a_language_is_the_likeliest_of_those_that_are_known() {
        let mut logits = vec![0.0; 23];
        (logits[3], logits[12], logits[13]) = (9.0, 1.0, 2.0);
        assert_eq!(marks().language(&logits).as_deref(), Some("en"));
    }

    #[test]
    fn numbers_that_are_none_are_an_error() {
        assert!(marks().next(vec![f32::NAN; 23], &[], false).is_err());
        assert!(marks().next(Vec::new(), &[], true).is_err());
    }
}
