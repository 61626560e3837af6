//! queue.mapping: where job id, input, route and priority lie in messages of somebody else's form.

use std::str::FromStr;

use millrace_api::{BodyFormat, MappingSpec, QueueSpec};
use serde_json::{Map, Value};

use super::envelope::integer;
use super::input::{Inputs, as_foreign_input, kind};
use super::{Form, JobHead, id};
use crate::message::Message;
use crate::model::InvalidInput;

/// Most names that an error lists.
const MAX_NAMES: usize = 20;

/// Where the parts of a job lie.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    job_id: Option<Place>,
    input: Option<Place>,
    route: Option<Place>,
    priority: Option<Place>,
}

/// Where one part lies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A message attribute.
    Attribute(String),
    /// RFC 6901, into the body.
    Pointer(String),
}

/// What a message has at the mapped places.
#[derive(Debug, Default)]
pub struct Mapped {
    job_id: Option<(String, String)>,
    route: Option<String>,
    priority: Option<i64>,
    /// Of the one job that the message is, where its input is mapped.
    pub input: Option<Inputs>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        match text.strip_prefix("attribute:") {
            Some(name) if !name.is_empty() && name.chars().all(named) => Ok(Self::Attribute(name.into())),
            None if text.starts_with('/') && escapes_are_known(text) => Ok(Self::Pointer(text.into())),
            _ => Err(format!("must be attribute:NAME or a JSON pointer such as /payload/id, is {text:?}")),
        }
    }
}

