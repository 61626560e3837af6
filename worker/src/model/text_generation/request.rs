//! What a job may ask of task TextGeneration, in the words of transformers and of OpenAI's API.

use millrace_api::task::text_generation::{
    CHAT, DECLARATION, FORMAT, LONGEST_STOP, MAX_TOKENS, MESSAGES, MIN_P, MOST_MESSAGES, MOST_STOPS, MOST_TEXT, PROMPT,
    PROMPTS, REPETITION_PENALTY, SEED, STOP, SYSTEM, TEMPERATURE, TOP_K, TOP_P,
};
use millrace_api::task::{Field, describe};
use serde_json::{Map, Value};

use super::chat::Message;
use super::result::Format;
use crate::model::fields::Fields;
use crate::model::{About, Input, InvalidInput, Request};

/// What is gone on with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ask {
    /// Texts as they are; several where the job gave a list.
    Prompts {
        prompts: Vec<String>,
        several: bool,
    },
    Messages(Vec<Message>),
}

/// How tokens are drawn, where a job or its consumer says so.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<usize>,
    pub(super) min_p: Option<f64>,
    pub(super) repetition_penalty: Option<f64>,
}

/// How texts are written, whatever they go on with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    /// Put before a conversation.
    pub(super) system: Option<String>,
    /// Whether a prompt is what a user says.
    pub(super) chat: Option<bool>,
    pub(super) max_tokens: Option<usize>,
    pub(super) wishes: Wishes,
    pub(super) stop: Vec<String>,
    pub(super) format: Format,
}

/// A checked request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextGenerationRequest {
    pub(super) ask: Ask,
    pub(super) settings: Settings,
    pub(super) seed: u64,
}

impl TextGenerationRequest {
    /// A few tokens after a prompt.
    pub(super) fn plain(prompt: &str, tokens: usize) -> Self {
        let ask = Ask::Prompts { prompts: vec![prompt.into()], several: false };
        let settings = Settings {
            system: None,
            chat: None,
            max_tokens: Some(tokens),
            wishes: Wishes::default(),
            stop: Vec::new(),
            format: Format::Json,
        };
        Self { ask, settings, seed: 0 }
    }

    /// What is to be gone on with: prompts as they are, or conversations.
    pub(super) fn talks(&self) -> Vec<Talk<'_>> {
        let said = |role: &str, content: &str| {
            Message::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
        };
        let system = self.settings.system.as_deref().map(|system| said("system", system));
        match &self.ask {
            Ask::Messages(messages) => vec![Talk::Conversation(system.into_iter().chain(messages.clone()).collect())],
            Ask::Prompts { prompts, .. } if self.settings.chat.unwrap_or(system.is_some()) => {
                let talk = |prompt: &String| system.clone().into_iter().chain([said("user", prompt)]).collect();
                prompts.iter().map(|prompt| Talk::Conversation(talk(prompt))).collect()
            }
            Ask::Prompts { prompts, .. } => prompts.iter().map(|prompt| Talk::Prompt(prompt)).collect(),
        }
    }

    /// An error of what one of its texts goes on with.
    pub(super) fn invalid(&self, index: usize, message: impl Into<String>) -> InvalidInput {
        let field = match &self.ask {
            Ask::Messages(_) => MESSAGES.name().to_owned(),
            Ask::Prompts { several: false, .. } => PROMPT.name().to_owned(),
            Ask::Prompts { .. } => format!("{}[{index}]", PROMPTS.name()),
        };
        InvalidInput::field(field, message)
    }
}

/// What one text goes on with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Talk<'a> {
    Prompt(&'a str),
    Conversation(Vec<Message>),
}

impl Settings {
    /// What a job gets that says nothing.
    pub(super) fn of_parameters(parameters: &Map<String, Value>) -> Result<Self, InvalidInput> {
        Self::of_fields(&Fields::of_parameters(&DECLARATION, parameters)?)
    }

