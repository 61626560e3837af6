//! Models in one GGUF file, as llama.cpp's converter writes them: weights in blocks of few bits, which stay so, and the config as
//! metadata, which is brought into transformers' words.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as Field};
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Error, Result, Tensor};
use serde_json::{Value, json};

use super::config::{Config, Family};
use super::layers::{Embedding, Linear, Norm, Weights};
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unreadable, unsupported};
use crate::model::weights::{cause, explain};

/// What llama.cpp calls the parts of a block.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// And the rest.
const OTHERS: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// An open file.
pub(super) struct Gguf {
    name: String,
    content: Content,
    file: RefCell<BufReader<File>>,
    device: Device,
    /// Of the converter's Llamas, the heads of queries and of keys, whose rows it has rearranged.
    rearranged: Option<(usize, usize)>,
}

impl std::fmt::Debug for Gguf {
    /// Without its metadata: the vocabulary is among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Gguf {
    /// Opens the one of a folder that has no other weights; none of a folder in transformers' layout.
    pub(super) fn find(folder: &Folder, device: &Device) -> std::result::Result<Option<Self>, LoadError> {
        let Some(name) = folder.gguf()? else { return Ok(None) };
        Self::open(&folder.path(&name), name, device).map(Some)
    }

    fn open(path: &Path, name: String, device: &Device) -> std::result::Result<Self, LoadError> {
        let mut file = BufReader::new(File::open(path).map_err(|error| unreadable(&name, &error))?);
        let content = Content::read(&mut file)
            .map_err(|error| corrupt(&name, &format!("it is no whole GGUF file: {}", cause(&error))))?;
        if let Some(parts) =
            content.metadata.get("split.count").and_then(number).filter(|parts| parts.as_u64() > Some(1))
        {
            let what = format!("it is one of {parts} parts; join them with llama-gguf-split --merge");
            return Err(unsupported(&name, &what));
        }
        Ok(Self { name, content, file: RefCell::new(file), device: device.clone(), rearranged: None })
    }

    /// The model's config, in the words of transformers.
    pub(super) fn config(&mut self) -> std::result::Result<(Family, Config), LoadError> {
        let architecture = self.text("general.architecture").unwrap_or("missing").to_owned();
        let has = |tensor: &str| self.content.tensor_infos.contains_key(tensor);
        let of = |key: &str| self.content.metadata.get(&format!("{architecture}.{key}"));
        let vocabulary = self.content.tensor_infos.get("token_embd.weight").map(|info| info.shape.dims()[0]);
        // Mistrals are Llamas there, told apart by their window
        let window = of("attention.sliding_window").and_then(number);
        let family = if architecture == "llama" && window.is_some() { "mistral" } else { &architecture };
        let mut config = json!({
            "model_type": family, "vocab_size": vocabulary, "sliding_window": window,
            "tie_word_embeddings": !has("output.weight"), "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_gate.bias"),
            "eos_token_id": self.content.metadata.get("tokenizer.ggml.eos_token_id").and_then(number),
        });
        let all: [(&str, &str); 10] = [
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("num_key_value_heads", "attention.head_count_kv"),
            ("head_dim", "attention.key_length"),
            ("max_position_embeddings", "context_length"),
            ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
            ("rope_theta", "rope.freq_base"),
            ("use_sliding_window", "attention.use_sliding_window"),
        ];
        for (name, key) in all {
            if let Some(value) = of(key) {
                let what = || format!("{architecture}.{key} is no number: layers that differ are not built here");
                config[name] = number(value).ok_or_else(|| unsupported(&self.name, &what()))?;
            }
        }
        if let Some(kind) =
            of("rope.scaling.type").and_then(|kind| kind.to_string().ok()).filter(|kind| *kind != "none")
        {
            config["rope_scaling"] = json!({ "rope_type": kind, "factor": of("rope.scaling.factor").and_then(number) });
        }
        let (family, config) = Config::of(&self.name, config)?;
        self.rearranged = matches!(family, Family::Llama | Family::Mistral)
            .then(|| (config.num_attention_heads, config.kept_heads()));
        Ok((family, config))
    }

    /// The chat template that the file brings, if it does.
    pub(super) fn template(&self) -> Option<(&str, String)> {
        Some((&self.name, self.text("tokenizer.chat_template")?.to_owned()))
    }

    /// The tokens that begin and end texts.
    pub(super) fn marks(&self) -> [Option<u32>; 2] {
        ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"]
            .map(|key| self.content.metadata.get(key).and_then(number)?.as_u64()?.try_into().ok())
    }

    /// Radians from one place to the next, for each pair of a head: the config's, by the factors that the converter has
    /// written down for those of Llama 3.
    pub(super) fn frequencies(&self, config: &Config) -> std::result::Result<Vec<f64>, LoadError> {
        let plain = config.rope().frequencies(config.head());
        if !self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Ok(plain);
        }
        let factors = self.whole("rope_freqs.weight", &[plain.len()]).and_then(|factors| factors.to_vec1::<f32>());
        let factors = factors.map_err(|error| explain(&self.name, &HashMap::new(), &error))?;
        Ok(plain.iter().zip(factors).map(|(frequency, factor)| frequency / f64::from(factor)).collect())
    }

    /// Builds a model from this file.
    pub(super) fn build<M>(&self, make: impl FnOnce(&Self) -> Result<M>) -> std::result::Result<M, LoadError> {
        make(self).map_err(|error| explain(&self.name, &HashMap::new(), &error))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    /// A tensor as it lies in the file.
    fn read(&self, name: &str, shape: &[usize]) -> Result<QTensor> {
        let missing = || Error::CannotFindTensor { path: name.to_owned() };
        let info = self.content.tensor_infos.get(name).ok_or_else(missing)?;
        if info.shape.dims() != shape {
            let found = info.shape.dims();
            return Err(Error::Msg(format!("tensor {name} has shape {found:?} where the metadata ask for {shape:?}")));
        }
        self.content.tensor(&mut *self.file.borrow_mut(), name, &self.device)
    }

    /// A tensor of plain numbers.
    fn whole(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.read(name, shape)?.dequantize(&self.device)
    }

    /// Heads whose rows are to be brought back into their order, of queries and keys.
    fn heads_of(&self, part: &str) -> Option<usize> {
        let (queries, keys) = self.rearranged?;
        match part {
            part if part.ends_with(".attn_q") => Some(queries),
            part if part.ends_with(".attn_k") => Some(keys),
            _ => None,
        }
    }
}