/// A JSON pointer writes `~` as `~0` and `/` within a name as `~1`.
fn escapes_are_known(pointer: &str) -> bool {
    pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

impl Place {
    fn text(&self) -> String {
        match self {
            Self::Attribute(name) => format!("attribute:{name}"),
            Self::Pointer(pointer) => pointer.clone(),
        }
    }

    /// What lies there; null is as good as nothing.
    fn find(&self, message: &Message, body: Option<&Value>) -> Option<Value> {
        match self {
            Self::Attribute(name) => message.attributes.get(name).map(|text| Value::from(text.as_str())),
            Self::Pointer(pointer) => body?.pointer(pointer).filter(|value| !value.is_null()).cloned(),
        }
    }

    /// What is there instead of an input that is missing.
    fn missing(&self, message: &Message, body: Option<&Value>) -> InvalidInput {
        let there = match (self, body) {
            (Self::Attribute(_), _) if message.attributes.is_empty() => "the message has no attributes".into(),
            (Self::Attribute(_), _) => format!("the message has the attributes {}", names(message.attributes.keys())),
            (Self::Pointer(_), None) => "the body is not a JSON object".into(),
            (Self::Pointer(pointer), Some(body)) => as_far_as_it_leads(body, pointer),
        };
        let message = format!("is missing: queue.mapping.input says that the input is there, but {there}");
        InvalidInput::field(self.text(), message)
    }

    /// The body's fields without what lies there.
    fn rest_of(&self, mut body: Value) -> Map<String, Value> {
        if let Self::Pointer(pointer) = self
            && let Some((parent, name)) = pointer.rsplit_once('/')
            && let Some(Value::Object(parent)) = body.pointer_mut(parent)
        {
            parent.remove(&name.replace("~1", "/").replace("~0", "~"));
        }
        match body {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// What is at the longest part of a pointer that leads somewhere.
fn as_far_as_it_leads(body: &Value, pointer: &str) -> String {
    let mut parts = std::iter::successors(Some(pointer), |path| path.rsplit_once('/').map(|(shorter, _)| shorter));
    let found = parts.find_map(|path| Some((path, body.pointer(path)?)));
    let (path, value) = found.unwrap_or(("", body));
    let place = if path.is_empty() { "the body" } else { path };
    match value {
        Value::Object(fields) if fields.is_empty() => format!("{place} is empty"),
        Value::Object(fields) => format!("{place} has {}", names(fields.keys())),
        Value::Array(list) => format!("{place} is a list of {}", list.len()),
        other => format!("{place} is {}", kind(other)),
    }
}

fn names<'k>(keys: impl ExactSizeIterator<Item = &'k String>) -> String {
    let left_out = keys.len().saturating_sub(MAX_NAMES);
    let more = if left_out > 0 { format!(" and {left_out} more") } else { String::new() };
    let listed: Vec<&str> = keys.take(MAX_NAMES).map(String::as_str).collect();
    format!("{}{more}", listed.join(", "))
}

impl Mapping {
    /// The mapping of a queue; else every problem of it, with its field.
    pub fn new(queue: &QueueSpec) -> Result<Self, Vec<String>> {
        let MappingSpec { job_id, input, route, priority } = &queue.mapping;
        let mut problems = Vec::new();
        let mut place = |field: &str, text: &Option<String>| {
            let place =
                text.as_deref()?.parse::<Place>().map_err(|e| problems.push(format!("queue.mapping.{field}: {e}")));
            let place = place.ok()?;
            if queue.body_format == BodyFormat::Text && matches!(place, Place::Pointer(_)) {
                problems.push(format!(
                    "queue.mapping.{field}: a JSON pointer needs queue.bodyFormat Auto or Json, not Text"
                ));
            }
            Some(place)
        };
        let mapping = Self {
            job_id: place("jobId", job_id),
            input: place("input", input),
            route: place("route", route),
            priority: place("priority", priority),
        };
        if problems.is_empty() { Ok(mapping) } else { Err(problems) }
    }

    /// What a message has at the mapped places. Only a mapped input must be there: the rest is as if it were not mapped.
    pub fn read(&self, message: &Message, body: Option<&Value>, head: &mut JobHead) -> Result<Mapped, InvalidInput> {
        let found = |place: &Option<Place>| {
            let place = place.as_ref()?;
            Some((place.text(), place.find(message, body)?))
        };
        let word = |place: &Option<Place>| match found(place) {
            None => Ok(None),
            Some((at, Value::String(text))) => Ok(Some((at, text))),
            Some((at, Value::Number(number))) => Ok(Some((at, number.to_string()))),
            Some((at, other)) => {
                Err(InvalidInput::field(at, format!("must be a text or a number, is {}", kind(&other))))
            }
        };
        let mut mapped = Mapped { job_id: word(&self.job_id)?, ..Mapped::default() };
        // a job that is refused by the rest is recorded under its name
        mapped.name(head)?;
        mapped.route = word(&self.route)?.map(|(_, route)| route);
        mapped.priority = found(&self.priority).map(|(at, value)| priority(&at, &value)).transpose()?;
        if let Some(place) = &self.input {
            head.form = Form::Mapped;
            let input = place.find(message, body).ok_or_else(|| place.missing(message, body))?;
            mapped.input = Some(Inputs::one(as_foreign_input(&place.text(), input)?));
            head.metadata = match body {
                Some(body) => place.rest_of(body.clone()),
                None => Map::from_iter([("body".to_owned(), message.body.as_str().into())]),
            };
        }
        Ok(mapped)
    }
}

/// An attribute is always text.
fn priority(at: &str, value: &Value) -> Result<i64, InvalidInput> {
    match value {
        Value::String(text) => text.trim().parse().or_else(|_| integer(at, value)),
        _ => integer(at, value),
    }
}

impl Mapped {
    /// Whether the message names its one job.
    pub fn names_job(&self) -> bool {
        self.job_id.is_some()
    }

    /// Gives a job the mapped id.
    fn name(&self, head: &mut JobHead) -> Result<(), InvalidInput> {
        self.job_id.as_ref().map_or(Ok(()), |(at, job_id)| id::take(head, at, job_id))
    }

    /// What is mapped overrules what the body's own form says; an id that it overrules is kept as metadata.
    pub fn overrule(&self, head: &mut JobHead) -> Result<(), InvalidInput> {
        let own = head.raw_id.clone();
        self.name(head)?;
        if self.names_job() && own != head.raw_id {
            head.metadata.entry("job_id").or_insert(own.into());
        }
        head.route = self.route.clone().or_else(|| head.route.take());
        head.priority = self.priority.unwrap_or(head.priority);
        Ok(())
    }
}
