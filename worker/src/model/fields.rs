//! Reads a task's fields from a job's JSON object over the consumer's defaults, with errors in the producer's own words.
//!
//! Both maps are read by the same rules, so a default that a job could not say is found when the worker starts.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Input, InvalidInput};

/// Where a consumer's defaults stand in its spec; the prefix of their names in errors.
pub(super) const DEFAULTS: &str = "model.parameters";

/// Above this, a JSON number written as a float no longer names one integer.
const LARGEST_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Names of one field: the first is the one that messages use, the others are accepted for it.
pub type Names = &'static [&'static str];

/// The fields of one input. Ask for each field once, then [`Fields::finish`].
#[derive(Debug)]
pub struct Fields<'a> {
    job: Cow<'a, Map<String, Value>>,
    /// The main field, where it is given twice: as the argument of a call and by name.
    twice: Option<String>,
    defaults: &'a Map<String, Value>,
    asked: Vec<Names>,
}

/// A value that was found, and its name as whoever gave it knows it.
struct Found<'a> {
    name: String,
    value: &'a Value,
}

impl<'a> Fields<'a> {
    /// The fields of a job's input. A text is the field `main`.
    pub fn new(input: &'a Input, main: &str, defaults: &'a Map<String, Value>) -> Self {
        let with_main = |text: &str, fields: &Map<String, Value>| {
            let mut fields = fields.clone();
            let replaced = fields.insert(main.to_owned(), text.into());
            (Cow::Owned(fields), replaced.map(|_| main.to_owned()))
        };
        let (job, twice) = match input {
            Input::Object(object) => (Cow::Borrowed(object), None),
            Input::Text(text) => with_main(text, &Map::new()),
            Input::Call { text, fields } => with_main(text, fields),
        };
        Self { job, twice, defaults, asked: Vec::new() }
    }

    /// The defaults alone, as a job that says nothing would meet them.
    pub fn of_defaults(defaults: &'a Map<String, Value>) -> Self {
        Self { job: Cow::Owned(Map::new()), twice: None, defaults, asked: Vec::new() }
    }

    /// A text.
    pub fn text(&mut self, names: Names) -> Result<Option<String>, InvalidInput> {
        self.parsed(names, |text| Ok(text.to_owned()))
    }

    /// A text that `parse` understands, or says why it does not.
    pub fn parsed<T>(
        &mut self,
        names: Names,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        self.read(names, |value| match value {
            Value::String(text) => parse(text),
            other => Err(format!("must be a text, not {}", describe(other))),
        })
    }

    /// Any value that `parse` understands, or says why it does not; it may call on [`describe`].
    pub fn value<T>(
        &mut self,
        names: Names,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        self.read(names, parse)
    }

    /// The same, of a field that a consumer's defaults cannot have.
    pub fn value_of_the_job<T>(
        &mut self,
        names: Names,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        self.not_by_default(names)?;
        self.read(names, parse)
    }

    /// As [`Fields::parsed`], of a field that a consumer's defaults cannot have: it is another one for every job.
    pub fn of_the_job<T>(
        &mut self,
        names: Names,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        self.not_by_default(names)?;
        self.parsed(names, parse)
    }

    /// A list of texts, of a field that a consumer's defaults cannot have.
    pub fn texts_of_the_job(&mut self, names: Names) -> Result<Option<Vec<String>>, InvalidInput> {
        self.not_by_default(names)?;
        self.read(names, |value| {
            let list = value.as_array().ok_or_else(|| format!("must be a list of texts, not {}", describe(value)))?;
            let one = |(index, value): (usize, &Value)| match value {
                Value::String(text) => Ok(text.clone()),
                other => Err(format!("must be a list of texts; entry {index} is {}", describe(other))),
            };
            list.iter().enumerate().map(one).collect()
        })
    }

