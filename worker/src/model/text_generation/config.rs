//! What a model is like: `config.json` in transformers' words, into which a GGUF file's metadata are brought as well.

use candle_core::{DType, Device};
use millrace_api::Precision;
use serde::Deserialize;
use serde_json::Value;

use super::rope::{RopeParameters, RopeType};
use crate::model::folder::{Folder, corrupt, unsupported};
use crate::model::{LoadError, device};

/// Where it lies in a folder.
pub(super) const FILE: &str = "config.json";
/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_LAYERS: usize = 1 << 10;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEAD: usize = 1 << 12;
const MAX_TOKENS: usize = 1 << 24;
/// What a Mistral's tokens see where its config does not say.
const MISTRALS_WINDOW: u64 = 4096;
/// For models that are not built here.
const ELSEWHERE: &str = "serve another model by task Http with a server such as vLLM (docs/text-generation.md)";

/// The architectures that are built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// `model_type` of a config.json, which is the architecture of a GGUF file as well, and whose it is.
const FAMILIES: [(&str, Family); 4] =
    [("llama", Family::Llama), ("mistral", Family::Mistral), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];

/// One number or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl Ids {
    pub(super) fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

/// How far the tokens of a layer see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// A checked config.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    pub(super) rms_norm_eps: f64,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    pub(super) mlp_bias: bool,
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    /// All that is said of places today, and what was said of them before.
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    rope_theta: Option<f64>,
    pub(super) eos_token_id: Option<Ids>,
    #[serde(alias = "torch_dtype")]
    dtype: Option<String>,
}

fn epsilon() -> f64 {
    1e-6
}

impl Config {
    /// Reads the config of a folder.
    pub(super) fn read(folder: &Folder) -> Result<(Family, Self), LoadError> {
        Self::of(FILE, folder.json(FILE)?)
    }

    /// Checks what `file` says.
    pub(super) fn of(file: &str, mut raw: Value) -> Result<(Family, Self), LoadError> {
        let named = raw.get("model_type").and_then(Value::as_str).unwrap_or("missing").to_owned();
        let family = FAMILIES.iter().find(|(name, _)| *name == named).map(|(_, family)| *family).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
            let what = format!("model_type is {named}; these are built here: {}; {ELSEWHERE}", known.join(", "));
            unsupported(file, &what)
        })?;
        if !raw.get("quantization_config").is_none_or(Value::is_null) {
            let what = format!("it has a quantization_config; take the model in BF16 or F16, or as GGUF; {ELSEWHERE}");
            return Err(unsupported(file, &what));
        }
        for (setting, only) in [("hidden_act", Value::from("silu")), ("partial_rotary_factor", Value::from(1.0))] {
            if let Some(other) = raw.get(setting).filter(|value| **value != only) {
                return Err(unsupported(
                    file,
                    &format!("{setting} is {other}; only {only} is built here; {ELSEWHERE}"),
                ));
            }
        }
        if let (Family::Mistral, Some(all)) = (family, raw.as_object_mut()) {
            all.entry("sliding_window").or_insert_with(|| MISTRALS_WINDOW.into());
        }
        let config: Self = serde_json::from_value(raw).map_err(|error| corrupt(file, &error.to_string()))?;
        config.check().map_err(|what| corrupt(file, &what))?;
        if let RopeType::Other(other) = config.rope().rope_type {
            let what = format!("rope_type is {other}; default, linear and llama3 are built here; {ELSEWHERE}");
            return Err(unsupported(file, &what));
        }
        Ok((family, config))
    }

    fn check(&self) -> Result<(), String> {
        let (heads, kept) = (self.num_attention_heads, self.kept_heads());
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_TOKENS),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", heads, MAX_WIDTH),
            ("num_key_value_heads", kept, MAX_WIDTH),
            ("head_dim", self.head(), MAX_HEAD),
            ("max_position_embeddings", self.max_position_embeddings, MAX_TOKENS),
            ("sliding_window", self.sliding_window.unwrap_or(1), usize::MAX),
        ];
        if let Some((name, size, most)) = sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            return Err(format!("{name} is {size}; it must be from 1 to {most}"));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            return Err(format!("{heads} num_attention_heads do not divide hidden_size {}", self.hidden_size));
        }
        if !heads.is_multiple_of(kept) {
            return Err(format!("{kept} num_key_value_heads do not divide {heads} num_attention_heads"));
        }
        if !self.head().is_multiple_of(2) {
            return Err(format!("heads have an odd width, {}, and cannot be turned", self.head()));
        }
        self.rope().check()
    }

    /// Width of a head.
    pub(super) fn head(&self) -> usize {
        self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Heads of keys and values, each of which serves as many of the queries' as the next.
    pub(super) fn kept_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Whether a family's products of query, key and value have a bias, and that of attention's output.
    pub(super) fn biases(&self, family: Family) -> (bool, bool) {
        match family {
            Family::Qwen2 => (true, false),
            Family::Mistral => (false, false),
            Family::Llama | Family::Qwen3 => (self.attention_bias, self.attention_bias),
        }
    }

    /// How many tokens a token of a layer sees, itself included; none for all.
    pub(super) fn window(&self, family: Family, layer: usize) -> Option<usize> {
        let slides = match (&self.layer_types, family) {
            (Some(types), _) => types.get(layer) == Some(&LayerType::SlidingAttention),
            (None, Family::Mistral) => true,
            (None, Family::Qwen2 | Family::Qwen3) => {
                self.use_sliding_window && layer >= self.max_window_layers.unwrap_or(0)
            }
            (None, Family::Llama) => false,
        };
        self.sliding_window.filter(|_| slides)
    }

    /// How places are told apart.
    pub(super) fn rope(&self) -> RopeParameters {
        let mut said = self.rope_parameters.clone().or_else(|| self.rope_scaling.clone()).unwrap_or_default();
        said.rope_theta = said.rope_theta.or(self.rope_theta);
        said
    }

    /// The numbers that it is computed in: on a GPU those that it was trained in, as Llamas and Qwens leave F16's range.
    pub(super) fn numbers(&self, precision: Precision, on: &Device) -> DType {
        match (precision, self.dtype.as_deref()) {
            (Precision::Auto, Some("bfloat16")) if on.is_cuda() => DType::BF16,
            _ => device::dtype(precision, on),
        }
    }
}
