//! `config.json` of a transformer, in its own words.

use serde::Deserialize;
use serde_json::{Value, json};

use super::layers::Activation;
use super::pack::Places;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported, within};

/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_LAYERS: usize = 256;
const MAX_WIDTH: usize = 1 << 20;

/// The architectures that are built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    /// RoBERTa, XLM-R and CamemBERT: BERT with other places.
    Roberta,
    Mpnet,
    DistilBert,
    ModernBert,
}

/// `model_type` of a config.json, and whose it is.
const FAMILIES: [(&str, Family); 7] = [
    ("bert", Family::Bert),
    ("roberta", Family::Roberta),
    ("xlm-roberta", Family::Roberta),
    ("camembert", Family::Roberta),
    ("mpnet", Family::Mpnet),
    ("distilbert", Family::DistilBert),
    ("modernbert", Family::ModernBert),
];

/// What a config says in the words of BERT or DistilBERT, and ModernBERT's.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    #[serde(alias = "dim")]
    pub(super) hidden_size: usize,
    #[serde(alias = "hidden_dim")]
    pub(super) intermediate_size: usize,
    #[serde(alias = "n_layers")]
    pub(super) num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    pub(super) num_attention_heads: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default, alias = "activation", alias = "hidden_activation")]
    pub(super) hidden_act: Activation,
    /// DistilBERT's is fixed, at BERT's default.
    #[serde(default = "bert_epsilon")]
    pub(super) layer_norm_eps: f64,
    #[serde(default = "two")]
    pub(super) type_vocab_size: usize,
    pad_token_id: Option<u32>,
    #[serde(default = "buckets")]
    pub(super) relative_attention_num_buckets: usize,
    #[serde(flatten)]
    pub(super) modern: Modern,
}

/// What only ModernBERT has.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Modern {
    #[serde(default = "modern_epsilon")]
    pub(super) norm_eps: f64,
    #[serde(default)]
    pub(super) norm_bias: bool,
    #[serde(default)]
    pub(super) attention_bias: bool,
    #[serde(default)]
    pub(super) mlp_bias: bool,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default = "every_third")]
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<LayerType>>,
    global_rope_theta: Option<f64>,
    local_rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RopeParameters {
    full_attention: Option<Theta>,
    sliding_attention: Option<Theta>,
}

#[derive(Debug, Clone, Deserialize)]
struct Theta {
    #[serde(default = "default_rope")]
    rope_type: String,
    rope_theta: Option<f64>,
}

fn bert_epsilon() -> f64 {
    1e-12
}

fn modern_epsilon() -> f64 {
    1e-5
}

fn two() -> usize {
    2
}

fn buckets() -> usize {
    32
}

fn window() -> usize {
    128
}

fn every_third() -> usize {
    3
}

fn default_rope() -> String {
    "default".into()
}

impl Config {
    /// Reads the config of the transformer that lies in `component`.
    pub(super) fn read(folder: &Folder, component: &str) -> Result<(Family, Self), LoadError> {
        let file = within(component, "config.json");
        let raw: Value = folder.json(&file)?;
        let known = FAMILIES.map(|(name, _)| name).join(", ");
        let named = raw.get("model_type").and_then(Value::as_str);
        let named = named.ok_or_else(|| corrupt(&file, &format!("it has no model_type ({known} are supported)")))?;
        let family = FAMILIES.iter().find(|(name, _)| *name == named).map(|(_, family)| *family);
        let other = || unsupported(&file, &format!("model_type is {named}; this task runs {known}"));
        let family = family.ok_or_else(other)?;
        let off = [json!(false), Value::Null];
        let absolute = [json!("absolute"), Value::Null];
        let fixed: [(&str, &[Value]); 3] =
            [("is_decoder", &off), ("add_cross_attention", &off), ("position_embedding_type", &absolute)];
        let config: Self = folder.config(&file, &fixed)?;
        config.check(family).map_err(|what| corrupt(&file, &what))?;
        config.modern.check().map_err(|what| unsupported(&file, &what))?;
        Ok((family, config))
    }

    fn check(&self, family: Family) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_WIDTH),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("max_position_embeddings", self.max_position_embeddings, MAX_WIDTH),
        ];
        if let Some((name, size, most)) = sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
            return Err(format!("{name} is {size}; it must be from 1 to {most}"));
        }
        let heads = self.num_attention_heads;
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            return Err(format!("{heads} num_attention_heads do not divide hidden_size {}", self.hidden_size));
        }
        if family == Family::ModernBert && !(self.hidden_size / heads).is_multiple_of(2) {
            return Err(format!("hidden_size {} in {heads} heads is odd, and cannot be turned", self.hidden_size));
        }
        if family == Family::Mpnet && !(4..=MAX_WIDTH).contains(&self.relative_attention_num_buckets) {
            return Err("relative_attention_num_buckets is below 4".into());
        }
        Ok(())
    }

    /// How the places of tokens are numbered.
    pub(super) fn places(&self, family: Family) -> Places {
        match family {
            Family::Roberta => Places::AfterPadding(self.pad_token_id.unwrap_or(1)),
            // whatever its pad_token_id is
            Family::Mpnet => Places::AfterPadding(1),
            Family::Bert | Family::DistilBert | Family::ModernBert => Places::FromZero,
        }
    }

    /// Width of a head.
    pub(super) fn head(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

impl Modern {
    fn check(&self) -> Result<(), String> {
        let parameters = self.rope_parameters.clone().unwrap_or_default();
        let kinds = [parameters.full_attention, parameters.sliding_attention].into_iter().flatten();
        match kinds.map(|kind| kind.rope_type).find(|kind| kind != "default") {
            Some(other) => Err(format!("rope_type is {other}; only default is supported")),
            None => Ok(()),
        }
    }

    /// Whether a layer's tokens see their whole text.
    pub(super) fn sees_all(&self, layer: usize) -> bool {
        match &self.layer_types {
            Some(types) => types.get(layer) == Some(&LayerType::FullAttention),
            None => layer.is_multiple_of(self.global_attn_every_n_layers.max(1)),
        }
    }

    /// How far the tokens of the other layers see.
    pub(super) fn reach(&self) -> usize {
        self.local_attention / 2
    }

    /// The base of the wavelengths of layers that see all, and of the others.
    pub(super) fn thetas(&self) -> (f64, f64) {
        let theta =
            |kind: fn(&RopeParameters) -> Option<&Theta>| self.rope_parameters.as_ref().and_then(kind)?.rope_theta;
        let all = theta(|all| all.full_attention.as_ref()).or(self.global_rope_theta);
        let near = theta(|all| all.sliding_attention.as_ref()).or(self.local_rope_theta);
        (all.unwrap_or(160_000.0), near.unwrap_or(10_000.0))
    }
}
