//! GGUF files, written here as llama.cpp's converter writes them.

use std::collections::BTreeMap;
use std::fs::File;

use candle_core::quantized::gguf_file::{self, Value as Field};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::super::rope::RopeParameters;
use super::*;

const NAMES: [(&str, &str); 15] = [
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_norm.", "attn_q_norm."),
    ("self_attn.k_norm.", "attn_k_norm."),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.up_proj.", "ffn_up."),
    ("mlp.down_proj.", "ffn_down."),
];

/// The rows of queries or keys of a Llama, as the converter puts them: (heads, 2, half a head, …) becomes (heads, half a head, 2, …).
fn rearranged(tensor: &Tensor, heads: usize) -> Tensor {
    let shape = tensor.dims().to_vec();
    let half = shape[0] / heads / 2;
    let inner: usize = shape[1..].iter().product();
    tensor.reshape((heads, 2, half, inner)).unwrap().transpose(1, 2).unwrap().reshape(shape).unwrap()
}

/// Puts a GGUF file in the place of a model's config and weights.
fn convert(model: &Path, dtype: GgmlDType, more: &[(&str, Field)]) {
    let config: Value = serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
    let family = config["model_type"].as_str().unwrap();
    let llama = ["llama", "mistral"].contains(&family);
    let number = |name: &str| config[name].as_u64().unwrap();
    let mut fields: BTreeMap<String, Field> = BTreeMap::new();
    let architecture = if llama { "llama" } else { family };
    fields.insert("general.architecture".into(), Field::String(architecture.into()));
    fields.insert("tokenizer.ggml.bos_token_id".into(), Field::U32(0));
    fields.insert("tokenizer.ggml.eos_token_id".into(), Field::U32(1));
    for (key, name) in [
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("block_count", "num_hidden_layers"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
    ] {
        fields.insert(format!("{architecture}.{key}"), Field::U32(number(name) as u32));
    }
    if let Some(head) = config["head_dim"].as_u64() {
        fields.insert(format!("{architecture}.attention.key_length"), Field::U32(head as u32));
    }
    let epsilon = config["rms_norm_eps"].as_f64().unwrap() as f32;
    fields.insert(format!("{architecture}.attention.layer_norm_rms_epsilon"), Field::F32(epsilon));
    if family == "mistral" {
        let window = number("sliding_window") as u32;
        fields.insert("llama.attention.sliding_window".into(), Field::U32(window));
    }
    fields.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));

    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    for (name, tensor) in weights {
        let heads = match () {
            () if llama && name.contains("q_proj") => Some(number("num_attention_heads")),
            () if llama && name.contains("k_proj") => Some(number("num_key_value_heads")),
            () => None,
        };
        let tensor = heads.map_or(tensor.clone(), |heads| rearranged(&tensor, heads as usize));
        let name = NAMES.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
        tensors.push((name, QTensor::quantize(&tensor.contiguous().unwrap(), dtype).unwrap()));
    }
    if let Some(theta) = config.pointer("/rope_parameters/factor").map(|_| &config["rope_parameters"]) {
        let rope: RopeParameters = serde_json::from_value(theta.clone()).unwrap();
        let plain: RopeParameters = serde_json::from_value(json!({ "rope_theta": theta["rope_theta"] })).unwrap();
        let head = 8;
        let factors: Vec<f32> =
            plain.frequencies(head).iter().zip(rope.frequencies(head)).map(|(a, b)| (a / b) as f32).collect();
        let factors = Tensor::new(factors, &Device::Cpu).unwrap();
        tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&factors, GgmlDType::F32).unwrap()));
    }
    let fields: Vec<(&str, &Field)> = fields.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(model.join("model.gguf")).unwrap(), &fields, &tensors).unwrap();
    for file in ["config.json", "model.safetensors", "generation_config.json", "tokenizer_config.json"] {
        std::fs::remove_file(model.join(file)).unwrap();
    }
}

fn logits(model: &Path) -> Vec<f32> {
    let engine = load_cpu(model).unwrap();
    let tokens = engine.model.tokenizer.tokens("how many jobs wait in the queue", true).unwrap();
    let cache = engine.model.decoder.cache(tokens.len());
    engine.model.decoder.forward(&mut [Piece { tokens, cache }]).unwrap().remove(0)
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).fold(0.0, |far, (a, b)| far.max((a - b).abs()))
}

#[test]
fn a_file_of_whole_numbers_is_the_same_model() {
    for family in ["llama", "llama-linear", "qwen3", "mistral"] {
        let (_dir, model) = golden::generation_model(family, 1);
        let known = logits(&model);
        let theta = Field::F32(if family == "llama-linear" { 500.0 } else { 10_000.0 });
        let architecture = if family == "qwen3" { "qwen3" } else { "llama" };
        convert(&model, GgmlDType::F32, &[(&format!("{architecture}.rope.freq_base"), theta)]);
        let far = apart(&logits(&model), &known);
        assert!(far < 1e-4, "{family}: {far}");
    }
}

