//! Texts as a job's result: a JSON value in OpenAI's words, or files of plain text beside it.

use serde_json::{Map, Value, json};

use super::request::{Ask, TextGenerationRequest};
use super::sampler::Sampling;
use crate::model::{Output, Product};

/// How texts are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// In the result record's own value.
    Json,
    /// Each in a file; the value has the rest.
    Text,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// By a token that ends texts, or a text that the job named.
    Stop,
    /// It has as many tokens as it may.
    Length,
}

/// What came of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) reason: FinishReason,
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
}

impl Written {
    fn value(&self, format: Format) -> Value {
        let reason = match self.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        let mut value = Map::new();
        if format == Format::Json {
            value.insert("text".into(), self.text.as_str().into());
        }
        value.insert("finish_reason".into(), reason.into());
        let (prompt, completion) = (self.prompt_tokens, self.completion_tokens);
        let usage =
            json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
        value.insert("usage".into(), usage);
        value.into()
    }
}

/// The result of a request, whose texts these are; `sampling` is how their tokens were drawn.
pub(super) fn product(request: &TextGenerationRequest, sampling: &Sampling, written: &[Written]) -> Product {
    let format = request.settings.format;
    let mut values: Vec<Value> = written.iter().map(|one| one.value(format)).collect();
    let value = match &request.ask {
        Ask::Prompts { several: true, .. } => Some(Value::Array(values)),
        Ask::Prompts { .. } | Ask::Messages(_) => values.pop(),
    };
    let file = |one: &Written| Output {
        extension: "txt".into(),
        content_type: "text/plain; charset=utf-8".into(),
        body: one.text.clone().into(),
    };
    let outputs = if format == Format::Text { written.iter().map(file).collect() } else { Vec::new() };
    Product { outputs, value, seed: Some(request.seed), parameters: told(request, sampling) }
}

fn told(request: &TextGenerationRequest, sampling: &Sampling) -> Map<String, Value> {
    let settings = &request.settings;
    let drawn = sampling.temperature > 0.0;
    let said: [(&str, Option<Value>); 9] = [
        ("max_tokens", settings.max_tokens.map(Value::from)),
        ("temperature", Some(sampling.temperature.into())),
        ("top_p", drawn.then(|| sampling.top_p.into())),
        ("top_k", drawn.then(|| sampling.top_k.into())),
        ("min_p", drawn.then(|| sampling.min_p.into())),
        ("repetition_penalty", Some(sampling.repetition_penalty.into())),
        ("stop", (!settings.stop.is_empty()).then(|| settings.stop.clone().into())),
        ("seed", Some(request.seed.into())),
        ("format", Some(settings.format.name().into())),
    ];
    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: Sampling = Sampling { temperature: 0.5, top_k: 0, top_p: 0.9, min_p: 0.0, repetition_penalty: 1.0 };

    fn request(several: bool, format: Format) -> TextGenerationRequest {
        let mut request = TextGenerationRequest::plain("a", 5);
        request.ask = Ask::Prompts { prompts: vec!["a".into()], several };
        request.settings.format = format;
        request
    }

    fn written(text: &str, reason: FinishReason) -> Written {
        Written { text: text.into(), reason, prompt_tokens: 3, completion_tokens: 5 }
    }

    #[test]
    fn a_text_is_a_value_in_openais_words() {
        let product = product(&request(false, Format::Json), &SAMPLING, &[written("b", FinishReason::Length)]);
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8});
        assert_eq!(product.value, Some(json!({"text": "b", "finish_reason": "length", "usage": usage})));
        assert!(product.outputs.is_empty() && product.seed == Some(0));
        let told = json!({
            "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
            "seed": 0, "format": "json",
        });
        assert_eq!(Value::Object(product.parameters), told);
    }

    #[test]
    fn several_are_a_list_and_files_are_plain() {
        let both = [written("b", FinishReason::Stop), written("c", FinishReason::Stop)];
        let product = product(&request(true, Format::Text), &SAMPLING, &both);
        let value = product.value.unwrap();
        assert_eq!((value[1]["finish_reason"].as_str(), value[1].get("text")), (Some("stop"), None));
        let files: Vec<_> = product.outputs.iter().map(|file| (&*file.extension, &file.body[..])).collect();
        assert_eq!(files, [("txt", &b"b"[..]), ("txt", &b"c"[..])]);
    }
}
