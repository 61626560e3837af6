//! What a job may ask of task TextEmbedding, in sentence-transformers' words where it has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::format::Format;
use crate::model::fields::{Fields, Names};
use crate::model::{About, Input, InvalidInput, Request};

/// Longest text in bytes: a hundred times what most encoders read.
const MOST_TEXT: usize = 1 << 20;
/// Longest prompt in bytes.
const MOST_PROMPT: usize = 16 << 10;
/// Most texts of one request, whose vectors are held until all are made.
const MOST_TEXTS: usize = 1 << 16;
/// Most numbers of a vector.
const MOST_DIMENSIONS: u64 = 1 << 16;

const TEXT: Names = &["text", "sentence"];
const TEXTS: Names = &["texts", "sentences"];
const SOURCE: Names = &["source"];
const PROMPT: Names = &["prompt"];
const PROMPT_NAME: Names = &["prompt_name"];
const FORMAT: Names = &["format"];

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
            Texts::One(_) => InvalidInput::field(TEXT[0], message),
            Texts::Many { field, .. } => InvalidInput::field(format!("{field}[{index}]"), message),
        }
    }
}

impl Settings {
    /// What a job gets that says nothing.
    pub(super) fn of_defaults(defaults: &Map<String, Value>) -> Result<Self, InvalidInput> {
        let mut fields = Fields::of_defaults(defaults);
        texts(&mut fields)?;
        let settings = Self::read(&mut fields)?;
        format(&mut fields, None)?;
        fields.finish()?;
        Ok(settings)
    }

    fn read(fields: &mut Fields) -> Result<Self, InvalidInput> {
        let dimensions = fields.integer(&["dimensions", "truncate_dim"], 1..=MOST_DIMENSIONS)?;
        Ok(Self {
            prompt: prompt(fields)?,
            normalize: fields.flag(&["normalize", "normalize_embeddings"])?,
            truncate: fields.parsed(&["truncate"], truncate)?.unwrap_or_default(),
            dimensions: dimensions.map(|dimensions| dimensions as usize),
        })
    }
}

fn truncate(text: &str) -> Result<Truncate, String> {
    match text {
        "end" => Ok(Truncate::End),
        "error" => Ok(Truncate::Error),
        other => Err(format!("must be end or error, not {other}")),
    }
}

fn prompt(fields: &mut Fields) -> Result<Option<Prompt>, InvalidInput> {
    let bounded = |text: &str| match text.len() {
        length if length > MOST_PROMPT => Err(format!("has {length} bytes; at most {MOST_PROMPT} are read")),
        _ => Ok(text.to_owned()),
    };
    let (named, spelled) = (fields.text(PROMPT_NAME)?, fields.parsed(PROMPT, bounded)?);
    // a job's own overrules its consumer's, whichever of the two ways each takes
    let by_name = match (fields.says(PROMPT_NAME), fields.says(PROMPT)) {
        (true, false) => true,
        (false, true) => false,
        _ if named.is_some() && spelled.is_some() => {
            let message = "cannot be beside prompt: give the one or the other";
            return Err(InvalidInput::field(PROMPT_NAME[0], message));
        }
        _ => named.is_some(),
    };
    Ok(if by_name { named.map(Prompt::Named) } else { spelled.map(Prompt::Spelled) })
}

