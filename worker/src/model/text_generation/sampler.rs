//! How the next token is drawn, in transformers' order: what was said before is made less likely, the logits are brought to a
//! temperature, and unlikely tokens are left out by their number, their share and their distance from the best.

use std::collections::HashSet;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::model::RunError;

/// What a token is drawn by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    /// 0 takes the likeliest.
    pub(super) temperature: f64,
    /// So many tokens at most; 0 for all.
    pub(super) top_k: usize,
    /// The likeliest tokens that have this share together.
    pub(super) top_p: f64,
    /// Tokens at least this likely, relative to the likeliest.
    pub(super) min_p: f64,
    /// Above 1 what was said before is less likely, below 1 more.
    pub(super) repetition_penalty: f64,
}

/// Draws the tokens of one text: what it draws depends on its seed and the logits alone.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    random: ChaCha12Rng,
}

impl Sampler {
    /// Of one of the texts of a seed.
    pub(super) fn new(sampling: Sampling, seed: u64, text: u64) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        random.set_stream(text);
        Self { sampling, random }
    }

    /// Draws the token that follows `said`.
    pub(super) fn draw(&mut self, mut logits: Vec<f32>, said: &[u32]) -> Result<u32, RunError> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            let message = "the logits have numbers that are not finite; model.precision: F32 or BF16 has the range that F16 lacks";
            return Err(RunError::Model(message.into()));
        }
        if (self.sampling.repetition_penalty - 1.0).abs() > f64::EPSILON {
            self.sampling.penalize(&mut logits, said);
        }
        if self.sampling.temperature == 0.0 {
            let best =
                (0..).zip(&logits).fold(
                    (0, f32::NEG_INFINITY),
                    |best, (token, logit)| {
                        if *logit > best.1 { (token, *logit) } else { best }
                    },
                );
            return Ok(best.0);
        }
        let shares = self.sampling.shares(&logits);
        let mut left = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        for (token, share) in &shares {
            left -= share;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // rounding may leave a little
        shares.last().map(|(token, _)| *token).ok_or_else(|| RunError::Model("the model knows no tokens".into()))
    }
}

impl Sampling {
    fn penalize(&self, logits: &mut [f32], said: &[u32]) {
        for token in said.iter().collect::<HashSet<_>>() {
            if let Some(logit) = logits.get_mut(*token as usize) {
                let by = self.repetition_penalty as f32;
                *logit = if *logit < 0.0 { *logit * by } else { *logit / by };
            }
        }
    }