    fn of_fields(fields: &Fields) -> Result<Self, InvalidInput> {
        let integer = |field| fields.integer(field).map(|number| number as usize);
        let wishes = Wishes {
            temperature: fields.number(&TEMPERATURE),
            top_p: above_zero(fields, &TOP_P)?,
            top_k: integer(&TOP_K),
            min_p: fields.number(&MIN_P),
            repetition_penalty: above_zero(fields, &REPETITION_PENALTY)?,
        };
        Ok(Self {
            system: fields.text(&SYSTEM).map(str::to_owned),
            chat: fields.flag(&CHAT),
            max_tokens: integer(&MAX_TOKENS),
            wishes,
            stop: fields.parsed_value(&STOP, stops)?.unwrap_or_default(),
            format: if fields.text(&FORMAT) == Some("text") { Format::Text } else { Format::Json },
        })
    }
}

fn above_zero(fields: &Fields, field: &Field) -> Result<Option<f64>, InvalidInput> {
    match fields.number(field) {
        Some(0.0) => Err(InvalidInput::field(fields.place(field), "must be above 0")),
        number => Ok(number),
    }
}

/// What is gone on with, of which a job has one.
fn ask(fields: &Fields) -> Result<Ask, InvalidInput> {
    let messages = fields.parsed_value(&MESSAGES, messages)?;
    match (fields.text(&PROMPT), fields.texts(&PROMPTS), messages) {
        (None, None, Some(messages)) => Ok(Ask::Messages(messages)),
        (_, _, Some(_)) => Err(InvalidInput::field(MESSAGES.name(), "cannot be beside a prompt")),
        (Some(_), Some(_), None) => Err(InvalidInput::field(PROMPTS.name(), "cannot be beside a prompt")),
        (None, Some(prompts), None) => Ok(Ask::Prompts { prompts, several: true }),
        (prompt, None, None) => {
            Ok(Ask::Prompts { prompts: vec![prompt.unwrap_or_default().to_owned()], several: false })
        }
    }
}

fn stops(value: &Value) -> Result<Vec<String>, String> {
    let wrong = |value: &Value| format!("must be a text or a list of texts, not {}", describe(value));
    let list = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => {
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(value));
            list.iter().map(text).collect::<Result<_, _>>()?
        }
        other => return Err(wrong(other)),
    };
    if list.len() > MOST_STOPS {
        return Err(format!("has {} texts; at most {MOST_STOPS} are looked for", list.len()));
    }
    match list.iter().find(|text| !(1..=LONGEST_STOP).contains(&text.len())) {
        Some(text) => Err(format!("must be of texts of 1 to {LONGEST_STOP} bytes, not of {}", text.len())),
        None => Ok(list),
    }
}

fn messages(value: &Value) -> Result<Vec<Message>, String> {
    let wrong = || format!("must be a list of objects with role and content, not {}", describe(value));
    let list = value.as_array().ok_or_else(wrong)?;
    if !(1..=MOST_MESSAGES).contains(&list.len()) {
        return Err(format!("must have from 1 to {MOST_MESSAGES} messages, not {}", list.len()));
    }
    let read =
        list.iter().enumerate().map(|(index, value)| message(value).map_err(|what| format!("entry {index} {what}")));
    let messages: Vec<Message> = read.collect::<Result<_, _>>()?;
    match value.to_string().len() {
        length if length > MOST_TEXT => Err(format!("have {length} bytes; at most {MOST_TEXT} are read")),
        _ => Ok(messages),
    }
}

/// A message, whose content may be a list of texts in the manner of OpenAI's: `{"type": "text", "text": …}`.
fn message(value: &Value) -> Result<Message, String> {
    let mut message = value.as_object().cloned().ok_or_else(|| format!("is {}, not an object", describe(value)))?;
    if !message.get("role").is_some_and(Value::is_string) {
        return Err("has no role".into());
    }
    match message.get("content") {
        Some(Value::String(_)) => return Ok(message),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
            let text = parts.iter().map(text).collect::<Option<String>>();
            let text = text.ok_or("has content that is no text: this task reads text alone")?;
            message.insert("content".into(), text.into());
        }
        _ => return Err("has no content".into()),
    }
    Ok(message)
}

