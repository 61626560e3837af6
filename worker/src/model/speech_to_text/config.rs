//! What a model is like: `config.json` and `generation_config.json`, in transformers' words.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::rules::Marks;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported};

/// Where they lie in a folder.
pub(super) const FILE: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_LAYERS: usize = 1 << 8;
const MAX_WIDTH: usize = 1 << 16;
const MAX_PLACES: usize = 1 << 16;
const MAX_TOKENS: usize = 1 << 24;
const MAX_BANDS: usize = 512;

/// A checked config.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) num_mel_bins: usize,
    pub(super) d_model: usize,
    pub(super) encoder_layers: usize,
    pub(super) encoder_attention_heads: usize,
    pub(super) encoder_ffn_dim: usize,
    pub(super) decoder_layers: usize,
    pub(super) decoder_attention_heads: usize,
    pub(super) decoder_ffn_dim: usize,
    /// Places of a window, of 20 ms each.
    pub(super) max_source_positions: usize,
    /// Tokens of a window's text, with all that is before it.
    pub(super) max_target_positions: usize,
}

impl Config {
    /// Reads the config of a folder.
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let Kind { model_type } = folder.json(FILE)?;
        if model_type.as_deref() != Some("whisper") {
            let named = model_type.unwrap_or_else(|| "missing".into());
            let what = format!(
                "model_type is {named}; whisper is built here; serve another model by task Http (docs/bring-your-own-server.md)"
            );
            return Err(unsupported(FILE, &what));
        }
        let fixed: [(&str, &[Value]); 3] = [
            ("activation_function", &[json!("gelu")]),
            ("scale_embedding", &[json!(false)]),
            ("tie_word_embeddings", &[json!(true)]),
        ];
        let config: Self = folder.config(FILE, &fixed)?;
        config.check().map_err(|what| corrupt(FILE, &what))?;
        config.check_hearing(folder)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_TOKENS),
            ("num_mel_bins", self.num_mel_bins, MAX_BANDS),
            ("d_model", self.d_model, MAX_WIDTH),
            ("encoder_layers", self.encoder_layers, MAX_LAYERS),
            ("encoder_attention_heads", self.encoder_attention_heads, MAX_WIDTH),
            ("encoder_ffn_dim", self.encoder_ffn_dim, MAX_WIDTH),
            ("decoder_layers", self.decoder_layers, MAX_LAYERS),
            ("decoder_attention_heads", self.decoder_attention_heads, MAX_WIDTH),
            ("decoder_ffn_dim", self.decoder_ffn_dim, MAX_WIDTH),
            ("max_source_positions", self.max_source_positions, MAX_PLACES),
            ("max_target_positions", self.max_target_positions, MAX_PLACES),
        ];
        if let Some((name, size, most)) = sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            return Err(format!("{name} is {size}; it must be from 1 to {most}"));
        }
        for (name, heads) in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            if !self.d_model.is_multiple_of(heads) {
                return Err(format!("{heads} {name} do not divide d_model, {}", self.d_model));
            }
        }
        Ok(())
    }

    /// Audio is made features in one way; a folder that asks for another would be misheard.
    fn check_hearing(&self, folder: &Folder) -> Result<(), LoadError> {
        #[derive(Deserialize)]
        struct Hearing {
            feature_size: Option<usize>,
        }
        if !folder.has(PREPROCESSOR) {
            return Ok(());
        }
        let fixed: [(&str, &[Value]); 4] = [
            ("sampling_rate", &[json!(16_000)]),
            ("n_fft", &[json!(400)]),
            ("hop_length", &[json!(160)]),
            ("do_normalize", &[json!(false)]),
        ];
        let Hearing { feature_size } = folder.config(PREPROCESSOR, &fixed)?;
        match feature_size.filter(|bands| *bands != self.num_mel_bins) {
            Some(bands) => {
                let bins = self.num_mel_bins;
                Err(corrupt(PREPROCESSOR, &format!("feature_size is {bands}, and num_mel_bins of {FILE} is {bins}")))
            }
            None => Ok(()),
        }
    }

    /// Frames of 10 ms in a window.
    pub(super) fn window(&self) -> usize {
        2 * self.max_source_positions
    }
}

/// `generation_config.json`.
#[derive(Debug, Clone, Deserialize)]
struct Generation {
    decoder_start_token_id: u32,
    eos_token_id: u32,
    no_timestamps_token_id: u32,
    #[serde(default)]
    lang_to_id: BTreeMap<String, u32>,
    #[serde(default)]
    task_to_id: BTreeMap<String, u32>,
    #[serde(default)]
    is_multilingual: Option<bool>,
    prev_sot_token_id: Option<u32>,
    suppress_tokens: Option<Vec<u32>>,
    begin_suppress_tokens: Option<Vec<u32>>,
    max_initial_timestamp_index: Option<u32>,
    max_length: Option<usize>,
}

/// Reads the marks of a folder, and how many tokens a window's text has at most, with all that is before it.
pub(super) fn read_marks(folder: &Folder, config: &Config) -> Result<(Marks, usize), LoadError> {
    let found: Generation = folder.json(GENERATION)?;
    let multilingual = found.is_multilingual.unwrap_or(!found.lang_to_id.is_empty());
    let task = |name: &str| found.task_to_id.get(name).copied().filter(|_| multilingual);
    let marks = Marks {
        start: found.decoder_start_token_id,
        end: found.eos_token_id,
        transcribe: task("transcribe"),
        translate: task("translate"),
        no_times: found.no_timestamps_token_id,
        previous: found.prev_sot_token_id,
        suppress: found.suppress_tokens.unwrap_or_default(),
        suppress_first: found.begin_suppress_tokens.unwrap_or_default(),
        latest_first: found.max_initial_timestamp_index,
        languages: if multilingual { codes(found.lang_to_id) } else { BTreeMap::new() },
    };
    let named = [
        ("decoder_start_token_id", marks.start),
        ("eos_token_id", marks.end),
        ("prev_sot_token_id", marks.previous.unwrap_or(0)),
    ];
    let named = named.into_iter().chain([
        // behind it are the times, of which a window has one for each place and one for its end
        ("no_timestamps_token_id", marks.no_times.saturating_add(1)),
        ("task_to_id", marks.transcribe.max(marks.translate).unwrap_or(0)),
        ("lang_to_id", marks.languages.values().copied().max().unwrap_or(0)),
    ]);
    let known = config.vocab_size;
    if let Some((name, token)) = named.into_iter().find(|(_, token)| *token as usize >= known) {
        return Err(corrupt(GENERATION, &format!("{name} is {token}, and the model knows {known} tokens")));
    }
    if marks.end > marks.no_times {
        return Err(corrupt(
            GENERATION,
            "eos_token_id is behind no_timestamps_token_id: texts could not be told from times",
        ));
    }
    let most = found.max_length.unwrap_or(usize::MAX).min(config.max_target_positions);
    Ok((marks, most))
}

/// `<|en|>` is the language en.
fn codes(tokens: BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    let code = |token: &str| token.trim_start_matches("<|").trim_end_matches("|>").to_owned();
    tokens.into_iter().map(|(token, number)| (code(&token), number)).collect()
}