    /// The tokens that may be drawn, with their shares, which are 1 together.
    fn shares(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weight = |logit: &f32| ((f64::from(*logit) - most) / self.temperature).exp();
        let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).collect();
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if (1..tokens.len()).contains(&self.top_k) {
            tokens.select_nth_unstable_by(self.top_k - 1, likelier);
            tokens.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
            // all that are less likely than this have less together than what is left out, and need not be sorted
            let least = (1.0 - self.top_p) * total / tokens.len() as f64;
            tokens.retain(|(_, weight)| *weight >= least);
            tokens.sort_unstable_by(likelier);
            let mut before = 0.0;
            tokens.retain(|(_, weight)| {
                let kept = before < self.top_p * total;
                before += weight;
                kept
            });
        }
        // the likeliest has 1
        tokens.retain(|(_, weight)| *weight >= self.min_p);
        // in the order of their numbers, so that what is drawn does not hang on how they were picked out
        tokens.sort_unstable_by_key(|(token, _)| *token);
        let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        tokens.into_iter().map(|(token, weight)| (token, weight / total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::model::golden;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    fn draw(sampling: Sampling, logits: &[f32], seed: u64) -> u32 {
        Sampler::new(sampling, seed, 0).draw(logits.to_vec(), &[]).unwrap()
    }

    fn greedy(logits: &[f32]) -> u32 {
        draw(Sampling { temperature: 0.0, ..PLAIN }, logits, 0)
    }

    #[test]
    fn shares_are_those_of_transformers() {
        let cases: Value = serde_json::from_str(&golden::text("generation/cases.json")).unwrap();
        let known = golden::tensors("generation/generation.safetensors");
        let logits: Vec<f32> = known["llama.0"].get(0).unwrap().to_vec1().unwrap();
        let said: Vec<u32> = serde_json::from_value(cases["prompts"][0]["tokens"].clone()).unwrap();
        for (index, case) in cases["samplers"].as_array().unwrap().iter().enumerate() {
            let number = |name: &str, or: f64| case.get(name).map_or(or, |value| value.as_f64().unwrap());
            let sampling = Sampling {
                temperature: number("temperature", 1.0),
                top_k: number("top_k", 0.0) as usize,
                top_p: number("top_p", 1.0),
                min_p: number("min_p", 0.0),
                repetition_penalty: number("repetition_penalty", 1.0),
            };
            // the goldens' are four times as far apart, for some tokens to be likelier than others
            let mut logits: Vec<f32> = logits.iter().map(|logit| logit * 4.0).collect();
            sampling.penalize(&mut logits, &said);
            let mut found = vec![0.0; logits.len()];
            for (token, share) in sampling.shares(&logits) {
                found[token as usize] = share;
            }
            let known: Vec<f32> = known[&format!("sampler.{index}")].to_vec1().unwrap();
            for (token, (found, known)) in found.iter().zip(known).enumerate() {
                assert!((found - f64::from(known)).abs() < 1e-5, "{case}, token {token}: {found}, not {known}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let draw = |logit: f32| Sampler::new(PLAIN, 0, 0).draw(vec![0.0, logit], &[]);
        assert!([f32::NAN, f32::INFINITY].into_iter().all(|logit| draw(logit).is_err()));
        assert_eq!(draw(f32::NEG_INFINITY), Ok(0), "a token may be impossible");
    }

    #[test]
    fn tokens_come_as_often_as_their_shares_say() {
        let logits = [0.0, (3.0_f32).ln()];
        let second = (0..4000).filter(|seed| draw(PLAIN, &logits, *seed) == 1).count();
        assert!((2850..3150).contains(&second), "{second} of 4000 where 3000 are right");
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-20.0_f32..20.0, 1..60)
    }

    proptest! {
        #[test]
        fn of_one_token_it_is_the_likeliest(logits in logits(), seed in any::<u64>()) {
            prop_assert_eq!(draw(Sampling { top_k: 1, ..PLAIN }, &logits, seed), greedy(&logits));
        }

        #[test]
        fn a_seed_draws_the_same_and_what_may_be_drawn(
            logits in logits(), seed in any::<u64>(), temperature in 0.01_f64..4.0, top_k in 0_usize..70,
            top_p in 0.01_f64..=1.0, min_p in 0.0_f64..=1.0,
        ) {
            let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty: 1.0 };
            let token = draw(sampling, &logits, seed);
            prop_assert_eq!(token, draw(sampling, &logits, seed));
            let shares = sampling.shares(&logits);
            prop_assert!(shares.iter().any(|(known, _)| *known == token));
            prop_assert!(shares.iter().any(|(known, _)| *known == greedy(&logits)));
            prop_assert!((shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(top_k == 0 || shares.len() <= top_k);
        }

        #[test]
        fn a_share_holds_the_fewest_tokens_that_have_it(logits in logits(), top_p in 0.01_f64..0.999) {
            let plain = PLAIN.shares(&logits);
            let mut sorted: Vec<f64> = plain.iter().map(|(_, share)| *share).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let kept = Sampling { top_p, ..PLAIN }.shares(&logits).len();
            let share = |count: usize| sorted[..count].iter().sum::<f64>();
            prop_assert!(share(kept) >= top_p - 1e-9 && share(kept - 1) < top_p + 1e-9);
        }
    }
}
