//! What was said as a job's result: a JSON value, or a file of text or subtitles beside it.

use serde_json::{Map, Value, json};

use super::request::SpeechToTextRequest;
use crate::model::{Output, Product};

/// How a transcript is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// In the result record's own value.
    #[default]
    Json,
    /// A file without times.
    Text,
    /// Subtitles as SubRip has them.
    Srt,
    /// Subtitles for browsers, WebVTT.
    Vtt,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }

    /// Whether it cannot be written without times.
    pub(super) fn is_timed(self) -> bool {
        matches!(self, Self::Srt | Self::Vtt)
    }
}

/// What was said between two times, in hundredths of a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) text: String,
}

/// All that was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Transcript {
    /// Its code; none where the model knows one language alone.
    pub(super) language: Option<String>,
    /// In hundredths of a second.
    pub(super) duration: usize,
    pub(super) said: Vec<Said>,
}

impl Transcript {
    /// Segments begin with the space that is before their first word.
    fn text(&self) -> String {
        self.said.iter().map(|said| said.text.as_str()).collect::<String>().trim().to_owned()
    }

    fn srt(&self) -> String {
        let cue = |(number, said): (usize, &Said)| {
            format!("{}\n{} --> {}\n{}\n\n", number + 1, time(said.start, ','), time(said.end, ','), line(said))
        };
        self.said.iter().enumerate().map(cue).collect()
    }

    fn vtt(&self) -> String {
        let cue = |said: &Said| format!("{} --> {}\n{}\n\n", time(said.start, '.'), time(said.end, '.'), line(said));
        format!("WEBVTT\n\n{}", self.said.iter().map(cue).collect::<String>())
    }

    /// The result of a request.
    pub(super) fn product(&self, request: &SpeechToTextRequest) -> Product {
        let settings = &request.settings;
        let mut value = Map::new();
        let file = match settings.format {
            Format::Json => {
                value.insert("text".into(), self.text().into());
                None
            }
            Format::Text => Some(("txt", "text/plain; charset=utf-8", format!("{}\n", self.text()))),
            Format::Srt => Some(("srt", "application/x-subrip", self.srt())),
            Format::Vtt => Some(("vtt", "text/vtt; charset=utf-8", self.vtt())),
        };
        if let Some(language) = &self.language {
            value.insert("language".into(), language.as_str().into());
        }
        value.insert("duration".into(), seconds(self.duration));
        if settings.timestamps && settings.format == Format::Json {
            let segment = |said: &Said| json!({ "start": seconds(said.start), "end": seconds(said.end), "text": said.text.trim() });
            value.insert("segments".into(), self.said.iter().map(segment).collect());
        }
        let file = file.map(|(extension, content_type, content)| Output {
            extension: extension.into(),
            content_type: content_type.into(),
            body: content.into(),
        });
        Product {
            outputs: file.into_iter().collect(),
            value: Some(value.into()),
            seed: None,
            parameters: self.told(request),
        }
    }

    fn told(&self, request: &SpeechToTextRequest) -> Map<String, Value> {
        let settings = &request.settings;
        let said: [(&str, Option<Value>); 5] = [
            ("language", self.language.as_deref().map(Value::from)),
            ("task", Some(if settings.translate { "translate" } else { "transcribe" }.into())),
            ("timestamps", Some(settings.timestamps.into())),
            ("prompt", settings.prompt.as_deref().map(Value::from)),
            ("format", Some(settings.format.name().into())),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn seconds(hundredths: usize) -> Value {
    (hundredths as f64 / 100.0).into()
}

/// A time of subtitles, with what is before milliseconds.
fn time(hundredths: usize, point: char) -> String {
    let (seconds, rest) = (hundredths / 100, hundredths % 100);
    format!("{:02}:{:02}:{:02}{point}{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, rest * 10)
}

/// A cue's text; an arrow would be read as a line of times, and an empty line as the cue's end.
fn line(said: &Said) -> String {
    let text = said.text.replace("-->", "->");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        let said = |start, end, text: &str| Said { start, end, text: text.into() };
        let said = vec![said(0, 152, " A cat."), said(364_002, 364_500, " A --> dog\n\nruns.")];
        Transcript { language: Some("en".into()), duration: 364_600, said }
    }

    fn product(format: Format, timestamps: bool) -> Product {
        let mut request = SpeechToTextRequest::plain(Vec::<u8>::new());
        (request.settings.format, request.settings.timestamps) = (format, timestamps);
        transcript().product(&request)
    }

    #[test]
    fn a_transcript_is_a_value() {
        let product_of = product(Format::Json, true);
        let wanted = json!({
            "text": "A cat. A --> dog\n\nruns.", "language": "en", "duration": 3646.0, "segments": [
                {"start": 0.0, "end": 1.52, "text": "A cat."},
                {"start": 3640.02, "end": 3645.0, "text": "A --> dog\n\nruns."},
            ],
        });
        assert_eq!((product_of.value, product_of.outputs.len()), (Some(wanted), 0));
        let told = json!({"language": "en", "task": "transcribe", "timestamps": true, "format": "json"});
        assert_eq!(Value::Object(product_of.parameters), told);
        assert_eq!(product(Format::Json, false).value.unwrap().get("segments"), None);
    }

    #[test]
    fn a_transcript_is_a_file() {
        let file = |format: Format| {
            let product = product(format, true);
            assert_eq!(product.value, Some(json!({"language": "en", "duration": 3646.0})));
            let file = &product.outputs[0];
            (file.extension.to_string(), String::from_utf8(file.body.to_vec()).unwrap())
        };
        assert_eq!(file(Format::Text), ("txt".into(), "A cat. A --> dog\n\nruns.\n".into()));
        let srt = "1\n00:00:00,000 --> 00:00:01,520\nA cat.\n\n2\n01:00:40,020 --> 01:00:45,000\nA -> dog\nruns.\n\n";
        assert_eq!(file(Format::Srt), ("srt".into(), srt.into()));
        let vtt =
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.520\nA cat.\n\n01:00:40.020 --> 01:00:45.000\nA -> dog\nruns.\n\n";
        assert_eq!(file(Format::Vtt), ("vtt".into(), vtt.into()));
    }
}