    fn not_by_default(&self, names: Names) -> Result<(), InvalidInput> {
        match find(self.defaults, names, &format!("{DEFAULTS}."))? {
            Some(Found { name, .. }) => Err(InvalidInput::field(name, "is a job's own; remove it here")),
            None => Ok(()),
        }
    }

    /// An integer within `range`; `4.0` is one too.
    pub fn integer(&mut self, names: Names, range: RangeInclusive<u64>) -> Result<Option<u64>, InvalidInput> {
        self.read(names, |value| integer(value, &range))
    }

    /// An integer within `range` that is a multiple of `step`.
    pub fn multiple(
        &mut self,
        names: Names,
        range: RangeInclusive<u64>,
        step: u64,
    ) -> Result<Option<u64>, InvalidInput> {
        self.read(names, |value| {
            let number = integer(value, &range)?;
            if number.is_multiple_of(step) {
                return Ok(number);
            }
            let below = (number - number % step).max(*range.start());
            let above = (number - number % step + step).min(*range.end());
            Err(format!("must be a multiple of {step}, not {number}; the nearest are {below} and {above}"))
        })
    }

    /// A number within `range`.
    pub fn number(&mut self, names: Names, range: RangeInclusive<f64>) -> Result<Option<f64>, InvalidInput> {
        self.read(names, |value| match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(refuse("a number", &range, value)),
        })
    }

    /// Yes or no.
    pub fn flag(&mut self, names: Names) -> Result<Option<bool>, InvalidInput> {
        self.read(names, |value| {
            value.as_bool().ok_or_else(|| format!("must be true or false, not {}", describe(value)))
        })
    }

    /// A field that only a consumer's defaults may have, as what it says is done when the model is loaded; `why` is what
    /// a job is told.
    pub fn of_the_model(&mut self, names: Names, why: &str) -> Result<(), InvalidInput> {
        self.asked.push(names);
        match find(&self.job, names, "")? {
            Some(Found { name, .. }) => Err(InvalidInput::field(name, why)),
            None => find(self.defaults, names, &format!("{DEFAULTS}.")).map(|_| ()),
        }
    }

    /// Whether the job itself has a field, and not its consumer's defaults.
    pub fn says(&self, names: Names) -> bool {
        self.said(names).is_some()
    }

    /// What the job calls a field; its first name where the job does not have it.
    pub fn named(&self, names: Names) -> &'static str {
        self.said(names).or(names.first().copied()).unwrap_or_default()
    }

    fn said(&self, names: Names) -> Option<&'static str> {
        names.iter().copied().find(|name| self.job.get(*name).is_some_and(|value| !value.is_null()))
    }

    /// Refuses every field that was not asked for, in the job and in the defaults.
    pub fn finish(self) -> Result<(), InvalidInput> {
        if let Some(main) = self.twice {
            return Err(InvalidInput::field(main, "is given twice: as the argument and by name"));
        }
        let unknown = |map: &Map<String, Value>, prefix: &str| {
            let stray = map.keys().find(|key| !self.asked.iter().any(|names| names.contains(&key.as_str())))?;
            Some(InvalidInput::field(format!("{prefix}{stray}"), self.unknown_message(stray)))
        };
        match unknown(&self.job, "").or_else(|| unknown(self.defaults, &format!("{DEFAULTS}."))) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn unknown_message(&self, stray: &str) -> String {
        /// Below this likeness a suggestion is more of a riddle than a help.
        const LIKE: f64 = 0.7;
        let valid: Vec<_> = self.asked.iter().filter_map(|names| names.first().copied()).collect();
        let nearest = self
            .asked
            .iter()
            .flat_map(|names| names.iter())
            .map(|name| (strsim::jaro_winkler(&stray.to_lowercase(), name), name))
            .filter(|(likeness, _)| *likeness >= LIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
        format!("unknown field{hint} (valid: {})", valid.join(", "))
    }

    fn read<T>(
        &mut self,
        names: Names,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        self.asked.push(names);
        let found = match find(&self.job, names, "")? {
            Some(found) => Some(found),
            None => find(self.defaults, names, &format!("{DEFAULTS}."))?,
        };
        found
            .map(|Found { name, value }| parse(value).map_err(|message| InvalidInput::field(name, message)))
            .transpose()
    }
}

/// Finds a field under any of its names. `null` reads as left out, which is how many clients write it.
fn find<'m>(map: &'m Map<String, Value>, names: Names, prefix: &str) -> Result<Option<Found<'m>>, InvalidInput> {
    let mut given = names.iter().filter_map(|name| map.get(*name).filter(|v| !v.is_null()).map(|value| (*name, value)));
    let Some((name, value)) = given.next() else { return Ok(None) };
    match given.next() {
        Some((other, _)) => Err(InvalidInput::field(
            format!("{prefix}{other}"),
            format!("is another name of {prefix}{name}; give one of the two"),
        )),
        None => Ok(Some(Found { name: format!("{prefix}{name}"), value })),
    }
}

