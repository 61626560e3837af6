//! What a task accepts, and whether an input and a consumer's parameters are right for it.

use serde_json::{Map, Value};

use super::field::{Field, Giver, whole_number};

/// Where a consumer's parameters stand in its spec; the prefix of their names in errors.
pub const PARAMETERS: &str = "model.parameters";

/// What a task accepts.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// The task's name.
    pub task: &'static str,
    /// What comes of a job, in Markdown.
    pub about: &'static str,
    /// Of these a job must give one. The first is what a body is that is no object.
    pub needs: &'static [Field],
    /// What they are needed for.
    pub needed: &'static str,
    /// The others.
    pub fields: &'static [Field],
    /// Whether a job may have other fields, which mean nothing to the task.
    pub open: bool,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// As whoever gave it knows it: `steps`, `texts[2]`, `model.parameters.steps`.
    pub field: String,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl FieldError {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Job,
    Consumer,
}

impl Side {
    fn place(self, name: &str) -> String {
        match self {
            Self::Job => name.to_owned(),
            Self::Consumer => format!("{PARAMETERS}.{name}"),
        }
    }
}

impl Declaration {
    /// All of its fields, those first of which a job must give one.
    pub fn all(&self) -> impl Iterator<Item = &'static Field> {
        self.needs.iter().chain(self.fields)
    }

    /// What a body is that is no object; none where such a body is as good as any.
    pub fn main(&self) -> Option<&'static Field> {
        self.needs.first()
    }

    /// Everything that is wrong with a job's fields, whose consumer has these parameters.
    pub fn check_job(&self, job: &Map<String, Value>, parameters: &Map<String, Value>) -> Vec<FieldError> {
        let mut wrong = self.wrong(job, Side::Job);
        let given = |field: &Field| find(job, field).or_else(|| find(parameters, field)).is_some();
        if let Some(main) = self.main().filter(|_| !self.needs.iter().any(given)) {
            let names: Vec<_> = self.needs.iter().skip(1).map(Field::name).collect();
            let others = if names.is_empty() { String::new() } else { format!(", or {}", names.join(", or ")) };
            wrong.push(FieldError::new(main.name(), format!("is required{others}: {}", self.needed)));
        }
        wrong
    }

    /// Everything that is wrong with a consumer's parameters.
    pub fn check_parameters(&self, parameters: &Map<String, Value>) -> Vec<FieldError> {
        self.wrong(parameters, Side::Consumer)
    }

    fn wrong(&self, map: &Map<String, Value>, side: Side) -> Vec<FieldError> {
        let known = |name: &str| self.all().any(|field| field.names.contains(&name));
        let open = self.open && side == Side::Job;
        let strays = map.keys().filter(|name| !open && !known(name));
        let strays = strays.map(|name| FieldError::new(side.place(name), self.unknown(name, side)));
        strays.chain(self.all().filter_map(|field| wrong_with(field, map, side))).collect()
    }

    fn unknown(&self, stray: &str, side: Side) -> String {
        /// Below this likeness a suggestion is more of a riddle than a help.
        const LIKE: f64 = 0.7;
        let valid = || self.all().filter(|field| side.may_give(field));
        let nearest = valid()
            .flat_map(|field| field.names)
            .map(|name| (strsim::jaro_winkler(&stray.to_lowercase(), name), name))
            .filter(|(likeness, _)| *likeness >= LIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
        let names: Vec<_> = valid().map(Field::name).collect();
        format!("unknown field{hint} (valid: {})", names.join(", "))
    }
}

impl Side {
    fn may_give(self, field: &Field) -> bool {
        match field.giver {
            Giver::Both => true,
            Giver::Job => self == Self::Job,
            Giver::Consumer(_) => self == Self::Consumer,
        }
    }
}

fn wrong_with(field: &Field, map: &Map<String, Value>, side: Side) -> Option<FieldError> {
    let mut given = said(map, field);
    let (name, value) = given.next()?;
    let place = side.place(name);
    match field.giver {
        Giver::Job if side == Side::Consumer => return Some(FieldError::new(place, "is a job's own; remove it here")),
        Giver::Consumer(why) if side == Side::Job => return Some(FieldError::new(place, why)),
        Giver::Both | Giver::Job | Giver::Consumer(_) => {}
    }
    if let Some((other, _)) = given.next() {
        let message = format!("is another name of {place}; give one of the two");
        return Some(FieldError::new(side.place(other), message));
    }
    let (entry, message) = field.kind.check(value).err()?;
    Some(FieldError::new(entry.map_or(place.clone(), |index| format!("{place}[{index}]")), message))
}

/// What a map says of a field, under any of its names. `null` reads as left out, which is how many clients write it.
fn said<'m>(map: &'m Map<String, Value>, field: &Field) -> impl Iterator<Item = (&'static str, &'m Value)> {
    let value = |name: &'static str| map.get(name).filter(|value| !value.is_null()).map(|value| (name, value));
    field.names.iter().copied().filter_map(value)
}

/// A field's name and value, where a map has it.
pub fn find<'m>(map: &'m Map<String, Value>, field: &Field) -> Option<(&'static str, &'m Value)> {
    said(map, field).next()
}

/// An integer's value: `4.0` is one too.
pub fn as_integer(value: &Value) -> Option<u64> {
    whole_number(value)
}