impl Request for TextGenerationRequest {
    fn decode(input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Self, InvalidInput> {
        let fields = Fields::read(&DECLARATION, input, defaults)?;
        let ask = ask(&fields)?;
        let mut settings = Settings::of_fields(&fields)?;
        if let Ask::Messages(messages) = &ask {
            if settings.chat == Some(false) && fields.says(&CHAT) {
                return Err(InvalidInput::field(CHAT.name(), "cannot be false beside messages"));
            }
            // a job's own overrules its consumer's
            if messages[0]["role"] == "system" && settings.system.take().is_some() && fields.says(&SYSTEM) {
                return Err(InvalidInput::field(SYSTEM.name(), "cannot be beside a message of role system"));
            }
        }
        if settings.chat == Some(false) && settings.system.take().is_some() && fields.says(&SYSTEM) {
            return Err(InvalidInput::field(SYSTEM.name(), "is part of a conversation, and chat is false"));
        }
        Ok(Self { ask, settings, seed: fields.integer(&SEED).unwrap_or(about.seed) })
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

    fn decode(input: Value, defaults: Value) -> Result<TextGenerationRequest, InvalidInput> {
        TextGenerationRequest::decode(&as_input(input), &object(defaults), &About { seed: 7, ..About::default() })
    }

    fn said(role: &str, content: &str) -> Message {
        object(json!({ "role": role, "content": content }))
    }

    #[test]
    fn a_prompt_goes_on_with_the_consumers_settings() {
        let defaults =
            json!({"max_tokens": 9, "temperature": 0.5, "top_k": 3, "stop": "x", "seed": 3, "format": "text"});
        let plain = TextGenerationRequest::plain("a cat", 9);
        let wishes = Wishes { temperature: Some(0.5), top_k: Some(3), ..Wishes::default() };
        let settings = Settings { wishes, stop: vec!["x".into()], format: Format::Text, ..plain.settings.clone() };
        let wanted = TextGenerationRequest { settings, seed: 3, ..plain.clone() };
        assert_eq!(decode(json!("a cat"), defaults).unwrap(), wanted);
        let own = json!({"prompt": "a cat", "max_new_tokens": 9});
        assert_eq!(decode(own, json!({})).unwrap(), TextGenerationRequest { seed: 7, ..plain });
    }

    #[test]
    fn what_is_said_to_the_model() {
        let talks = |input: Value, defaults: Value| {
            let request = decode(input, defaults).unwrap();
            request.talks().into_iter().map(|talk| format!("{talk:?}")).collect::<Vec<_>>()
        };
        let prompt = |text: &str| format!("{:?}", Talk::Prompt(text));
        let talk = |messages: &[Message]| format!("{:?}", Talk::Conversation(messages.to_vec()));
        let (brief, kind) = (said("system", "be brief"), said("system", "be kind"));
        let user = said("user", "a");
        let system = json!({"system": "be brief"});
        for (input, defaults, wanted) in [
            (json!("a"), json!({}), vec![prompt("a")]),
            (json!("a"), json!({"chat": true}), vec![talk(std::slice::from_ref(&user))]),
            (json!("a"), system.clone(), vec![talk(&[brief.clone(), user.clone()])]),
            (json!({"prompt": "a", "chat": false}), system.clone(), vec![prompt("a")]),
            (json!({"prompts": ["a", "b"]}), json!({}), vec![prompt("a"), prompt("b")]),
            (
                json!({"prompts": ["a", "b"], "system": "be kind"}),
                system.clone(),
                vec![talk(&[kind.clone(), user.clone()]), talk(&[kind.clone(), said("user", "b")])],
            ),
            (json!({"messages": [user]}), system.clone(), vec![talk(&[brief.clone(), user.clone()])]),
            (json!({"messages": [kind, user]}), system.clone(), vec![talk(&[kind.clone(), user.clone()])]),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
                json!({"chat": false}),
                vec![talk(std::slice::from_ref(&user))],
            ),
        ] {
            assert_eq!(talks(input.clone(), defaults.clone()), wanted, "{input} {defaults}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let prompt = |field: &str, value: Value| json!({"prompt": "a", field: value});
        let user = json!({"role": "user", "content": "a"});
        let cases = [
            (json!({}), "prompt", "is required"),
            (json!({"prompt": "x".repeat(MOST_TEXT + 1)}), "prompt", "at most 1048576"),
            (json!({"prompt": "a", "prompts": ["b"]}), "prompts", "beside a prompt"),
            (json!({"prompt": "a", "messages": [user]}), "messages", "beside a prompt"),
            (json!({"prompts": []}), "prompts", "from 1 to 256"),
            (json!({"prompts": ["a", "x".repeat(MOST_TEXT + 1)]}), "prompts[1]", "at most 1048576"),
            (json!({"messages": "a"}), "messages", "a list of objects"),
            (json!({"messages": []}), "messages", "from 1 to 1024"),
            (json!({"messages": [user, "b"]}), "messages", "entry 1 is the text \"b\""),
            (json!({"messages": [{"content": "a"}]}), "messages", "entry 0 has no role"),
            (json!({"messages": [{"role": "user"}]}), "messages", "entry 0 has no content"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages",
                "reads text alone",
            ),
            (json!({"messages": [{"role": "user", "content": "x".repeat(MOST_TEXT)}]}), "messages", "at most 1048576"),
            (json!({"messages": [{"role": "system", "content": "a"}], "system": "b"}), "system", "role system"),
            (json!({"messages": [user], "chat": false}), "chat", "beside messages"),
            (json!({"prompt": "a", "chat": false, "system": "b"}), "system", "chat is false"),
            (prompt("max_tokens", json!(0)), "max_tokens", "from 1 to"),
            (prompt("temperature", json!(11)), "temperature", "from 0 to 10"),
            (prompt("top_p", json!(0)), "top_p", "above 0"),
            (prompt("top_p", json!(1.5)), "top_p", "from 0 to 1"),
            (prompt("top_k", json!(-1)), "top_k", "from 0"),
            (prompt("min_p", json!(2)), "min_p", "from 0 to 1"),
            (prompt("repetition_penalty", json!(0)), "repetition_penalty", "above 0"),
            (prompt("stop", json!(7)), "stop", "a text or a list of texts, not 7"),
            (prompt("stop", json!([7])), "stop", "a text or a list of texts, not 7"),
            (prompt("stop", json!([""])), "stop", "of 1 to 256 bytes, not of 0"),
            (prompt("stop", json!(vec!["a"; 17])), "stop", "at most 16"),
            (prompt("format", json!("csv")), "format", "json or text"),
            (prompt("temprature", json!(1)), "temprature", "did you mean temperature?"),
        ];
        for (input, field, wanted) in cases {
            let error = decode(input, json!({})).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
            assert!(error.message.contains(wanted), "{error}");
        }
    }

    #[test]
    fn defaults_are_checked_without_a_prompt() {
        let check = |defaults: Value| TextGenerationRequest::check_defaults(&object(defaults));
        let field = |defaults: Value| check(defaults).unwrap_err().field;
        assert_eq!(check(json!({"temperature": 0.5, "system": "be brief", "stop": ["a"]})), Ok(()));
        assert_eq!(field(json!({"max_token": 4})).as_deref(), Some("model.parameters.max_token"));
        assert_eq!(field(json!({"messages": []})).as_deref(), Some("model.parameters.messages"));
        assert_eq!(field(json!({"stop": 7})).as_deref(), Some("model.parameters.stop"));
    }
}