fn integer(value: &Value, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let whole = |float: f64| float.fract() == 0.0 && (0.0..=LARGEST_EXACT_FLOAT).contains(&float);
    let number = value.as_u64().or_else(|| value.as_f64().filter(|float| whole(*float)).map(|float| float as u64));
    number.filter(|number| range.contains(number)).ok_or_else(|| refuse("an integer", range, value))
}

fn refuse(kind: &str, range: &RangeInclusive<impl Display>, value: &Value) -> String {
    let quotes = match value {
        Value::String(text) if text.trim().parse::<f64>().is_ok() => " (remove the quotes)",
        _ => "",
    };
    format!("must be {kind} from {} to {}, not {}{quotes}", range.start(), range.end(), describe(value))
}

/// A value as an error shows it: small ones as they are, others by kind.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() <= 40 => format!("the text {value}"),
        Value::String(_) => "a long text".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The fields of a JSON object, for tests of what reads them.
#[cfg(test)]
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is not an object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Read {
        prompt: Option<String>,
        steps: Option<u64>,
        width: Option<u64>,
        scale: Option<f64>,
        seed: Option<u64>,
    }

    fn read(mut fields: Fields) -> Result<Read, InvalidInput> {
        let read = Read {
            prompt: fields.text(&["prompt"])?,
            steps: fields.integer(&["steps", "num_inference_steps"], 1..=150)?,
            width: fields.multiple(&["width"], 64..=2048, 8)?,
            scale: fields.number(&["guidance_scale"], 0.0..=50.0)?,
            seed: fields.integer(&["seed"], 0..=u64::MAX)?,
        };
        fields.finish().map(|()| read)
    }

    fn job(value: Value, defaults: Value) -> Result<Read, InvalidInput> {
        read(Fields::new(&Input::Object(object(value)), "prompt", &object(defaults)))
    }

    #[test]
    fn each_bad_field_says_what_is_right() {
        let cases = [
            (json!({"steps": 0}), "steps: must be an integer from 1 to 150, not 0"),
            (json!({"steps": 4.5}), "steps: must be an integer from 1 to 150, not 4.5"),
            (json!({"steps": -1}), "steps: must be an integer from 1 to 150, not -1"),
            (
                json!({"steps": "20"}),
                "steps: must be an integer from 1 to 150, not the text \"20\" (remove the quotes)",
            ),
            (json!({"num_inference_steps": 151}), "num_inference_steps: must be an integer from 1 to 150, not 151"),
            (
                json!({"steps": 1, "num_inference_steps": 1}),
                "num_inference_steps: is another name of steps; give one of the two",
            ),
            (json!({"width": 100}), "width: must be a multiple of 8, not 100; the nearest are 96 and 104"),
            (json!({"width": 32}), "width: must be an integer from 64 to 2048, not 32"),
            (json!({"guidance_scale": 51}), "guidance_scale: must be a number from 0 to 50, not 51"),
            (json!({"guidance_scale": true}), "guidance_scale: must be a number from 0 to 50, not true"),
            (json!({"prompt": 7}), "prompt: must be a text, not 7"),
            (json!({"prompt": ["a"]}), "prompt: must be a text, not a list"),
            (
                json!({"promt": "a cat"}),
                "promt: unknown field; did you mean prompt? (valid: prompt, steps, width, guidance_scale, seed)",
            ),
            (json!({"zzz": 1}), "zzz: unknown field (valid: prompt, steps, width, guidance_scale, seed)"),
            (json!({"seed": 1e30}), "seed: must be an integer from 0 to 18446744073709551615, not 1e+30"),
        ];
        for (input, message) in cases {
            let error = job(input.clone(), json!({})).unwrap_err();
            assert_eq!(error.to_string(), message, "{input}");
        }
    }

    #[test]
    fn a_job_overrides_the_defaults_under_any_name() {
        let read = job(json!({"num_inference_steps": 4.0}), json!({"steps": 30, "width": 512})).unwrap();
        assert_eq!(read, Read { steps: Some(4), width: Some(512), ..Read::default() });
    }

    #[test]
    fn null_is_left_out() {
        let read = job(json!({"steps": null, "num_inference_steps": 3}), json!({"width": null})).unwrap();
        assert_eq!(read, Read { steps: Some(3), ..Read::default() });
    }

    #[test]
    fn the_largest_seed_is_exact() {
        let read = job(json!({"seed": u64::MAX}), json!({})).unwrap();
        assert_eq!(read.seed, Some(u64::MAX));
    }

    #[test]
    fn a_text_is_the_main_field() {
        let input = Input::Text("a cat".into());
        let read = read(Fields::new(&input, "prompt", &Map::new())).unwrap();
        assert_eq!(read.prompt.as_deref(), Some("a cat"));
    }

    #[test]
    fn a_call_is_the_main_field_and_others() {
        let call = |fields| Input::Call { text: "a cat".into(), fields: object(fields) };
        let (good, twice) = (call(json!({"steps": 3})), call(json!({"prompt": "a dog"})));
        let wanted = Read { prompt: Some("a cat".into()), steps: Some(3), ..Read::default() };
        assert_eq!(read(Fields::new(&good, "prompt", &Map::new())).unwrap(), wanted);
        let error = read(Fields::new(&twice, "prompt", &Map::new())).unwrap_err();
        assert_eq!(error.to_string(), "prompt: is given twice: as the argument and by name");
    }

    #[test]
    fn some_fields_are_the_models_alone() {
        let read = |job: Value, defaults: Value| {
            let (job, defaults) = (Input::Object(object(job)), object(defaults));
            let mut fields = Fields::new(&job, "prompt", &defaults);
            let (says, flag) = (fields.says(&["raw"]), fields.flag(&["raw"])?);
            fields.of_the_model(&["lora"], "is merged when the model is loaded")?;
            fields.finish().map(|()| (says, flag))
        };
        assert_eq!(read(json!({"raw": true}), json!({"lora": []})), Ok((true, Some(true))));
        assert_eq!(read(json!({"raw": null}), json!({"raw": false})), Ok((false, Some(false))));
        let error = read(json!({"lora": []}), json!({})).unwrap_err();
        assert_eq!(error.to_string(), "lora: is merged when the model is loaded");
        let error = read(json!({"raw": 1}), json!({})).unwrap_err();
        assert_eq!(error.to_string(), "raw: must be true or false, not 1");
    }

    #[test]
    fn bad_defaults_are_named_where_they_stand() {
        let cases = [
            (json!({"steps": "4"}), "model.parameters.steps: must be an integer from 1 to 150"),
            (json!({"guidance": 1}), "model.parameters.guidance: unknown field; did you mean guidance_scale?"),
            (
                json!({"steps": 1, "num_inference_steps": 1}),
                "model.parameters.num_inference_steps: is another name of model.parameters.steps",
            ),
        ];
        for (defaults, start) in cases {
            let error = read(Fields::of_defaults(&object(defaults))).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