/// Written by llama.cpp's own package (bench/parity).
#[test]
fn a_converted_model_gives_the_logits_of_transformers() {
    let goldens: Value = serde_json::from_str(&golden::text("generation/cases.json")).unwrap();
    let model = golden::generation_gguf("llama.gguf");
    let engine = load_cpu(model.path()).unwrap();
    for (index, prompt) in goldens["prompts"].as_array().unwrap().iter().enumerate() {
        let tokens = engine.model.tokenizer.tokens(prompt["text"].as_str().unwrap(), true).unwrap();
        let cache = engine.model.decoder.cache(tokens.len());
        let found = engine.model.decoder.forward(&mut [Piece { tokens, cache }]).unwrap().remove(0);
        let known = &golden::tensors("generation/generation.safetensors")[&format!("llama.{index}")];
        let far = apart(&found, &known.get(0).unwrap().to_vec1::<f32>().unwrap());
        assert!(far < 2e-4, "{prompt}: {far}");
    }
}

#[test]
fn blocks_of_few_bits_are_nearly_the_same_model() {
    let (_dir, model) = made();
    let known = logits(&model);
    let spread = known.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    convert(&model, GgmlDType::Q8_0, &[]);
    let mut engine = load_cpu(&model).unwrap();
    let far = apart(&logits(&model), &known) / spread;
    assert!(far > 0.0 && far < 0.03, "{far}");
    let jobs: Vec<Value> = ["a cat", "the old king of the sea", "x"]
        .map(|prompt| json!({"prompt": prompt, "max_tokens": 12, "temperature": 0}))
        .into();
    let together = engine.run(&jobs.iter().cloned().map(item).collect::<Vec<_>>());
    for (job, found) in jobs.into_iter().zip(together) {
        assert_eq!(text(found), text(engine.run(&[item(job)]).remove(0)));
    }
}

#[test]
fn a_file_brings_its_template_and_its_ends() {
    let (_dir, model) = made();
    let template = Field::String("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".into());
    convert(&model, GgmlDType::F32, &[("tokenizer.chat_template", template)]);
    let engine = load_cpu(&model).unwrap();
    let message = object(json!({"role": "user", "content": "a"}));
    assert_eq!(engine.model.chat.unwrap().render(&[message]).unwrap(), "<|begin|>a<|end|>");
    assert_eq!((engine.model.ends, engine.model.context), (vec![1], 256));
}

/// Metadata, the reason of what is wrong with them, and words of it.
type Case<'a> = (&'a [(&'a str, Field)], &'a str, &'a [&'a str]);

#[test]
fn a_file_that_is_wrong_is_named_with_what_is_wrong() {
    let text = |text: &str| Field::String(text.into());
    let cases: [Case; 6] = [
        (&[("general.architecture", text("gemma"))], "ModelUnsupported", &["model.gguf", "gemma", "llama", "vLLM"]),
        (&[("llama.rope.scaling.type", text("yarn"))], "ModelUnsupported", &["rope_type is yarn"]),
        (&[("split.count", Field::U16(3))], "ModelUnsupported", &["one of 3 parts", "--merge"]),
        (&[("llama.block_count", Field::U32(3))], "ModelCorrupt", &["model.gguf", "no tensor blk.2.attn_norm.weight"]),
        (
            &[("llama.feed_forward_length", Field::U32(32))],
            "ModelCorrupt",
            &["tensor blk.0.ffn_gate.weight has shape [64, 32] where the metadata ask for [32, 32]"],
        ),
        (
            &[("llama.attention.head_count_kv", Field::Array(vec![Field::U32(1), Field::U32(2)]))],
            "ModelUnsupported",
            &["head_count_kv is no number"],
        ),
    ];
    let check = |model: &Path, reason: &str, words: &[&str]| {
        let error = load_cpu(model).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{words:?}: {error}");
    };
    for (fields, reason, words) in cases {
        let (_dir, model) = made();
        convert(&model, GgmlDType::F32, fields);
        check(&model, reason, words);
    }
    let (_dir, model) = made();
    convert(&model, GgmlDType::F32, &[]);
    std::fs::copy(model.join("model.gguf"), model.join("other.gguf")).unwrap();
    check(&model, "ModelFileMissing", &["model.gguf, other.gguf", "variant"]);
    std::fs::write(model.join("other.gguf"), "GGUF").unwrap();
    std::fs::remove_file(model.join("model.gguf")).unwrap();
    check(&model, "ModelCorrupt", &["other.gguf", "no whole GGUF file"]);
    let (_dir, model) = made();
    convert(&model, GgmlDType::F32, &[]);
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    check(&model, "ModelFileMissing", &["tokenizer.json", "beside it"]);
}
