//! What a job may ask of task SpeechToText, in the words of transformers and of OpenAI's API.

use bytes::Bytes;
use millrace_api::task::speech_to_text::{AUDIO, DECLARATION, FORMAT, LANGUAGE, PROMPT, TASK, TIMESTAMPS};
use serde_json::{Map, Value};

use super::languages;
use super::result::Format;
use crate::model::fields::Fields;
use crate::model::{About, Input, InvalidInput, Request, inline};

/// How audio is written down.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings {
    /// Its code; heard where it is not said.
    pub(super) language: Option<String>,
    /// Into English, rather than in the language that is spoken.
    pub(super) translate: bool,
    pub(super) timestamps: bool,
    /// What may have come before.
    pub(super) prompt: Option<String>,
    pub(super) format: Format,
}

/// A checked request to write down what is said.
#[derive(Clone, PartialEq)]
pub struct SpeechToTextRequest {
    /// The file, as it was sent.
    pub(super) audio: Bytes,
    /// What the job calls it.
    pub(super) field: &'static str,
    pub(super) settings: Settings,
}

impl std::fmt::Debug for SpeechToTextRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpeechToTextRequest({} bytes, {:?})", self.audio.len(), self.settings)
    }
}

impl SpeechToTextRequest {
    /// A file with nothing else.
    pub(super) fn plain(audio: impl Into<Bytes>) -> Self {
        Self {
            audio: audio.into(),
            field: AUDIO.name(),
            settings: Settings { timestamps: true, ..Settings::default() },
        }
    }
}

impl Settings {
    /// A consumer's own, which are asked of every job that says nothing else.
    pub(super) fn of_parameters(parameters: &Map<String, Value>) -> Result<Self, InvalidInput> {
        Self::of_fields(&Fields::of_parameters(&DECLARATION, parameters)?)
    }

    fn of_fields(fields: &Fields) -> Result<Self, InvalidInput> {
        let format = match fields.text(&FORMAT) {
            Some("text") => Format::Text,
            Some("srt") => Format::Srt,
            Some("vtt") => Format::Vtt,
            _ => Format::Json,
        };
        let timestamps = fields.flag(&TIMESTAMPS).unwrap_or(true);
        if !timestamps && format.is_timed() {
            let message = format!("cannot be false for format {}, which is made of times", format.name());
            return Err(InvalidInput::field(fields.place(&TIMESTAMPS), message));
        }
        let prompt = fields.text(&PROMPT).map(str::trim).filter(|prompt| !prompt.is_empty()).map(str::to_owned);
        Ok(Self {
            language: fields.parsed(&LANGUAGE, languages::code)?,
            translate: fields.text(&TASK) == Some("translate"),
            timestamps,
            prompt,
            format,
        })
    }
}

impl Request for SpeechToTextRequest {
    const OBJECT_FIELDS: &'static [&'static str] = AUDIO.names;
    const CONTENT_FIELD: Option<&'static str> = Some(AUDIO.names[0]);

    fn decode(input: &Input, defaults: &Map<String, Value>, _: &About) -> Result<Self, InvalidInput> {
        let fields = Fields::read(&DECLARATION, input, defaults)?;
        let field = fields.named(&AUDIO);
        let audio = fields.parsed(&AUDIO, inline::read)?.unwrap_or_default();
        Ok(Self { audio: audio.into(), field, settings: Settings::of_fields(&fields)? })
    }

    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        Settings::of_parameters(defaults).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::model::fields::object;
    use crate::model::testing::as_input;

    fn decode(input: Value, defaults: Value) -> Result<SpeechToTextRequest, InvalidInput> {
        SpeechToTextRequest::decode(&as_input(input), &object(defaults), &About::default())
    }

    #[test]
    fn audio_comes_with_the_consumers_settings() {
        let encoded = STANDARD.encode(b"RIFF");
        let plain = SpeechToTextRequest::plain(&b"RIFF"[..]);
        assert_eq!(decode(json!(encoded), json!({})).unwrap(), plain);
        let url = json!({"file": format!("data:audio/wav;base64,{encoded}"), "language": "German"});
        let defaults = json!({"task": "translate", "timestamps": false, "prompt": " Köln ", "language": "en"});
        let found = decode(url, defaults).unwrap();
        assert_eq!((&found.audio[..], found.field), (&b"RIFF"[..], "file"));
        let wanted = Settings {
            language: Some("de".into()),
            translate: true,
            timestamps: false,
            prompt: Some("Köln".into()),
            format: Format::Json,
        };
        assert_eq!(found.settings, wanted);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let audio = |field: &str, value: Value| json!({"audio": "UklGRg==", field: value});
        for (input, field, wanted) in [
            (json!({}), "audio", "is required"),
            (json!({"audio": "https://a/b.wav"}), "audio", "s3://bucket/key"),
            (json!({"file": "!"}), "file", "is not base64"),
            (audio("language", json!("klingon")), "language", "klingon is no language"),
            (audio("task", json!("sing")), "task", "transcribe or translate"),
            (audio("format", json!("doc")), "format", "json, text, srt or vtt"),
            (json!({"audio": "UklGRg==", "format": "srt", "timestamps": false}), "timestamps", "format srt"),
            (audio("prompt", json!("x".repeat(5000))), "prompt", "at most 4096"),
            (audio("langage", json!("de")), "langage", "did you mean language?"),
        ] {
            let error = decode(input, json!({})).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
            assert!(error.message.contains(wanted), "{error}");
        }
        let check = |defaults: Value| SpeechToTextRequest::check_defaults(&object(defaults)).unwrap_err();
        assert_eq!(check(json!({"audio": "s3://a/b"})).field.as_deref(), Some("model.parameters.audio"));
        assert_eq!(check(json!({"language": "xx"})).field.as_deref(), Some("model.parameters.language"));
    }
}
