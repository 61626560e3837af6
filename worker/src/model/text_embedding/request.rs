//! What a job may ask of task TextEmbedding, in sentence-transformers' words where it has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millrace_api::task::text_embedding::{
    DECLARATION, DIMENSIONS, FORMAT, MOST_TEXT, MOST_TEXTS, NORMALIZE, PROMPT, PROMPT_NAME, SOURCE, TEXT, TEXTS,
    TRUNCATE,
};
use serde_json::{Map, Value};

use super::format::Format;
use crate::model::fields::Fields;
use crate::model::{About, Input, InvalidInput, Request};

/// What is made into vectors.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Texts {
    /// One text, whose vector is the result.
    One(String),
    /// Several, whose vectors are one file.
    Many {
        lines: Vec<Line>,
        /// The field that they came in.
        field: &'static str,
    },
}

/// One of several texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Given back beside the vector.
    pub(super) id: Option<Value>,
    pub(super) text: String,
}

/// What is put before each text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prompt {
    /// One of the model's, by its name.
    Named(String),
    Spelled(String),
}

/// What becomes of a text that is too long for the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Truncate {
    /// Its end is not read.
    #[default]
    End,
    /// It is refused.
    Error,
}

impl Truncate {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Error => "error",
        }
    }
}

/// How vectors are made, whatever the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// None for the model's own default.
    pub(super) prompt: Option<Prompt>,
    /// Whether vectors are made as long as one; none for what the model's folder says.
    pub(super) normalize: Option<bool>,
    pub(super) truncate: Truncate,
    /// Only so many numbers of each vector.
    pub(super) dimensions: Option<usize>,
}

/// A checked request for the vectors of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbeddingRequest {
    pub(super) texts: Texts,
    pub(super) settings: Settings,
    pub(super) format: Format,
}

impl TextEmbeddingRequest {
    /// The vector of one text, as the model makes it.
    pub(super) fn plain(text: &str) -> Self {
        let settings = Settings { prompt: None, normalize: None, truncate: Truncate::End, dimensions: None };
        Self { texts: Texts::One(text.into()), settings, format: Format::Json }
    }

    /// Its texts in order.
    pub(super) fn each(&self) -> Vec<&str> {
        match &self.texts {
            Texts::One(text) => vec![text],
            Texts::Many { lines, .. } => lines.iter().map(|line| line.text.as_str()).collect(),
        }
    }

    /// An error of one of its texts.
    pub(super) fn invalid(&self, index: usize, message: &str) -> InvalidInput {
        match &self.texts {
            Texts::One(_) => InvalidInput::field(TEXT.name(), message),
            Texts::Many { field, .. } => InvalidInput::field(format!("{field}[{index}]"), message),
        }
    }
}

impl Settings {
    /// What a job gets that says nothing.
    pub(super) fn of_parameters(parameters: &Map<String, Value>) -> Result<Self, InvalidInput> {
        Self::of_fields(&Fields::of_parameters(&DECLARATION, parameters)?)
    }

    fn of_fields(fields: &Fields) -> Result<Self, InvalidInput> {
        let truncate = if fields.text(&TRUNCATE) == Some("error") { Truncate::Error } else { Truncate::End };
        Ok(Self {
            prompt: prompt(fields)?,
            normalize: fields.flag(&NORMALIZE),
            truncate,
            dimensions: fields.integer(&DIMENSIONS).map(|dimensions| dimensions as usize),
        })
    }
}

fn prompt(fields: &Fields) -> Result<Option<Prompt>, InvalidInput> {
    let text = |field| fields.text(field).map(str::to_owned);
    let (named, spelled) = (text(&PROMPT_NAME), text(&PROMPT));
    // a job's own overrules its consumer's, whichever of the two ways each takes
    let by_name = match (fields.says(&PROMPT_NAME), fields.says(&PROMPT)) {
        (true, false) => true,
        (false, true) => false,
        _ if named.is_some() && spelled.is_some() => {
            let message = "cannot be beside prompt: give the one or the other";
            return Err(InvalidInput::field(PROMPT_NAME.name(), message));
        }
        _ => named.is_some(),
    };
    Ok(if by_name { named.map(Prompt::Named) } else { spelled.map(Prompt::Spelled) })
}

/// The texts, of which a job has one, or several in one of two ways.
fn texts(fields: &Fields) -> Result<Texts, InvalidInput> {
    let list = fields.texts(&TEXTS).map(|texts| texts.into_iter().map(|text| Line { id: None, text }).collect());
    let lines = fields.parsed(&SOURCE, read_source)?;
    match (fields.text(&TEXT), list, lines) {
        (_, Some(_), Some(_)) => Err(InvalidInput::field(fields.named(&SOURCE), "cannot be beside texts")),
        (Some(_), Some(_), None) => Err(InvalidInput::field(fields.named(&TEXTS), "cannot be beside a text")),
        (Some(_), None, Some(_)) => Err(InvalidInput::field(fields.named(&SOURCE), "cannot be beside a text")),
        (None, Some(lines), None) => Ok(Texts::Many { lines, field: fields.named(&TEXTS) }),
        (None, None, Some(lines)) => Ok(Texts::Many { lines, field: fields.named(&SOURCE) }),
        (text, None, None) => Ok(Texts::One(text.unwrap_or_default().to_owned())),
    }
}

