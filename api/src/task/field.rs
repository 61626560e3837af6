//! One field of a task's input: its names, what it accepts, and who may give it.

use std::fmt::Display;

use serde_json::Value;

/// One field. The job's own wins over the consumer's `model.parameters`.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The first is the one that messages use; the others are accepted for it.
    pub names: &'static [&'static str],
    /// What it accepts.
    pub kind: Kind,
    /// Who may give it.
    pub giver: Giver,
    /// What it is, in Markdown.
    pub about: &'static str,
    /// What holds where nobody gives it, in Markdown.
    pub default: &'static str,
}

/// Who may give a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Giver {
    /// A job, and for jobs that do not their consumer, in `model.parameters`.
    Both,
    /// A job alone: it is another one for each.
    Job,
    /// `model.parameters` alone; this is what a job is told that gives it.
    Consumer(&'static str),
}

/// What a field accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A text of up to so many bytes.
    Text {
        /// In bytes of UTF-8.
        most: usize,
    },
    /// From 1 to so many texts.
    Texts {
        /// Texts.
        most: usize,
        /// Bytes of each.
        longest: usize,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// An integer, `4.0` included.
    Integer {
        /// The least that is accepted.
        least: u64,
        /// The most that is accepted.
        most: u64,
        /// Of which it is a multiple.
        step: u64,
    },
    /// A number.
    Number {
        /// The least that is accepted.
        least: f64,
        /// The most that is accepted.
        most: f64,
    },
    /// True or false.
    Flag,
    /// Bytes: base64, a `data:` URL or `s3://bucket/key`.
    File,
    /// What only the task itself can judge; this says in words what it is.
    Other(&'static str),
}

/// Above this, a JSON number written as a float no longer names one integer.
const LARGEST_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// What is wrong with a value: of which entry, where it is a list, and what would be right.
pub(super) type Wrong = (Option<usize>, String);

impl Field {
    /// A field that anyone may give, without a default.
    pub const fn new(names: &'static [&'static str], kind: Kind, about: &'static str) -> Self {
        Self { names, kind, giver: Giver::Both, about, default: "" }
    }

    /// A text.
    pub const fn text(names: &'static [&'static str], most: usize, about: &'static str) -> Self {
        Self::new(names, Kind::Text { most }, about)
    }

    /// One of some words.
    pub const fn word(names: &'static [&'static str], words: &'static [&'static str], about: &'static str) -> Self {
        Self::new(names, Kind::Word(words), about)
    }

    /// An integer from `least` to `most`.
    pub const fn integer(names: &'static [&'static str], least: u64, most: u64, about: &'static str) -> Self {
        Self::new(names, Kind::Integer { least, most, step: 1 }, about)
    }

    /// A number from `least` to `most`.
    pub const fn number(names: &'static [&'static str], least: f64, most: f64, about: &'static str) -> Self {
        Self::new(names, Kind::Number { least, most }, about)
    }

    /// True or false.
    pub const fn flag(names: &'static [&'static str], about: &'static str) -> Self {
        Self::new(names, Kind::Flag, about)
    }

    /// Bytes, which a job alone can give.
    pub const fn file(names: &'static [&'static str], about: &'static str) -> Self {
        Self::new(names, Kind::File, about).of_the_job()
    }

    /// The same, with what holds where nobody gives it.
    #[must_use]
    pub const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// The same, for a job alone.
    #[must_use]
    pub const fn of_the_job(self) -> Self {
        Self { giver: Giver::Job, ..self }
    }

    /// The same, for `model.parameters` alone, as `why` tells a job that gives it.
    #[must_use]
    pub const fn of_the_consumer(self, why: &'static str) -> Self {
        Self { giver: Giver::Consumer(why), ..self }
    }

    /// The name that messages use.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

impl Kind {
    /// Whether a value is right.
    pub(super) fn check(self, value: &Value) -> Result<(), Wrong> {
        match (self, value) {
            (Self::Text { most }, Value::String(text)) => bounded(text, most).map_err(whole),
            (Self::Texts { most, longest }, Value::Array(list)) => texts(list, most, longest),
            (Self::Texts { .. }, _) => Err(whole(format!("must be a list of texts, not {}", describe(value)))),
            (Self::Word(words), Value::String(word)) => one_of(words, word).map_err(whole),
            (Self::Integer { least, most, step }, _) => integer(value, least, most, step).map_err(whole),
            (Self::Number { least, most }, _) => match value.as_f64() {
                Some(number) if (least..=most).contains(&number) => Ok(()),
                _ => Err(whole(refuse("a number", least, most, value))),
            },
            (Self::Flag, Value::Bool(_)) | (Self::File, Value::String(_)) | (Self::Other(_), _) => Ok(()),
            (Self::Flag, _) => Err(whole(format!("must be true or false, not {}", describe(value)))),
            (Self::Text { .. } | Self::Word(_) | Self::File, _) => {
                Err(whole(format!("must be a text, not {}", describe(value))))
            }
        }
    }
}

fn whole(message: String) -> Wrong {
    (None, message)
}

fn bounded(text: &str, most: usize) -> Result<(), String> {
    match text.len() {
        length if length > most => Err(format!("has {length} bytes; at most {most} are read")),
        _ => Ok(()),
    }
}

fn texts(list: &[Value], most: usize, longest: usize) -> Result<(), Wrong> {
    if !(1..=most).contains(&list.len()) {
        return Err(whole(format!("must have from 1 to {most} texts, not {}", list.len())));
    }
    for (index, entry) in list.iter().enumerate() {
        match entry {
            Value::String(text) => bounded(text, longest).map_err(|message| (Some(index), message))?,
            other => return Err(whole(format!("must be a list of texts; entry {index} is {}", describe(other)))),
        }
    }
    Ok(())
}

fn one_of(words: &[&str], word: &str) -> Result<(), String> {
    if words.contains(&word) {
        return Ok(());
    }
    match words {
        [all @ .., last] if !all.is_empty() => Err(format!("must be {} or {last}, not {word}", all.join(", "))),
        _ => Err(format!("must be {}, not {word}", words.join(", "))),
    }
}

/// A value as an integer: `4.0` is one too.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    let whole = |float: f64| float.fract() == 0.0 && (0.0..=LARGEST_EXACT_FLOAT).contains(&float);
    value.as_u64().or_else(|| value.as_f64().filter(|float| whole(*float)).map(|float| float as u64))
}

fn integer(value: &Value, least: u64, most: u64, step: u64) -> Result<(), String> {
    let number = whole_number(value).filter(|number| (least..=most).contains(number));
    let number = number.ok_or_else(|| refuse("an integer", least, most, value))?;
    if number.is_multiple_of(step) {
        return Ok(());
    }
    let below = (number - number % step).max(least);
    let above = (number - number % step + step).min(most);
    Err(format!("must be a multiple of {step}, not {number}; the nearest are {below} and {above}"))
}

fn refuse(kind: &str, least: impl Display, most: impl Display, value: &Value) -> String {
    let quotes = match value {
        Value::String(text) if text.trim().parse::<f64>().is_ok() => " (remove the quotes)",
        _ => "",
    };
    format!("must be {kind} from {least} to {most}, not {}{quotes}", describe(value))
}

/// A value as an error shows it: small ones as they are, others by kind.
pub fn describe(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() <= 40 => format!("the text {value}"),
        Value::String(_) => "a long text".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