fn texts(fields: &mut Fields) -> Result<Option<Texts>, InvalidInput> {
    let one = fields.of_the_job(TEXT, bounded)?;
    let list = fields.texts_of_the_job(TEXTS)?;
    let lines = fields.of_the_job(SOURCE, read_source)?;
    let list = list.map(|texts| texts.into_iter().map(|text| Line { id: None, text }).collect::<Vec<_>>());
    let field = if list.is_some() { fields.named(TEXTS) } else { fields.named(SOURCE) };
    let many = match (list, lines) {
        (Some(_), Some(_)) => return Err(InvalidInput::field(fields.named(SOURCE), "cannot be beside texts")),
        (list, lines) => list.or(lines),
    };
    match (one, many) {
        (Some(_), Some(_)) => Err(InvalidInput::field(field, "cannot be beside a text")),
        (Some(text), None) => Ok(Some(Texts::One(text))),
        (None, Some(lines)) => {
            if !(1..=MOST_TEXTS).contains(&lines.len()) {
                let message = format!("must have from 1 to {MOST_TEXTS} texts, not {}", lines.len());
                return Err(InvalidInput::field(field, message));
            }
            let long = lines.iter().enumerate().find_map(|(i, line)| bounded(&line.text).err().map(|error| (i, error)));
            match long {
                Some((i, message)) => Err(InvalidInput::field(format!("{field}[{i}]"), message)),
                None => Ok(Some(Texts::Many { lines, field })),
            }
        }
        (None, None) => Ok(None),
    }
}

/// A text that is tokenized on the model's thread, in a moment.
fn bounded(text: &str) -> Result<String, String> {
    match text.len() {
        length if length > MOST_TEXT => Err(format!("has {length} bytes; at most {MOST_TEXT} are read")),
        _ => Ok(text.to_owned()),
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
        match serde_json::from_str(line) {
            Ok(Value::String(text)) => Ok(Line { id: None, text }),
            Ok(Value::Object(mut object)) => match object.remove("text") {
                Some(Value::String(text)) => Ok(Line { id: object.remove("id"), text }),
                _ => Err(wrong("has no text")),
            },
            Ok(_) => Err(wrong("must be a text or an object with a text")),
            Err(error) => Err(wrong(&format!("is not JSON: {error}"))),
        }
    };
    lines.map(read).collect()
}

/// The format of the result: `texts` are those that it is for.
fn format(fields: &mut Fields, texts: Option<&Texts>) -> Result<Format, InvalidInput> {
    let format = fields.parsed(FORMAT, Format::parse)?;
    let fits = |format: &Format| match texts {
        None => true,
        Some(Texts::One(_)) => *format != Format::JsonLines,
        Some(Texts::Many { .. }) => *format != Format::Json,
    };
    let own = if matches!(texts, Some(Texts::Many { .. })) { Format::JsonLines } else { Format::Json };
    match format {
        Some(format) if fits(&format) => Ok(format),
        // a consumer's own is for those of its jobs that can have it
        Some(format) if fields.says(FORMAT) => {
            let message = format!(
                "{} is not for {}",
                format.name(),
                if own == Format::Json { "one text" } else { "several texts" }
            );
            Err(InvalidInput::field(FORMAT[0], format!("{message}: take {} or npy", own.name())))
        }
        _ => Ok(own),
    }
}

impl Request for TextEmbeddingRequest {
    const OBJECT_FIELDS: &'static [&'static str] = SOURCE;

    fn decode(input: &Input, defaults: &Map<String, Value>, _: &About) -> Result<Self, InvalidInput> {
        let mut fields = Fields::new(input, TEXT[0], defaults);
        let texts = texts(&mut fields)?;
        let settings = Settings::read(&mut fields)?;
        let format = format(&mut fields, texts.as_ref())?;
        fields.finish()?;
        let missing = || InvalidInput::field(TEXT[0], "is required, or texts, or source: what to make a vector of");
        Ok(Self { texts: texts.ok_or_else(missing)?, settings, format })
    }

    /// A request of many texts takes long, and runs among its like: those of one text do not wait for it.
    fn batch_key(&self) -> u64 {
        u64::from(matches!(self.texts, Texts::Many { .. }))
    }

    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        Settings::of_defaults(defaults).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;

    fn decode(input: Value, defaults: Value) -> Result<TextEmbeddingRequest, InvalidInput> {
        let input = match input {
            Value::String(text) => Input::Text(text),
            other => Input::Object(object(other)),
        };
        TextEmbeddingRequest::decode(&input, &object(defaults), &About::default())
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
