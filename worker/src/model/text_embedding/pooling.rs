//! From the states of a text's tokens to one vector, after sentence-transformers' `Pooling`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported, within};

/// How the states become a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The first token's.
    Cls,
    /// The largest of each number.
    Max,
    Mean,
    /// The sum by the root of the count.
    MeanSqrtLength,
    /// The mean, in which token i (from 1) counts i times.
    WeightedMean,
    LastToken,
}

/// The modes in the order in which their vectors are put side by side, as today's folders call them and as others did.
const MODES: [(&str, &str, Mode); 6] = [
    ("cls", "pooling_mode_cls_token", Mode::Cls),
    ("max", "pooling_mode_max_tokens", Mode::Max),
    ("mean", "pooling_mode_mean_tokens", Mode::Mean),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", Mode::MeanSqrtLength),
    ("weightedmean", "pooling_mode_weightedmean_tokens", Mode::WeightedMean),
    ("lasttoken", "pooling_mode_lasttoken", Mode::LastToken),
];

/// The pooling of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pooling {
    modes: Vec<Mode>,
    /// Whether the tokens of a prompt count.
    pub(super) with_prompt: bool,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(alias = "word_embedding_dimension")]
    embedding_dimension: Option<usize>,
    pooling_mode: Option<Named>,
    #[serde(default = "yes")]
    include_prompt: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    One(String),
    Several(Vec<String>),
}

fn yes() -> bool {
    true
}

impl Pooling {
    /// That of a folder which does not say: the mean.
    pub(super) fn mean() -> Self {
        Self { modes: vec![Mode::Mean], with_prompt: true }
    }

    /// Reads the pooling in `component`, of an encoder of this width.
    pub(super) fn read(folder: &Folder, component: &str, width: usize) -> Result<Self, LoadError> {
        let file = within(component, "config.json");
        let raw: Value = folder.json(&file)?;
        let old: Vec<Mode> = MODES
            .into_iter()
            .filter(|(_, old, _)| raw.get(old).and_then(Value::as_bool) == Some(true))
            .map(|(.., mode)| mode)
            .collect();
        let config: Config = serde_json::from_value(raw).map_err(|error| corrupt(&file, &error.to_string()))?;
        if let Some(other) = config.embedding_dimension.filter(|other| *other != width) {
            return Err(corrupt(&file, &format!("it pools {other} numbers where the encoder gives {width}")));
        }
        let named = |name: &String| {
            let mode = MODES.iter().find(|(today, ..)| today == name).map(|(.., mode)| *mode);
            mode.ok_or_else(|| {
                let known = MODES.map(|(today, ..)| today).join(", ");
                unsupported(&file, &format!("pooling_mode {name} is not supported; {known} are"))
            })
        };
        let modes = match &config.pooling_mode {
            Some(Named::One(name)) => vec![named(name)?],
            Some(Named::Several(names)) => names.iter().map(named).collect::<Result<_, _>>()?,
            None if old.is_empty() => vec![Mode::Mean],
            None => old,
        };
        if modes.is_empty() {
            return Err(corrupt(&file, "pooling_mode names nothing"));
        }
        Ok(Self { modes, with_prompt: config.include_prompt })
    }

    /// Numbers of a vector, of an encoder of this width.
    pub(super) fn outputs(&self, width: usize) -> usize {
        self.modes.len() * width
    }

    /// The vector of a text: `states` are its tokens' rows of `width` numbers, of which the first `skipped` do not count.
    pub(super) fn pool(&self, states: &[f32], width: usize, skipped: usize, into: &mut Vec<f32>) {
        let rows = || states.chunks_exact(width).enumerate().skip(skipped);
        let count = rows().count() as f32;
        let weighted = |weight: &dyn Fn(usize) -> f32, by: f32| {
            let mut sums = vec![0.0_f32; width];
            for (place, row) in rows() {
                let weight = weight(place);
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * weight);
            }
            sums.into_iter().map(move |sum| sum / by)
        };
        for mode in &self.modes {
            match mode {
                Mode::Cls => into.extend(rows().next().into_iter().flat_map(|(_, row)| row)),
                Mode::LastToken => into.extend(rows().last().into_iter().flat_map(|(_, row)| row)),
                Mode::Max => {
                    let mut largest = vec![f32::NEG_INFINITY; width];
                    for (_, row) in rows() {
                        largest.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value));
                    }
                    into.extend(largest);
                }
                Mode::Mean => into.extend(weighted(&|_| 1.0, count)),
                Mode::MeanSqrtLength => into.extend(weighted(&|_| 1.0, count.sqrt())),
                Mode::WeightedMean => {
                    let all = rows().map(|(place, _)| (place + 1) as f32).sum();
                    into.extend(weighted(&|place| (place + 1) as f32, all));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<Pooling, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::write(dir.path().join("1_Pooling/config.json"), config.to_string()).unwrap();
        Pooling::read(&Folder::open(dir.path(), None).unwrap(), "1_Pooling", 2)
    }

    /// Three tokens of two numbers.
    const STATES: [f32; 6] = [1.0, -4.0, 2.0, 8.0, 6.0, -1.0];

    fn pooled(modes: &[&str], skipped: usize) -> Vec<f32> {
        let mut vector = Vec::new();
        read(&json!({"pooling_mode": modes})).unwrap().pool(&STATES, 2, skipped, &mut vector);
        vector
    }

    #[test]
    fn each_mode_is_what_it_says() {
        assert_eq!(pooled(&["cls"], 0), [1.0, -4.0]);
        assert_eq!(pooled(&["lasttoken"], 0), [6.0, -1.0]);
        assert_eq!(pooled(&["max"], 0), [6.0, 8.0]);
        assert_eq!(pooled(&["mean"], 0), [3.0, 1.0]);
        assert_eq!(pooled(&["mean_sqrt_len_tokens"], 0), [9.0 / 3_f32.sqrt(), 3.0 / 3_f32.sqrt()]);
        assert_eq!(pooled(&["weightedmean"], 0), [23.0 / 6.0, 9.0 / 6.0]);
        assert_eq!(pooled(&["mean", "cls"], 0), [3.0, 1.0, 1.0, -4.0]);
    }

    #[test]
    fn a_prompt_that_does_not_count_is_skipped_and_keeps_its_places() {
        assert_eq!(pooled(&["cls"], 1), [2.0, 8.0]);
        assert_eq!(pooled(&["mean"], 1), [4.0, 3.5]);
        assert_eq!(pooled(&["weightedmean"], 1), [22.0 / 5.0, 13.0 / 5.0]);
    }

    #[test]
    fn old_and_new_words_mean_the_same() {
        let old = json!({
            "word_embedding_dimension": 2, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true,
            "pooling_mode_max_tokens": false, "include_prompt": false,
        });
        let new = json!({"embedding_dimension": 2, "pooling_mode": ["cls", "mean"], "include_prompt": false});
        assert_eq!(read(&old).unwrap(), read(&new).unwrap());
        assert_eq!(read(&json!({})).unwrap(), Pooling::mean());
        for (config, wanted) in [
            (json!({"pooling_mode": "median"}), "pooling_mode median is not supported"),
            (json!({"embedding_dimension": 3}), "it pools 3 numbers where the encoder gives 2"),
            (json!({"pooling_mode": []}), "names nothing"),
        ] {
            let error = read(&config).unwrap_err();
            assert!(error.message.contains(wanted) && error.message.starts_with("1_Pooling/config.json"), "{error}");
        }
    }
}