/// A number of the metadata as JSON has it.
fn number(field: &Field) -> Option<Value> {
    match field {
        Field::F32(value) => Some(json!(value)),
        Field::F64(value) => Some(json!(value)),
        Field::Bool(value) => Some(json!(value)),
        Field::I8(value) => Some(json!(value)),
        Field::I16(value) => Some(json!(value)),
        Field::I32(value) => Some(json!(value)),
        Field::I64(value) => Some(json!(value)),
        other => other.to_u64().ok().map(|value| json!(value)),
    }
}

/// llama.cpp's name of a part.
fn translated(name: &str) -> String {
    if let Some((_, own)) = OTHERS.iter().find(|(known, _)| *known == name) {
        return (*own).to_owned();
    }
    let part = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let known = part.and_then(|(layer, part)| Some((layer, PARTS.iter().find(|(known, _)| *known == part)?.1)));
    known.map_or_else(|| name.to_owned(), |(layer, own)| format!("blk.{layer}.{own}"))
}

/// Where each row of a matrix comes from. The converter has put the two halves of each of its Llamas' heads in turns, as llama.cpp turns
/// neighbours and transformers the first half with the second; rows are whole blocks, so nothing is rounded.
fn row_order(rows: usize, heads: usize) -> impl Iterator<Item = usize> {
    let head = rows / heads.max(1);
    (0..rows).map(move |row| {
        let (of, within) = (row / head * head, row % head);
        of + 2 * (within % (head / 2)) + within / (head / 2)
    })
}

/// The same matrix with its rows in transformers' order.
fn in_order(matrix: &QTensor, heads: usize, device: &Device) -> Result<QTensor> {
    let rows = matrix.shape().dims()[0];
    let data = matrix.data()?;
    let bytes = data.len() / rows;
    let sorted: Vec<u8> = row_order(rows, heads).flat_map(|row| &data[row * bytes..][..bytes]).copied().collect();
    QTensor::new(QStorage::from_data(sorted.into(), device, matrix.dtype())?, matrix.shape())
}

impl Weights for Gguf {
    fn linear(&self, name: &str, inputs: usize, outputs: usize, biased: bool) -> Result<Linear> {
        let part = translated(name);
        let heads = self.heads_of(&part);
        let weight = self.read(&format!("{part}.weight"), &[outputs, inputs])?;
        let weight = match heads {
            Some(heads) => in_order(&weight, heads, &self.device)?,
            None => weight,
        };
        let bias = biased.then(|| self.whole(&format!("{part}.bias"), &[outputs])).transpose()?;
        let bias = match (bias, heads) {
            (Some(bias), Some(heads)) => {
                let order: Vec<u32> = row_order(outputs, heads).map(|row| row as u32).collect();
                Some(bias.index_select(&Tensor::new(order, &self.device)?, 0)?)
            }
            (bias, _) => bias,
        };
        Ok(Linear::Quantized { weight: QMatMul::from_qtensor(weight)?, bias })
    }

    fn norm(&self, name: &str, width: usize, epsilon: f64) -> Result<Norm> {
        let weight = self.whole(&format!("{}.weight", translated(name)), &[width])?;
        Ok(Norm { weight, epsilon: epsilon as f32 })
    }

    fn embedding(&self, name: &str, tokens: usize, width: usize) -> Result<Embedding> {
        let weight = self.read(&format!("{}.weight", translated(name)), &[tokens, width])?;
        match weight.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => weight.dequantize(&self.device).map(Embedding::Whole),
            _ => Ok(Embedding::Quantized(weight)),
        }
    }
}