/// Reads an object of JSON Lines in base64: a text in each line, or an object with `text` and, if it has one, an `id`.
fn read_source(encoded: &str) -> Result<Vec<Line>, String> {
    let wrong = "must be s3://bucket/key of an object of JSON Lines";
    let content = STANDARD.decode(encoded).map_err(|_| wrong.to_owned())?;
    let content = String::from_utf8(content).map_err(|_| format!("{wrong}; this one is not UTF-8"))?;
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let line = match serde_json::from_str(line) {
            Ok(Value::String(text)) => Line { id: None, text },
            Ok(Value::Object(mut object)) => match object.remove("text") {
                Some(Value::String(text)) => Line { id: object.remove("id"), text },
                _ => return Err(wrong("has no text")),
            },
            Ok(_) => return Err(wrong("must be a text or an object with a text")),
            Err(error) => return Err(wrong(&format!("is not JSON: {error}"))),
        };
        match line.text.len() {
            length if length > MOST_TEXT => Err(wrong(&format!("has {length} bytes; at most {MOST_TEXT} are read"))),
            _ => Ok(line),
        }
    };
    let lines: Vec<Line> = lines.map(read).collect::<Result<_, String>>()?;
    if !(1..=MOST_TEXTS).contains(&lines.len()) {
        return Err(format!("must have from 1 to {MOST_TEXTS} texts, not {}", lines.len()));
    }
    Ok(lines)
}

/// The format of the result, whose `texts` these are.
fn format(fields: &Fields, texts: &Texts) -> Result<Format, InvalidInput> {
    let (own, others, what) = match texts {
        Texts::One(_) => (Format::Json, Format::JsonLines, "one text"),
        Texts::Many { .. } => (Format::JsonLines, Format::Json, "several texts"),
    };
    match fields.text(&FORMAT) {
        Some("npy") => Ok(Format::Npy),
        // a consumer's own is for those of its jobs that can have it
        Some(name) if name == others.name() && fields.says(&FORMAT) => {
            let message = format!("{name} is not for {what}: take {} or npy", own.name());
            Err(InvalidInput::field(FORMAT.name(), message))
        }
        _ => Ok(own),
    }
}

