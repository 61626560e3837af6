//! Reads a task's fields from a job's JSON object over the consumer's parameters, by the task's declaration.
//!
//! Both maps are read by the same rules, so a parameter that a job could not say is found when the worker starts.

use std::borrow::Cow;

use millrace_api::task::{Declaration, Field, FieldError, PARAMETERS, as_integer, find};
use serde_json::{Map, Value};

use super::{Input, InvalidInput};

/// The fields of one input, which are what their task declares.
#[derive(Debug)]
pub struct Fields<'a> {
    job: Cow<'a, Map<String, Value>>,
    defaults: &'a Map<String, Value>,
}

impl From<FieldError> for InvalidInput {
    fn from(FieldError { field, message }: FieldError) -> Self {
        Self { field: Some(field), message }
    }
}

impl<'a> Fields<'a> {
    /// The fields of a job's input: a text is the first field that the task needs. The first thing that is wrong with
    /// them is the error.
    pub fn read(task: &Declaration, input: &'a Input, defaults: &'a Map<String, Value>) -> Result<Self, InvalidInput> {
        let fields = Self { job: as_object(task, input)?, defaults };
        match task.check_job(&fields.job, defaults).into_iter().chain(task.check_parameters(defaults)).next() {
            Some(error) => Err(error.into()),
            None => Ok(fields),
        }
    }

    /// A consumer's parameters alone, as a job that says nothing would meet them.
    pub fn of_parameters(task: &Declaration, parameters: &'a Map<String, Value>) -> Result<Self, InvalidInput> {
        match task.check_parameters(parameters).into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(Self { job: Cow::Owned(Map::new()), defaults: parameters }),
        }
    }

    /// A text, or a word.
    pub fn text(&self, field: &Field) -> Option<&str> {
        self.value(field)?.as_str()
    }

    /// A text that `parse` understands, or says why it does not.
    pub fn parsed<T>(
        &self,
        field: &Field,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        let Some(text) = self.text(field) else { return Ok(None) };
        parse(text).map(Some).map_err(|message| InvalidInput::field(self.place(field), message))
    }

    /// Any value that `parse` understands, or says why it does not.
    pub fn parsed_value<T>(
        &self,
        field: &Field,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidInput> {
        let Some(value) = self.value(field) else { return Ok(None) };
        parse(value).map(Some).map_err(|message| InvalidInput::field(self.place(field), message))
    }

    /// Several texts.
    pub fn texts(&self, field: &Field) -> Option<Vec<String>> {
        let list = self.value(field)?.as_array()?;
        Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// An integer.
    pub fn integer(&self, field: &Field) -> Option<u64> {
        as_integer(self.value(field)?)
    }

    /// A number.
    pub fn number(&self, field: &Field) -> Option<f64> {
        self.value(field)?.as_f64()
    }

    /// Yes or no.
    pub fn flag(&self, field: &Field) -> Option<bool> {
        self.value(field)?.as_bool()
    }

    /// Whatever a field holds.
    pub fn value(&self, field: &Field) -> Option<&Value> {
        find(&self.job, field).or_else(|| find(self.defaults, field)).map(|(_, value)| value)
    }

    /// Whether the job itself has a field, and not its consumer's parameters.
    pub fn says(&self, field: &Field) -> bool {
        find(&self.job, field).is_some()
    }

    /// What the job calls a field; its first name where the job does not have it.
    pub fn named(&self, field: &Field) -> &'static str {
        find(&self.job, field).map_or_else(|| field.name(), |(name, _)| name)
    }

    /// Where a field's value stands.
    pub fn place(&self, field: &Field) -> String {
        match (find(&self.job, field), find(self.defaults, field)) {
            (None, Some((name, _))) => format!("{PARAMETERS}.{name}"),
            _ => self.named(field).to_owned(),
        }
    }
}

/// An input as an object.
fn as_object<'a>(task: &Declaration, input: &'a Input) -> Result<Cow<'a, Map<String, Value>>, InvalidInput> {
    let (text, mut fields) = match input {
        Input::Object(object) => return Ok(Cow::Borrowed(object)),
        Input::Text(text) => (text, Map::new()),
        Input::Call { text, fields } => (text, fields.clone()),
    };
    // where no field is the main one, a text says nothing
    if let Some(main) = task.main().map(Field::name)
        && fields.insert(main.to_owned(), text.as_str().into()).is_some_and(|named| !named.is_null())
    {
        return Err(InvalidInput::field(main, "is given twice: as the argument and by name"));
    }
    Ok(Cow::Owned(fields))
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

    const PROMPT: Field = Field::text(&["prompt"], 100, "");
    const STEPS: Field = Field::integer(&["steps", "num_inference_steps"], 1, 150, "");
    const FORMAT: Field = Field::word(&["format"], &["png", "webp"], "");
    const TASK: Declaration = Declaration {
        task: "Task",
        about: "",
        needs: &[PROMPT],
        needed: "the text",
        fields: &[STEPS, FORMAT],
        open: false,
    };

    fn steps(input: &Input, defaults: Value) -> Result<(Option<String>, Option<u64>), InvalidInput> {
        let defaults = object(defaults);
        let fields = Fields::read(&TASK, input, &defaults)?;
        Ok((fields.text(&PROMPT).map(str::to_owned), fields.integer(&STEPS)))
    }

    #[test]
    fn a_job_overrides_the_parameters_under_any_name() {
        let job = Input::Object(object(json!({ "prompt": "a cat", "num_inference_steps": 4.0 })));
        let cat = Some("a cat".to_owned());
        assert_eq!(steps(&job, json!({ "steps": 30 })), Ok((cat.clone(), Some(4))));
        let job = Input::Object(object(json!({ "prompt": "a cat", "steps": null })));
        assert_eq!(steps(&job, json!({ "steps": 30 })), Ok((cat, Some(30))));
    }

    #[test]
    fn a_text_is_the_field_that_is_needed_first() {
        let cat = Some("a cat".to_owned());
        assert_eq!(steps(&Input::Text("a cat".into()), json!({})), Ok((cat.clone(), None)));
        let call = |fields| Input::Call { text: "a cat".into(), fields: object(fields) };
        assert_eq!(steps(&call(json!({ "steps": 3 })), json!({})), Ok((cat, Some(3))));
        let error = steps(&call(json!({ "prompt": "a dog" })), json!({})).unwrap_err();
        assert_eq!(error.to_string(), "prompt: is given twice: as the argument and by name");
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        let job = |value| Input::Object(object(value));
        let error = steps(&job(json!({ "steps": 0 })), json!({})).unwrap_err();
        assert_eq!(error.to_string(), "steps: must be an integer from 1 to 150, not 0");
        let error = steps(&job(json!({})), json!({})).unwrap_err();
        assert_eq!(error.to_string(), "prompt: is required: the text");
        let error = steps(&job(json!({ "prompt": "x" })), json!({ "steps": 0 })).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model.parameters.steps"));
        let parse = |job: Value, parameters: Value| {
            let (job, parameters) = (Input::Object(object(job)), object(parameters));
            let fields = Fields::read(&TASK, &job, &parameters).unwrap();
            fields.parsed(&FORMAT, |_| Err::<(), _>("no".into())).unwrap_err().to_string()
        };
        assert_eq!(parse(json!({ "prompt": "x", "format": "png" }), json!({})), "format: no");
        assert_eq!(parse(json!({ "prompt": "x" }), json!({ "format": "png" })), "model.parameters.format: no");
    }
}
