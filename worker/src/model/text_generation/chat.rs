//! A conversation as the text that a model was trained on, by its chat template: a program in Jinja, which is run as
//! transformers does, in a sandbox and for a bounded time.

use std::io;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::{Map, Serializer};

use super::tokenizer::{Named, SETTINGS};
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt};

/// Where a template lies by itself.
const FILE: &str = "chat_template.jinja";
/// Steps that a template may take: a hundred times what long conversations need.
const FUEL: u64 = 50_000_000;
/// The one of several templates that is meant where nothing is said.
const DEFAULT: &str = "default";

/// One message: `role`, `content` and whatever else the template knows.
pub(super) type Message = Map<String, serde_json::Value>;

/// What a folder says of conversations.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ChatSettings {
    chat_template: Option<Templates>,
    bos_token: Option<Named>,
    pub(super) eos_token: Option<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<Template>),
}

#[derive(Debug, Deserialize)]
struct Template {
    name: String,
    template: String,
}

impl ChatSettings {
    /// Reads a folder's, where it has some.
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        if folder.has(SETTINGS) { folder.json(SETTINGS) } else { Ok(Self::default()) }
    }

    /// Takes the tokens that begin and end texts from elsewhere, where nothing is said of them.
    pub(super) fn fill(&mut self, [begin, end]: [Option<String>; 2]) {
        self.bos_token = self.bos_token.take().or(begin.map(Named::Text));
        self.eos_token = self.eos_token.take().or(end.map(Named::Text));
    }

    /// The template of the folder, else of `or`; none where there is none.
    pub(super) fn chat(&self, folder: &Folder, or: Option<(&str, String)>) -> Result<Option<Chat>, LoadError> {
        let named = |list: &[Template]| {
            let found = list.iter().find(|template| template.name == DEFAULT).or(list.first());
            found.map(|template| template.template.clone())
        };
        let own = if folder.has(FILE) {
            let bytes = folder.read(FILE)?;
            Some((FILE, String::from_utf8(bytes).map_err(|_| corrupt(FILE, "it is not UTF-8"))?))
        } else {
            let template = match &self.chat_template {
                Some(Templates::One(template)) => Some(template.clone()),
                Some(Templates::Several(list)) => named(list),
                None => None,
            };
            template.map(|template| (SETTINGS, template))
        };
        let Some((file, template)) = own.or(or) else { return Ok(None) };
        let token = |named: Option<&Named>| named.map(|named| named.text().to_owned()).unwrap_or_default();
        let (bos, eos) = (token(self.bos_token.as_ref()), token(self.eos_token.as_ref()));
        let chat = Chat::new(template, bos, eos);
        chat.map(Some).map_err(|error| corrupt(file, &format!("its chat template: {}", told(&error))))
    }
}

/// A model's way to write down conversations.
#[derive(Debug)]
pub(super) struct Chat {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Chat {
    pub(super) fn new(template: String, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, &Zoned::now())
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_filter("tojson", |value: &Value, indent: Option<usize>, named: Kwargs| {
            tojson(value, indent.or(named.get("indent")?))
        });
        environment.add_template_owned(DEFAULT, template)?;
        Ok(Self { environment, bos, eos })
    }

    /// A conversation up to where the model is to go on; an error is what the template says of it.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, String> {
        let template = self.environment.get_template(DEFAULT).map_err(|error| told(&error))?;
        let given = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        template.render(given).map_err(|error| told(&error))
    }
}

fn told(error: &Error) -> String {
    let line = error.line().map(|line| format!(" (line {line} of the chat template)")).unwrap_or_default();
    match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}{line}"),
        (kind, None) => format!("{kind}{line}"),
    }
}

/// JSON as Python's `json.dumps` writes it.
fn tojson(value: &Value, indent: Option<usize>) -> Result<Value, Error> {
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    let wrong = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    written.map_err(|error| wrong(&error))?;
    String::from_utf8(out).map(Value::from).map_err(|error| wrong(&error))
}

/// With a space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(writer)?;
        writer.write_all(b" ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::golden;

    #[derive(Debug, Deserialize)]
    struct Cases {
        conversations: Vec<Vec<Message>>,
        chats: std::collections::BTreeMap<String, Golden>,
    }

    #[derive(Debug, Deserialize)]
    struct Golden {
        template: String,
        rendered: Vec<Rendered>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Rendered {
        Text(String),
        Error(String),
    }

    fn chat(template: &str) -> Result<Chat, Error> {
        Chat::new(template.into(), "<|begin|>".into(), "<|end|>".into())
    }

    #[test]
    fn conversations_are_rendered_as_by_transformers() {
        let cases: Cases = serde_json::from_str(&golden::text("generation/cases.json")).unwrap();
        for (name, golden) in &cases.chats {
            let chat = chat(&golden.template).unwrap();
            assert_eq!(golden.rendered.len(), cases.conversations.len());
            for (messages, known) in cases.conversations.iter().zip(&golden.rendered) {
                let known = match known {
                    Rendered::Text(known) => Ok(known.clone()),
                    Rendered::Error(known) => Err(known.clone()),
                };
                assert_eq!(chat.render(messages), known, "{name} {messages:?}");
            }
        }
    }

    #[test]
    fn json_is_pythons() {
        let rendered = |template: &str| chat(template).unwrap().render(&[]).unwrap();
        assert_eq!(rendered("{{ {'a': [1, 'é<'], 'b': {}} | tojson }}"), r#"{"a": [1, "é<"], "b": {}}"#);
        assert_eq!(rendered("{{ [1, {'a': none}] | tojson(indent=2) }}"), "[\n  1,\n  {\n    \"a\": null\n  }\n]");
    }

    #[test]
    fn what_a_template_cannot_do_is_said() {
        let message = |content: &str| Message::from_iter([("content".to_owned(), json!(content))]);
        let render = |template: &str| chat(template).unwrap().render(&[message("x")]).unwrap_err();
        assert_eq!(render("{{ raise_exception('only ' + messages[0].content) }}"), "only x");
        assert!(render("{{ messages[0].content.shout() }}").contains("line 1 of the chat template"));
        assert!(
            render("{% for a in range(100000) %}{% for b in range(100000) %}.{% endfor %}{% endfor %}")
                .contains("fuel")
        );
        assert!(told(&chat("{% if %}").unwrap_err()).contains("line 1"));
    }
}