impl Request for TextEmbeddingRequest {
    const OBJECT_FIELDS: &'static [&'static str] = SOURCE.names;

    fn decode(input: &Input, defaults: &Map<String, Value>, _: &About) -> Result<Self, InvalidInput> {
        let fields = Fields::read(&DECLARATION, input, defaults)?;
        let texts = texts(&fields)?;
        Ok(Self { settings: Settings::of_fields(&fields)?, format: format(&fields, &texts)?, texts })
    }

    /// A request of many texts takes long, and runs among its like: those of one text do not wait for it.
    fn batch_key(&self) -> u64 {
        u64::from(matches!(self.texts, Texts::Many { .. }))
    }

    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        Settings::of_parameters(defaults).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;
    use crate::model::testing::as_input;

    fn decode(input: Value, defaults: Value) -> Result<TextEmbeddingRequest, InvalidInput> {
        TextEmbeddingRequest::decode(&as_input(input), &object(defaults), &About::default())
    }

    fn texts_of(input: Value) -> Texts {
        decode(input, json!({})).unwrap().texts
    }

    #[test]
    fn a_text_is_embedded_with_the_consumers_settings() {
        let defaults = json!({"prompt_name": "query", "truncate": "error", "dimensions": 64, "normalize": true});
        let found = decode(json!("a cat"), defaults).unwrap();
        let settings = Settings {
            prompt: Some(Prompt::Named("query".into())),
            normalize: Some(true),
            truncate: Truncate::Error,
            dimensions: Some(64),
        };
        assert_eq!(found, TextEmbeddingRequest { settings, ..TextEmbeddingRequest::plain("a cat") });
        assert_eq!(decode(json!({"sentence": "a cat"}), json!({})).unwrap(), TextEmbeddingRequest::plain("a cat"));
    }

    #[test]
    fn a_jobs_prompt_overrules_its_consumers_in_either_way() {
        let prompt = |input: Value, defaults: Value| decode(input, defaults).unwrap().settings.prompt;
        let (named, spelled) = (Some(Prompt::Named("query".into())), Some(Prompt::Spelled("q: ".into())));
        assert_eq!(prompt(json!({"text": "x", "prompt_name": "query"}), json!({"prompt": "d: "})), named);
        assert_eq!(prompt(json!({"text": "x", "prompt": "q: "}), json!({"prompt_name": "document"})), spelled);
        assert_eq!(prompt(json!({"text": "x"}), json!({"prompt": "q: "})), spelled);
        assert_eq!(prompt(json!({"text": "x"}), json!({})), None);
    }

    #[test]
    fn several_texts_are_one_request() {
        let line = |id: Option<Value>, text: &str| Line { id, text: text.into() };
        let lines = vec![line(None, "a"), line(None, "b")];
        assert_eq!(texts_of(json!({"texts": ["a", "b"]})), Texts::Many { lines, field: "texts" });
        let content = "\"a\"\n\n{\"id\": 7, \"text\": \"b\", \"more\": 1}\r\n";
        let lines = vec![line(None, "a"), line(Some(json!(7)), "b")];
        assert_eq!(texts_of(json!({"source": STANDARD.encode(content)})), Texts::Many { lines, field: "source" });
    }

    #[test]
    fn files_of_several_texts_are_lines_or_an_array() {
        let format = |input: Value, defaults: Value| decode(input, defaults).unwrap().format;
        assert_eq!(format(json!({"texts": ["a"]}), json!({})), Format::JsonLines);
        assert_eq!(format(json!({"texts": ["a"]}), json!({"format": "json"})), Format::JsonLines);
        assert_eq!(format(json!({"texts": ["a"]}), json!({"format": "npy"})), Format::Npy);
        assert_eq!(format(json!({"text": "a"}), json!({"format": "jsonl"})), Format::Json);
        assert_eq!(format(json!({"text": "a", "format": "npy"}), json!({})), Format::Npy);
    }

    #[test]
    fn many_texts_do_not_hold_up_single_ones() {
        let key = |input: Value| decode(input, json!({})).unwrap().batch_key();
        assert_ne!(key(json!({"text": "a"})), key(json!({"texts": ["a"]})));
        assert_eq!(key(json!({"text": "a"})), key(json!({"text": "b", "normalize": true, "format": "npy"})));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let source = |content: &str| json!({"source": STANDARD.encode(content)});
        let cases = [
            (json!({}), "text", "is required"),
            (json!({"text": "x".repeat(MOST_TEXT + 1)}), "text", "at most 1048576"),
            (json!({"text": 7}), "text", "must be a text"),
            (json!({"texts": []}), "texts", "from 1 to 65536"),
            (json!({"texts": ["a", 7]}), "texts", "entry 1 is 7"),
            (json!({"sentences": "a"}), "sentences", "list of texts"),
            (json!({"texts": ["a", "x".repeat(MOST_TEXT + 1)]}), "texts[1]", "at most 1048576"),
            (json!({"texts": ["a"], "text": "b"}), "texts", "beside a text"),
            (json!({"texts": ["a"], "source": STANDARD.encode("\"a\"")}), "source", "beside texts"),
            (json!({"source": "no base64"}), "source", "s3://bucket/key"),
            (source("\n"), "source", "from 1 to 65536"),
            (source("\"a\"\n{\"id\": 1}"), "source", "line 2: has no text"),
            (source("7"), "source", "line 1: must be a text or an object"),
            (source("\"a\"\n{"), "source", "line 2: is not JSON"),
            (json!({"text": "x", "prompt": "a", "prompt_name": "b"}), "prompt_name", "beside prompt"),
            (json!({"text": "x", "truncate": "left"}), "truncate", "end or error"),
            (json!({"text": "x", "dimensions": 0}), "dimensions", "from 1 to 65536"),
            (json!({"text": "x", "normalize": "yes"}), "normalize", "true or false"),
            (json!({"text": "x", "format": "jsonl"}), "format", "take json or npy"),
            (json!({"texts": ["x"], "format": "json"}), "format", "take jsonl or npy"),
            (json!({"text": "x", "format": "csv"}), "format", "must be json, jsonl or npy"),
            (json!({"text": "x", "normalise": true}), "normalise", "did you mean normalize?"),
        ];
        for (input, field, wanted) in cases {
            let error = decode(input, json!({})).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
            assert!(error.message.contains(wanted), "{error}");
        }
    }

    #[test]
    fn defaults_are_checked_without_a_text() {
        let check = |defaults: Value| TextEmbeddingRequest::check_defaults(&object(defaults));
        let field = |defaults: Value| check(defaults).unwrap_err().field;
        assert_eq!(check(json!({"normalize": true, "format": "npy"})), Ok(()));
        assert_eq!(field(json!({"dimension": 4})).as_deref(), Some("model.parameters.dimension"));
        assert_eq!(field(json!({"texts": ["a"]})).as_deref(), Some("model.parameters.texts"));
        assert_eq!(field(json!({"format": "csv"})).as_deref(), Some("model.parameters.format"));
    }
}
